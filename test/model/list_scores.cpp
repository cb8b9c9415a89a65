// A sentencepiece-like tokenizer.json written as a GGUF: its list of merges becomes scores, by which every
// text has the same tokens, or what differs is named.

#include <boost/json.hpp>

#include "model/error.hpp"
#include "model/rewrite/rewrite_config.hpp"
#include "model/rewrite/rewrite_scores.hpp"
#include "model/utf8.hpp"
#include "sentencepiece_vocabulary.hpp"

using namespace convoy;
using namespace convoy::model;
using namespace convoy::test;
namespace json = boost::json;

namespace {

using Names = std::vector<std::string>;

const json::object& cases() {
  static const json::object value =
      json::parse(read_file(golden_tokenizer_dir("sentencepiece") / "cases.json")).as_object();
  return value;
}

/// Without the token whose flags a GGUF cannot say.
TokenizerParts with_changes(const json::object& changes) {
  TokenizerParts parts =
      parse_tokenizer_json(json::serialize(changed(sentencepiece_json(), changes)), "tokenizer.json");
  std::erase_if(parts.added, [](const AddedToken& token) { return token.lstrip; });
  return parts;
}

/// One of the settings that published checkpoints have.
TokenizerParts setting(const std::string& name) {
  return with_changes(cases().at("settings").at(name).at("changes").as_object());
}

Config config_for_all() {
  Config config;
  config.vocab = 1100;
  return config;
}

Names lost(const TokenizerParts& parts) { return lost_in_gguf({parts}, config_for_all()); }

std::shared_ptr<const Tokenizer> through_gguf(const TokenizerParts& parts) {
  GgufWriter writer;
  write_gguf_tokenizer({parts}, config_for_all(), writer);
  const std::string header = writer.header();
  const auto file = GgufFile::parse(Mapping::copy_of(std::as_bytes(std::span(header)), "written"));
  return make_tokenizer(read_tokenizer_gguf(file.metadata, "written"));
}

/// Pieces of words and of nothing, blanks of any number, letters and bytes without a token.
std::string random_text(std::mt19937& random) {
  static const Names parts = {"the", " ",  "  ", "▁", "a",   "e", "ver", "st",
                              "\n",  "s>", "漢", "é", "Быс", "🚀", "00"};
  std::string text;
  for (size_t n = random() % 40; n > 0; --n)
    text +=
        random() % 3 ? parts[random() % parts.size()] : std::string(1 + random() % 6, 'a' + random() % 26);
  return text;
}

void require_same(const Tokenizer& own, const Tokenizer& written) {
  Names texts;
  for (const json::value& text : cases().at("texts").as_array()) texts.emplace_back(text.as_string());
  std::mt19937 random(1);
  for (int i = 0; i < 3000; ++i) texts.push_back(random_text(random));
  for (const std::string& text : texts) {
    const auto ids = own.encode(text, true);
    BOOST_TEST(written.encode(text, true) == ids, text << boost::test_tools::per_element());
    BOOST_TEST(written.decode(ids) == own.decode(ids), text);
  }
}

/// Letters, these tokens of more than one, and the merges in this order.
TokenizerParts of_merges(const Names& tokens, std::vector<std::pair<std::string, std::string>> merges) {
  TokenizerParts parts = setting("unprefixed");
  std::erase_if(parts.vocabulary,
                [](const auto& token) { return token.first.size() > 1 && token.second > 258; });
  int32_t id = 1000;
  for (const std::string& token : tokens) parts.vocabulary.emplace_back(token, id++);
  parts.merges = std::move(merges);
  return parts;
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_list_made_of_scores_gives_every_text_the_same_tokens_in_a_gguf) {
  for (const char* name : {"llama2", "unprefixed"}) {
    BOOST_TEST_CONTEXT(name) {
      const TokenizerParts parts = setting(name);
      BOOST_TEST(lost(parts) == Names{}, boost::test_tools::per_element());
      const auto own = make_tokenizer(parts), written = through_gguf(parts);
      BOOST_TEST(written->kind() == own->kind());
      BOOST_TEST(written->drops_leading_blank() == own->drops_leading_blank());
      BOOST_TEST(written->id_of("<unk>").value() == 0);
      require_same(*own, *written);
    }
  }
}

BOOST_AUTO_TEST_CASE(a_pre_tokenizer_that_does_no_more_than_write_blanks_is_said_by_a_gguf) {
  json::object changes = cases().at("settings").at("unprefixed").at("changes").as_object();
  changes["normalizer"] = nullptr;
  changes["pre_tokenizer"] = {
      {"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "never"}, {"split", false}};
  const TokenizerParts parts = with_changes(changes);
  BOOST_TEST(lost(parts) == Names{}, boost::test_tools::per_element());
  require_same(*make_tokenizer(parts), *through_gguf(parts));
}

BOOST_AUTO_TEST_CASE(a_blank_before_the_first_word_alone_is_lost_where_no_control_token_stands_before_it) {
  const TokenizerParts parts = setting("mistral");
  const auto own = make_tokenizer(parts), written = through_gguf(parts);
  BOOST_TEST((own->encode("the", true) != written->encode("the", true)));
  std::mt19937 random(3);
  for (int i = 0; i < 1000; ++i) {
    const std::string text = "<s>" + random_text(random);
    BOOST_TEST(own->encode(text, true) == written->encode(text, true),
               text << boost::test_tools::per_element());
  }
}

BOOST_AUTO_TEST_CASE(the_scores_have_the_order_in_which_the_list_makes_its_tokens) {
  // What the file was made of: sentencepiece's own scores.
  const json::object& gguf = cases().at("gguf").as_object();
  const TokenizerParts parts = setting("llama2");
  const ListScores found = scores_of_list(parts);
  std::map<float, std::string> own, theirs;
  for (size_t i = 0; i < parts.vocabulary.size(); ++i) {
    const auto& [text, id] = parts.vocabulary[i];
    const auto at = static_cast<size_t>(id);
    if (gguf.at("types").as_array()[at].as_int64() != 1 || text.size() == character_at(text, 0).bytes)
      continue;
    own.emplace(found.scores[i], text);
    theirs.emplace(gguf.at("scores").as_array()[at].to_number<float>(), text);
  }
  BOOST_TEST(own.size() == theirs.size());
  BOOST_TEST(std::ranges::equal(
      own, theirs, {}, [](const auto& e) { return e.second; }, [](const auto& e) { return e.second; }));
}

BOOST_AUTO_TEST_CASE(the_order_among_several_ways_to_a_token_does_not_matter) {
  const std::pair<std::string, std::string> ab{"a", "b"}, ab_c{"ab", "c"}, bc{"b", "c"}, a_bc{"a", "bc"};
  for (const auto& merges : {std::vector{ab, bc, ab_c, a_bc}, {ab, a_bc, bc, ab_c}, {ab, bc, ab_c}}) {
    const TokenizerParts parts = of_merges({"ab", "bc", "abc"}, merges);
    BOOST_TEST(scores_of_list(parts).differing == Names{}, boost::test_tools::per_element());
    const auto own = make_tokenizer(parts), written = through_gguf(parts);
    std::mt19937 random(2);
    for (int i = 0; i < 300; ++i) {
      std::string text;
      for (size_t n = random() % 12; n > 0; --n) text += static_cast<char>('a' + random() % 3);
      BOOST_TEST(own->encode(text, false) == written->encode(text, false),
                 text << boost::test_tools::per_element());
    }
  }
}

BOOST_AUTO_TEST_CASE(a_list_that_scores_cannot_say_is_named) {
  const std::pair<std::string, std::string> ab{"a", "b"}, ab_c{"ab", "c"}, bc{"b", "c"}, a_bc{"a", "bc"};
  const auto differing = [](const TokenizerParts& parts) { return scores_of_list(parts).differing; };
  // A token that the list makes of none, though two tokens stand side by side that are it together.
  BOOST_TEST(differing(of_merges({"ab", "abc"}, {ab})) == Names{"abc"}, boost::test_tools::per_element());
  // "a" and "bc" are "abc" together, but the list merges "ab" and "c" alone, and makes "bc" first.
  BOOST_TEST(differing(of_merges({"ab", "bc", "abc"}, {bc, ab, ab_c})) == Names{"abc"},
             boost::test_tools::per_element());
  // Users' words must not become what is added for the template.
  BOOST_TEST(differing(of_merges({"s>"}, {{"s", ">"}, {"<", "s>"}})) == Names{"<s>"},
             boost::test_tools::per_element());
  // A letter without a token is one in a list's eyes, and none in those of scores.
  TokenizerParts letter = of_merges({"aЖ"}, {});
  std::erase_if(letter.vocabulary, [](const auto& token) { return token.first == "Ж"; });
  BOOST_TEST(differing(letter) == Names{"aЖ"}, boost::test_tools::per_element());
  const TokenizerParts parts = of_merges({"ab", "abc"}, {ab});
  BOOST_TEST(lost(parts) == Names{"how the token \"abc\" is merged"}, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(what_sentencepiece_does_in_one_way_only_is_named) {
  const auto names = [](const std::string& name) { return lost(setting(name)); };
  const std::string blanks = "where a pre-tokenizer adds blanks or cuts words",
                    first = "whether an answer's first blank is written";
  BOOST_TEST(
      names("mistral") ==
          (Names{"the blank before the first word of a text that begins with no control token", first}),
      boost::test_tools::per_element());
  BOOST_TEST(names("split") == (Names{blanks, first}), boost::test_tools::per_element());
  BOOST_TEST(names("fused") == Names{"how characters without a token are unknown"},
             boost::test_tools::per_element());
  BOOST_TEST(names("whole_words") == (Names{blanks, "that words which are tokens are not merged"}),
             boost::test_tools::per_element());
}
