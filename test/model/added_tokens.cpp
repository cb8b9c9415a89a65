// Where added tokens are found, and in whose text.

#include <boost/test/unit_test.hpp>

#include "model/error.hpp"
#include "test/model/small_tokenizer.hpp"

using namespace convoy;
using namespace convoy::model;
using namespace convoy::test;

namespace {

using Ids = std::vector<int32_t>;

}  // namespace

BOOST_AUTO_TEST_CASE(a_control_token_is_one_only_in_trusted_text) {
  const auto t = small();
  BOOST_TEST(encode(*t, {{"<|x|>", true}}) == Ids{300}, boost::test_tools::per_element());
  const Ids plain = encode(*t, {{"<|x|>", false}});
  BOOST_TEST(plain.size() == 5);
  BOOST_TEST(t->decode(plain) == "<|x|>");
  BOOST_TEST(encode(*t, {{"<think>", false}}).size() == 7);
  BOOST_TEST(encode(*t, {{"<late>", true}}) == Ids{305}, boost::test_tools::per_element());
  BOOST_TEST(encode(*t, {{"<late>", false}}).size() == 6);
}

BOOST_AUTO_TEST_CASE(a_control_token_that_reaches_into_untrusted_text_is_text) {
  const auto t = small();
  for (const auto& segments : std::vector<std::vector<Segment>>{{{"<|x", true}, {"|>", false}},
                                                                {{"<|", false}, {"x|>", true}},
                                                                {{"<|", true}, {"x", false}, {"|>", true}}}) {
    BOOST_TEST(t->encode(segments).size() == 5);
  }
  // The longer token reaches into the user's text, the shorter does not.
  const Ids ids = encode(*t, {{"<|x|>", true}, {"y", false}});
  BOOST_TEST(ids == (Ids{300, t->id_of("y").value()}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(plain_text_of_neighbouring_segments_is_encoded_as_one) {
  const auto t = small();
  const Ids joined = encode(*t, {{"<|x|>a", true}, {"b", false}, {"c", true}});
  BOOST_TEST(joined == (Ids{300, 257}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(added_tokens_match_the_longest_and_keep_their_flags) {
  const auto t = small();
  BOOST_TEST(t->encode("<|x|>y", true) == Ids{301}, boost::test_tools::per_element());
  BOOST_TEST(t->encode(" \n [strip]\t <|x|>", true) == (Ids{303, 300}), boost::test_tools::per_element());
  BOOST_TEST(t->encode("word", true) == Ids{304}, boost::test_tools::per_element());
  BOOST_TEST(t->encode("sword", true).size() == 5);
  BOOST_TEST(t->encode("wordé", true).size() == 6);
  // The blanks that a control token strips may be the user's, as in the reference.
  BOOST_TEST(encode(*t, {{"  ", false}, {"[strip]", true}}) == Ids{303}, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(letters_whose_bytes_no_text_has_may_be_added_tokens_and_are_found_in_anyones_text) {
  const auto with_letter = [](const std::string& letter, bool special) {
    TokenizerParts parts = small_parts();
    std::erase_if(parts.vocabulary, [&](const auto& token) { return token.first == letter; });
    parts.added.push_back({.id = 310, .content = letter, .normalized = !special, .special = special});
    return make_tokenizer(std::move(parts));
  };
  const auto t = with_letter("ü", false);
  for (const bool control : {false, true}) {
    const Ids ids = t->encode("abcüa", control);
    BOOST_TEST(ids == (Ids{257, 310, t->id_of("a").value()}), boost::test_tools::per_element());
    BOOST_TEST(t->decode(ids) == "abcüa");
  }
  BOOST_TEST(t->encode("abcüa", false).size() == small()->encode("abcüa", false).size() - 1);
  BOOST_TEST(!t->is_control(310));
  // A control token is not the user's to write, and the bytes of ä are in every text that has a 漢.
  BOOST_TEST(with_letter("ü", true)->encode("ü", true) == Ids{310}, boost::test_tools::per_element());
  BOOST_TEST(with_letter("ü", true)->encode("ü", false).size() == 2u);
  BOOST_CHECK_THROW(with_letter("ä", false), InputError);
}

BOOST_AUTO_TEST_CASE(words_and_blanks_may_be_added_tokens_and_are_found_in_anyones_text) {
  TokenizerParts parts = small_parts();
  parts.added.push_back({.id = 310, .content = "    "});
  parts.added.push_back({.id = 311, .content = "día", .normalized = true});
  const auto t = make_tokenizer(std::move(parts));
  for (const bool control : {false, true}) {
    BOOST_TEST(t->encode("abc    día", control) == (Ids{257, 310, 311}), boost::test_tools::per_element());
    BOOST_TEST(t->encode("word", control) == Ids{304}, boost::test_tools::per_element());
  }
  BOOST_TEST(encode(*t, {{"  ", true}, {"  ab", false}}) == (Ids{310, 256}),
             boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_word_that_fills_up_batches_is_a_word) {
  const auto with_word = [](const char* eos, const char* pad) {
    TokenizerParts parts = small_parts();
    parts.added.push_back({.id = 257, .content = "abc", .special = true});
    parts.eos = eos;
    parts.pad = pad;
    return make_tokenizer(std::move(parts));
  };
  const auto t = with_word("<|x|>", "abc");
  for (const bool control : {false, true})
    BOOST_TEST(t->encode("abcab", control) == (Ids{257, 256}), boost::test_tools::per_element());
  BOOST_TEST(!t->is_control(257));
  BOOST_TEST(t->decode(Ids{257, 256}, true) == "abcab");
  BOOST_TEST(with_word("abc", "abc")->is_control(257));
}

BOOST_AUTO_TEST_CASE(a_gguf_whose_padding_is_a_plain_word_has_that_word) {
  TokenizerParts parts = small_parts();
  std::erase_if(parts.vocabulary, [](const auto& token) { return token.first == "abc"; });
  parts.added.push_back({.id = 257, .content = "abc", .special = true});
  parts.pad = "abc";
  const auto t = make_tokenizer(std::move(parts));
  BOOST_TEST(t->encode("abcab", false) == (Ids{257, 256}), boost::test_tools::per_element());
  BOOST_TEST(!t->is_control(257));
}

BOOST_AUTO_TEST_CASE(a_control_token_that_merging_could_make_is_spelled_out_where_a_user_writes_it) {
  TokenizerParts parts = small_parts();
  parts.vocabulary.emplace_back("abcc", 290);
  parts.merges.emplace_back("abc", "c");
  parts.added.push_back({.id = 257, .content = "abc", .special = true});
  const auto t = make_tokenizer(std::move(parts));
  const int32_t c = t->id_of("c").value(), d = t->id_of("d").value();
  BOOST_TEST(t->encode("abcd", true) == (Ids{257, d}), boost::test_tools::per_element());
  BOOST_TEST(t->encode("abcd", false) == (Ids{256, c, d}), boost::test_tools::per_element());
  BOOST_TEST(t->encode("abcc", false) == Ids{290}, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(an_added_token_that_is_normalized_is_sought_in_form_c_where_text_is_trusted) {
  TokenizerParts parts = small_parts();
  parts.normalizer = {{NormalStep::Kind::nfc, "", ""}};
  parts.added.push_back({.id = 310, .content = "<e\u0301>", .normalized = true});
  const auto t = make_tokenizer(std::move(parts));
  const auto found = [&](std::vector<Segment> segments) {
    return std::ranges::count(encode(*t, std::move(segments)), 310);
  };
  for (const char* text : {"<\u00e9>", "<e\u0301>"}) {
    BOOST_TEST(found({{text, true}}) == 1);
    BOOST_TEST(found({{text, false}}) == 0);
    BOOST_TEST(found({{"e\u0301e\u0301", false}, {text, true}, {"\u00e9", false}}) == 1);
    BOOST_TEST(found({{"e", false}, {std::string("\u0301\u0323") + text, true}, {"x", false}}) == 1);
  }
  BOOST_TEST(found({{"<e", true}, {"\u0301>", false}}) == 0);
  BOOST_TEST(found({{"<", false}, {"e\u0301>", true}}) == 0);
  BOOST_TEST(found({{"<e", false}, {"\u0301>", true}}) == 0);
  // The mark behind it joins nothing; the stroke makes another character of >, as in the reference.
  BOOST_TEST(found({{"<\u00e9>", true}, {"\u0301", false}}) == 1);
  BOOST_TEST(found({{"<\u00e9>", true}, {"\u0338", false}}) == 0);
}

BOOST_AUTO_TEST_CASE(only_special_tokens_are_control_and_can_be_skipped_when_decoding) {
  const auto t = small();
  BOOST_TEST(t->is_control(300));
  BOOST_TEST(!t->is_control(302));
  BOOST_TEST(!t->is_control(256));
  BOOST_TEST(t->decode(Ids{300, 256, 302}) == "<|x|>ab<think>");
  BOOST_TEST(t->decode(Ids{300, 256, 302}, true) == "ab<think>");
}
