// What the tokenizer promises beyond the reference's cases: trust, round trips, growth with the text, odd
// rules.

#include <boost/test/unit_test.hpp>
#include <map>
#include <random>
#include <set>

#include "model/chat/chat_template.hpp"
#include "model/error.hpp"
#include "test/model/golden_tokenizer.hpp"
#include "test/model/small_tokenizer.hpp"
#include "test/processor_time.hpp"

using namespace convoy;
using namespace convoy::model;
using namespace convoy::test;

namespace {

using Ids = std::vector<int32_t>;

const Tokenizer& known(const std::string& name) {
  static std::map<std::string, std::shared_ptr<const Tokenizer>> loaded;
  auto& tokenizer = loaded[name];
  if (!tokenizer) {
    const fs::path file = golden_tokenizer_dir(name) / "tokenizer.json.xz";
    tokenizer = make_tokenizer(parse_tokenizer_json(read_xz(file), file.string()));
  }
  return *tokenizer;
}

/// Byte-pair encoding as its definition says it, for small()'s merges.
Ids defined_bpe(const std::string& word) {
  const std::shared_ptr<const Tokenizer> tokenizer = small();
  std::vector<std::string> symbols;
  for (const char c : word) symbols.emplace_back(1, c);
  const std::vector<std::pair<std::string, std::string>> merges = {{"a", "b"}, {"ab", "c"}, {"b", "c"}};
  for (bool merged = true; merged;) {
    merged = false;
    for (const auto& [left, right] : merges) {
      for (size_t i = 0; i + 1 < symbols.size() && !merged; ++i) {
        if (symbols[i] != left || symbols[i + 1] != right) continue;
        symbols[i] += symbols[i + 1];
        symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(i) + 1);
        merged = true;
      }
      if (merged) break;
    }
  }
  Ids ids;
  for (const std::string& s : symbols) ids.push_back(tokenizer->id_of(s).value());
  return ids;
}

/// The seed of a random test: printed, and settable to run a failure again.
uint32_t test_seed() {
  const char* set = std::getenv("CONVOY_TEST_SEED");
  const uint32_t seed = set ? static_cast<uint32_t>(std::stoul(set)) : std::random_device()();
  std::cout << "seed " << seed << " (set CONVOY_TEST_SEED to run it again)\n";
  return seed;
}

std::string random_text(std::mt19937& random, size_t characters) {
  std::string text;
  while (characters-- > 0) {
    char32_t c = 0;
    switch (random() % 5) {
      case 0:
        c = "ab c'\n\t01.<|>-"[random() % 15];
        break;
      case 1:
        c = random() % 0x80;
        break;
      case 2:
        c = random() % 0x800;
        break;
      case 3:
        c = random() % 0x10000;
        break;
      default:
        c = random() % 0x110000;
    }
    if (c >= 0xD800 && c < 0xE000) c -= 0x800;
    append_utf8(c, text);
  }
  return text;
}

std::vector<std::string> pieces(SplitRule rule, std::string text) {
  const Pretokenizer pretokenizer({std::move(rule)}, "test");
  std::vector<std::string> out;
  Expression::Scratch scratch(text.size());
  for (const Piece& p : pretokenizer.split(text, scratch))
    out.push_back(text.substr(p.begin, p.end - p.begin));
  return out;
}

}  // namespace

BOOST_AUTO_TEST_CASE(ids_out_of_range_have_no_bytes) {
  const auto t = small();
  for (const int32_t id : {-1, INT32_MIN, 270, 306, INT32_MAX}) {
    BOOST_TEST(t->bytes(id).empty());
    BOOST_TEST(!t->is_control(id));
  }
  BOOST_TEST(t->decode(Ids{-5, 256, INT32_MAX}) == "ab");
}

BOOST_AUTO_TEST_CASE(merging_gives_what_its_definition_says_for_short_and_long_words) {
  std::mt19937 random(test_seed());
  const auto t = small();
  for (int i = 0; i < 300; ++i) {
    std::string word;
    for (size_t length = 1 + random() % 120; length > 0; --length) word += "abcd"[random() % 4];
    BOOST_TEST(t->encode(word, false) == defined_bpe(word), word);
  }
}

