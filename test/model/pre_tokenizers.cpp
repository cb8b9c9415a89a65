// The pre-tokenizers that a GGUF names: the words they cut are those that Hugging Face's tokenizers cuts by
// the tokenizer.json that the name stands for, and the way back from the rules finds the name.

#include <boost/json.hpp>
#include <boost/test/unit_test.hpp>

#include "model/rewrite/rewrite.hpp"
#include "model/rewrite/rewrite_config.hpp"
#include "test/model/files.hpp"
#include "test/model/gguf_arrays.hpp"
#include "test/model/small_tokenizer.hpp"
#include "test/processor_time.hpp"

using namespace convoy;
using namespace convoy::model;
using namespace convoy::test;
namespace json = boost::json;

namespace {

using Words = std::vector<std::string>;

/// {name: {"pre_tokenizer", "words"}}; a text is its words put together.
const json::object& cases() {
  static const json::object parsed = [] {
    std::ifstream file(source_dir() / "test/golden/pre_tokenizers/cases.json");
    return json::parse(file).as_object();
  }();
  return parsed;
}

/// A tokenizer.json of one token for each byte, cutting words by `pre_tokenizer`.
std::string bytes_json(const json::value& pre_tokenizer) {
  TokenizerParts parts = small_parts();
  parts.vocabulary.resize(256);
  parts.merges.clear();
  parts.added.clear();
  json::object document = json::parse(tokenizer_json(parts)).as_object();
  document["pre_tokenizer"] = pre_tokenizer;
  return json::serialize(document);
}

TokenizerParts parts_of_json(const std::string& name) {
  return parse_tokenizer_json(bytes_json(cases().at(name).at("pre_tokenizer")), name);
}

TokenizerParts parts_of_gguf(const std::string& name) {
  GgufMetadata metadata;
  metadata["tokenizer.ggml.model"].value = "gpt2";
  metadata["tokenizer.ggml.pre"].value = name;
  metadata["tokenizer.ggml.tokens"].value = gguf_values<std::string>({"a"});
  metadata["tokenizer.ggml.token_type"].value = gguf_values<int32_t>({1});
  metadata["tokenizer.ggml.merges"].value = GgufArray();
  return read_tokenizer_gguf(metadata, name);
}

Words words(const Pretokenizer& pretokenizer, std::string text) {
  Words out;
  Expression::Scratch scratch(text.size());
  for (const Piece& p : pretokenizer.split(text, scratch))
    out.push_back(text.substr(p.begin, p.end - p.begin));
  return out;
}

void check_words(const Pretokenizer& pretokenizer, const std::string& name) {
  size_t several = 0;
  for (const json::value& expected : cases().at(name).at("words").as_array()) {
    const auto reference = json::value_to<Words>(expected);
    std::string text;
    for (const std::string& word : reference) text += word;
    BOOST_TEST(words(pretokenizer, text) == reference, boost::test_tools::per_element());
    several += reference.size() > 1;
  }
  BOOST_TEST(several > 300u);
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_gguf_that_names_a_pre_tokenizer_cuts_the_words_that_the_reference_cuts) {
  BOOST_TEST(cases().size() == 2u);
  for (const auto& [name, unused] : cases())
    check_words(Pretokenizer(parts_of_gguf(name).rules, std::string(name)), name);
}

BOOST_AUTO_TEST_CASE(a_tokenizer_json_with_the_same_rules_cuts_the_same_words_and_has_the_name) {
  for (const auto& [key, unused] : cases()) {
    const std::string name = key;
    const TokenizerParts parts = parts_of_json(name);
    check_words(Pretokenizer(parts.rules, name), name);
    BOOST_TEST(pre_tokenizer_name(parts).value_or("none") == name);
    // Digits that stand together are llama.cpp's reading of the name, not what the model was trained with.
    TokenizerParts other = parts;
    for (SplitRule& rule : other.rules)
      if (rule.expression == "\\p{N}") rule.expression = "\\p{N}+";
    BOOST_TEST(!pre_tokenizer_name(other).has_value());
  }
}

BOOST_AUTO_TEST_CASE(a_checkpoint_with_deepseek_v2s_tokenizer_is_written_as_a_gguf_that_says_so) {
  const TemporaryFolder folder;
  const auto source = folder.path() / "source", out = folder.path() / "out.gguf";
  std::filesystem::copy(golden("deepseek-v2-lite"), source);
  std::ofstream(source / "tokenizer.json") << bytes_json(cases().at("deepseek-llm").at("pre_tokenizer"));
  Rewriter rewriter({.source = source, .out = out, .target = RewriteTarget::q8_0, .threads = 2});
  rewriter.run([](const auto&) {});
  rewriter.finish();
  const GgufFile gguf = GgufFile::parse(Mapping::open(out));
  BOOST_TEST(std::get<std::string>(gguf.metadata.at("tokenizer.ggml.pre").value) == "deepseek-llm");
  const auto from = Tokenizer::load(source), to = Tokenizer::load(out);
  const std::string text = "abc  Führer 漢字12 \n ab";
  BOOST_TEST(to->encode(text, true) == from->encode(text, true), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_long_run_of_one_character_is_cut_in_time_that_grows_with_its_length) {
  for (const auto& [name, unused] : cases()) {
    const Pretokenizer pretokenizer(parts_of_gguf(name).rules, std::string(name));
    // Blanks before a character that neither is a letter to the rules nor ends the line are the hard ones.
    for (const std::string unit : {" ", "a", "ü", "漢", "!", "1", "\n", " \n", "a ", "ا"}) {
      for (const std::string end : {"", "漢", "🚀", "\n"}) {
        grows_in_proportion(
            std::string(name) + ", \"" + unit + "\" and \"" + end + "\"", 10'000 / unit.size(),
            [&](size_t n) { BOOST_TEST(!words(pretokenizer, repeated(unit, n) + end).empty()); });
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(blanks_at_a_lines_end_are_found_as_the_expression_says_wherever_the_search_begins) {
  const Expression quick("\\s+$", "test"), plain("(?:\\s+)$", "test");
  for (const std::string text : {"", " ", "a  ", "a  b", " \n ", "a \n\n b  \n", " \u3000 漢 \t\n x\n  "}) {
    for (size_t from = 0; from <= text.size();
         from += from < text.size() ? character_at(text, from).bytes : 1) {
      Expression::Scratch scratch(text.size());
      Expression::Match a, b;
      const bool found = quick.find(text, from, scratch, a);
      BOOST_REQUIRE(found == plain.find(text, from, scratch, b));
      BOOST_TEST((!found || (a.begin == b.begin && a.end == b.end)));
    }
  }
}