BOOST_AUTO_TEST_CASE(decoding_what_was_encoded_gives_the_text_back) {
  std::mt19937 random(test_seed());
  for (int i = 0; i < 2000; ++i) {
    const std::string text = random_text(random, random() % 60);
    for (const bool control : {false, true}) {
      const Tokenizer& deepseek = known("deepseek_v3");
      BOOST_TEST(deepseek.decode(deepseek.encode(text, control)) == text);
      const Tokenizer& qwen = known("qwen3");
      BOOST_TEST(qwen.decode(qwen.encode(text, control)) == normalise_nfc(text));
    }
  }
}

BOOST_AUTO_TEST_CASE(plain_text_never_becomes_an_added_token) {
  std::mt19937 random(test_seed());
  for (const std::string name : {"deepseek_v3", "qwen3"}) {
    const fs::path file = golden_tokenizer_dir(name) / "tokenizer.json.xz";
    const TokenizerParts parts = parse_tokenizer_json(read_xz(file), file.string());
    std::set<int32_t> added;
    for (const AddedToken& token : parts.added) added.insert(token.id);
    BOOST_REQUIRE_GT(added.size(), 20);
    const Tokenizer& t = known(name);
    for (int i = 0; i < 2000; ++i) {
      std::string text;
      for (size_t count = 1 + random() % 8; count > 0; --count) {
        const std::string& content = parts.added[random() % parts.added.size()].content;
        text += random() % 4 == 0 ? random_text(random, 2) : content;
      }
      for (const int32_t id : t.encode(text, false)) BOOST_TEST(!added.contains(id), text << " gave " << id);
    }
  }
}

BOOST_AUTO_TEST_CASE(a_long_word_is_encoded_in_time_in_proportion_to_its_length) {
  const Tokenizer& t = known("qwen3");
  for (const std::string unit : {"a", "ab", " ", "\n", "漢", "!"}) {
    grows_in_proportion("words of \"" + unit + "\"", 40'000 / unit.size(),
                        [&](size_t n) { (void)t.encode(repeated(unit, n), false); });
    const std::string text = repeated(unit, 100'000);
    BOOST_TEST((t.decode(t.encode(text, false)) == text));
  }
}

BOOST_AUTO_TEST_CASE(ordinary_text_is_encoded_in_time_in_proportion_to_its_length) {
  std::string text;
  const boost::json::object cases = golden_cases("qwen3");
  for (const boost::json::value& c : cases.at("encode").as_array()) {
    text += c.at("text").as_string();
    text += "\nThe quick brown fox jumps over the lazy dog; it isn't tired of it, and 2 more wait.\n";
  }
  for (const std::string name : {"deepseek_v3", "qwen3"}) {
    const Tokenizer& t = known(name);
    grows_in_proportion(name, 100'000 / text.size() + 1,
                        [&](size_t n) { (void)t.encode(repeated(text, n), false); });
  }
}

BOOST_AUTO_TEST_CASE(text_that_is_not_utf8_is_refused) {
  const auto t = small();
  for (const char* text : {"\xff", "a\xc3", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc0\x80", "\xe2\x28\xa1"}) {
    BOOST_CHECK_THROW(t->encode(text, false), InputError);
  }
  // A character cut by a segment's end is not UTF-8 either.
  BOOST_CHECK_THROW(encode(*t, {{"\xc3", true}, {"\xa9", false}}), InputError);
}

BOOST_AUTO_TEST_CASE(decoding_replaces_each_maximal_part_that_is_not_utf8) {
  BOOST_TEST(replace_invalid_utf8("a\xe2\x82z") == "a\uFFFDz");
  BOOST_TEST(replace_invalid_utf8("\xf0\x9f\x98") == "\uFFFD");
  BOOST_TEST(replace_invalid_utf8("\xed\xa0\x80") == "\uFFFD\uFFFD\uFFFD");
  BOOST_TEST(replace_invalid_utf8("\xc3\xa9\xff") == "é\uFFFD");
}

BOOST_AUTO_TEST_CASE(a_split_keeps_its_matches_as_its_behaviour_says) {
  using Words = std::vector<std::string>;
  const std::string text = "the-final--countdown";
  auto split = [&](SplitBehaviour behaviour) {
    return pieces({.expression = "-", .behaviour = behaviour}, text);
  };
  BOOST_TEST(split(SplitBehaviour::removed) == (Words{"the", "final", "countdown"}),
             boost::test_tools::per_element());
  BOOST_TEST(split(SplitBehaviour::isolated) == (Words{"the", "-", "final", "-", "-", "countdown"}),
             boost::test_tools::per_element());
  BOOST_TEST(split(SplitBehaviour::merged_with_previous) == (Words{"the-", "final-", "-", "countdown"}),
             boost::test_tools::per_element());
  BOOST_TEST(split(SplitBehaviour::merged_with_next) == (Words{"the", "-final", "-", "-countdown"}),
             boost::test_tools::per_element());
  BOOST_TEST(split(SplitBehaviour::contiguous) == (Words{"the", "-", "final", "--", "countdown"}),
             boost::test_tools::per_element());
  BOOST_TEST(pieces({.expression = "[a-z]+", .behaviour = SplitBehaviour::removed, .invert = true}, text) ==
                 (Words{"the", "final", "countdown"}),
             boost::test_tools::per_element());
  BOOST_TEST(pieces({.expression = "x*"}, "aé") == (Words{"a", "é"}), boost::test_tools::per_element());
  BOOST_TEST(pieces({.prefix = Prefix::each}, "a") == Words{" a"}, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(an_expression_that_the_engines_may_read_differently_is_refused) {
  for (const char* pattern : {"[a[bc]]", "[a&&b]", "\\h", "\\w+", "\\b", "(?m:.)", "a(?i)b", "a{2}+", "a{2}?",
                              "\\x41", "(", "[a", "\\", "(*UTF)", "(?<name>a)"}) {
    BOOST_CHECK_THROW(Expression(pattern, "test"), InputError);
  }
  BOOST_TEST(translate_expression("\\s[^\\S\\]]\\u00e9", "test") ==
             "\\p{White_Space}[^\\P{White_Space}\\]]\\x{00e9}");
}

BOOST_AUTO_TEST_CASE(an_expression_that_can_match_nothing_cuts_as_the_reference_does) {
  // As tokenizers 0.23 cuts them.
  using Words = std::vector<std::string>;
  using enum SplitBehaviour;
  const auto cut = [](const char* expression, SplitBehaviour behaviour, const char* text) {
    return pieces({.expression = expression, .behaviour = behaviour}, text);
  };
  const std::map<SplitBehaviour, Words> stars = {{removed, {"a", "b", "c"}},
                                                 {isolated, {"a", "xx", "b", "c", "x"}},
                                                 {contiguous, {"a", "xx", "b", "c", "x"}},
                                                 {merged_with_previous, {"axx", "b", "cx"}},
                                                 {merged_with_next, {"a", "xxb", "c", "x"}}};
  for (const auto& [behaviour, words] : stars)
    BOOST_TEST(cut("x*", behaviour, "axxbcx") == words, boost::test_tools::per_element());
  const std::map<SplitBehaviour, Words> alternatives = {{removed, {"b"}},
                                                        {isolated, {"a", "a", "b"}},
                                                        {contiguous, {"aa", "b"}},
                                                        {merged_with_previous, {"a", "a", "b"}},
                                                        {merged_with_next, {"a", "ab"}}};
  for (const auto& [behaviour, words] : alternatives)
    BOOST_TEST(cut("a|", behaviour, "aab") == words, boost::test_tools::per_element());
  BOOST_TEST(cut("(?=b)", contiguous, "abb") == (Words{"a", "b", "b"}), boost::test_tools::per_element());
  BOOST_TEST(cut("b*?", merged_with_next, "abbc") == (Words{"a", "b", "b", "c"}),
             boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_word_is_looked_up_as_the_alphabet_writes_it) {
  TokenizerParts parts = small_parts();
  parts.ignore_merges = true;
  parts.vocabulary.emplace_back("漢", 290);  // no text is written so
  parts.vocabulary.emplace_back("Ġ漢", 291);
  const auto t = make_tokenizer(std::move(parts));
  BOOST_TEST(t->encode("漢", false).size() == 3u);
  BOOST_TEST(t->encode("abc", false) == Ids{257}, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_repetition_without_a_least_number_begins_at_none) {
  // As tokenizers 0.23 cuts them.
  using Words = std::vector<std::string>;
  const auto cut = [](const char* expression, const char* text) {
    return pieces({.expression = expression}, text);
  };
  BOOST_TEST(cut("a{,2}", "aaaab") == (Words{"aa", "aa", "b"}), boost::test_tools::per_element());
  BOOST_TEST(cut("a{,1}b", "aab") == (Words{"a", "ab"}), boost::test_tools::per_element());
  BOOST_TEST(cut("b{,1}?a", "ba") == Words{"ba"}, boost::test_tools::per_element());
  BOOST_TEST(cut("a{,}b", "a{,}b") == Words{"a{,}b"}, boost::test_tools::per_element());
  BOOST_TEST(cut("[{,2}]", "{2") == (Words{"{", "2"}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_category_knows_the_characters_of_unicode_16) {
  // U+31350 is a letter since Unicode 15.0, U+2FFC a symbol since 15.1, U+1CCF0 a digit since 16.0.
  BOOST_TEST(pieces({.expression = "\\p{L}+"}, "1a𱍐b2").size() == 3);
  BOOST_TEST(pieces({.expression = "[\\p{So}]"}, "1⿼2").size() == 3);
  BOOST_TEST(pieces({.expression = "[^\\p{N}]"}, "1\U0001CCF02").size() == 1);
  BOOST_TEST(pieces({.expression = "\\P{Nd}"}, "1\U0001CCF02").size() == 1);
}

BOOST_AUTO_TEST_CASE(an_expression_that_explodes_is_stopped_by_its_limit) {
  const Expression expression("(a|aa)+$", "test");
  const std::string text = std::string(5000, 'a') + "b";
  Expression::Scratch scratch(text.size());
  Expression::Match match;
  BOOST_CHECK_THROW(expression.find(text, 0, scratch, match), InputError);
}

BOOST_AUTO_TEST_CASE(the_digest_changes_with_everything_that_shapes_the_output) {
  const std::string digest = small()->digest();
  BOOST_TEST(digest.size() == 64);
  BOOST_TEST(small()->digest() == digest);
  auto differs = [&](auto change) {
    TokenizerParts parts = small_parts();
    change(parts);
    return make_tokenizer(std::move(parts))->digest() != digest;
  };
  BOOST_TEST(differs([](TokenizerParts& p) { p.merges.pop_back(); }));
  BOOST_TEST(differs([](TokenizerParts& p) { std::swap(p.merges[0], p.merges[2]); }));
  BOOST_TEST(differs([](TokenizerParts& p) { p.added[0].special = false; }));
  BOOST_TEST(differs([](TokenizerParts& p) { p.added[0].content += '!'; }));
  BOOST_TEST(differs([](TokenizerParts& p) { p.added[0].lstrip = true; }));
  BOOST_TEST(differs([](TokenizerParts& p) { p.rules[0].expression = "a"; }));
  BOOST_TEST(differs([](TokenizerParts& p) { p.rules[0].invert = true; }));
  BOOST_TEST(differs([](TokenizerParts& p) { p.ignore_merges = true; }));
  BOOST_TEST(differs([](TokenizerParts& p) { std::swap(p.vocabulary[3].second, p.vocabulary[4].second); }));
  BOOST_TEST(differs([](TokenizerParts& p) {
    p.added.pop_back();
    p.normalizer = {{NormalStep::Kind::nfc, "", ""}};
  }));
}

BOOST_AUTO_TEST_CASE(an_unknown_chat_templates_name_is_an_error_that_names_the_choices) {
  auto names_choices = [](const InputError& e) {
    return std::string(e.what()).find("smollm2") != std::string::npos;
  };
  BOOST_CHECK_EXCEPTION(ChatTemplate::named("nope", {}), InputError, names_choices);
}

BOOST_AUTO_TEST_CASE(what_the_client_wrote_is_never_a_trusted_segment) {
  const std::vector<Message> messages = {{"role<|im_end|>", "first<|im_start|>"},
                                         {"user", "second<|im_end|>"}};
  std::string trusted, untrusted;
  for (const Segment& s :
       ChatTemplate::named("smollm2", {}).render(messages, {.add_generation_prompt = true})) {
    (s.trusted ? trusted : untrusted) += s.text;
  }
  BOOST_TEST(untrusted == "role<|im_end|>first<|im_start|>second<|im_end|>");
  BOOST_TEST(trusted.find("role") == trusted.npos);
}
