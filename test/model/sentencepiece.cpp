// Sentencepiece-like tokenizers: every stored case of the references, and what holds beyond them.

#include <boost/test/unit_test.hpp>
#include <fstream>
#include <limits>
#include <random>

#include "model/error.hpp"
#include "model/rewrite/rewrite_config.hpp"
#include "model/utf8.hpp"
#include "test/model/sentencepiece_vocabulary.hpp"
#include "test/processor_time.hpp"

using namespace convoy;
using namespace convoy::model;
using namespace convoy::test;
namespace json = boost::json;

namespace {

using Ids = std::vector<int32_t>;

const json::object& cases() {
  static const json::object all = golden_cases("sentencepiece");
  return all;
}

const json::object& gguf_cases() { return cases().at("gguf").as_object(); }

std::shared_ptr<const Tokenizer> setting(std::string_view name) {
  const json::object& changes = cases().at("settings").at(name).at("changes").as_object();
  return tokenizer_of(changed(sentencepiece_json(), changes));
}

std::shared_ptr<const Tokenizer> gguf() {
  return make_tokenizer(read_tokenizer_gguf(sentencepiece_gguf(gguf_cases()), "sentencepiece"));
}

/// cases: [ids], or [ids, decoded] where that is not the text.
void check(const Tokenizer& tokenizer, std::string_view name, const json::array& texts,
           const json::array& cases) {
  BOOST_REQUIRE(texts.size() == cases.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    const std::string text(texts[i].as_string());
    const json::array& expected = cases[i].as_array();
    const Ids ids = json::value_to<Ids>(expected[0]);
    const Ids own = tokenizer.encode(text, true);
    BOOST_TEST(own == ids, name << ", " << json::serialize(texts[i]) << ": "
                                << json::serialize(json::value_from(own)) << " instead of "
                                << json::serialize(expected[0]));
    BOOST_TEST(tokenizer.decode(ids) == (expected.size() > 1 ? std::string(expected[1].as_string()) : text),
               name << ", decoding " << json::serialize(expected[0]));
  }
}

auto names(const std::string& part) {
  return [part](const InputError& e) {
    BOOST_TEST_MESSAGE(e.what());
    return std::string(e.what()).find(part) != std::string::npos;
  };
}

template <typename Change>
void check_refused(const std::string& named, Change change) {
  json::object document = sentencepiece_json();
  change(document);
  BOOST_CHECK_EXCEPTION(tokenizer_of(document), InputError, names(named));
}

template <typename Change>
void check_gguf_refused(const std::string& named, Change change) {
  GgufMetadata metadata = sentencepiece_gguf(gguf_cases());
  change(metadata);
  BOOST_CHECK_EXCEPTION(make_tokenizer(read_tokenizer_gguf(metadata, "sentencepiece")), InputError,
                        names(named));
}

}  // namespace

BOOST_AUTO_TEST_CASE(every_setting_encodes_and_decodes_every_case_as_the_reference_does) {
  const json::array& texts = cases().at("texts").as_array();
  for (const auto& [name, value] : cases().at("settings").as_object())
    check(*setting(name), name, texts, value.at("cases").as_array());
}

BOOST_AUTO_TEST_CASE(a_ggufs_pieces_merge_by_their_scores_as_sentencepiece_merges_them) {
  check(*gguf(), "gguf", gguf_cases().at("texts").as_array(), gguf_cases().at("cases").as_array());
  BOOST_TEST(gguf()->bos().value() == 1);
  BOOST_TEST(gguf()->eos().value() == 2);
}

BOOST_AUTO_TEST_CASE(a_piece_takes_in_a_character_that_has_no_piece_of_its_own) {
  GgufMetadata metadata = sentencepiece_gguf(gguf_cases());
  change_values<std::string>(metadata, "tokenizer.ggml.tokens", [](auto& v) { v.push_back("e\u0301"); });
  change_values<float>(metadata, "tokenizer.ggml.scores", [](auto& v) { v.push_back(-1e6f); });
  change_values<int32_t>(metadata, "tokenizer.ggml.token_type", [](auto& v) { v.push_back(1); });
  const auto tokenizer = make_tokenizer(read_tokenizer_gguf(metadata, "sentencepiece"));
  const int32_t mark_first = *tokenizer->id_of("<0xCC>"), mark_second = *tokenizer->id_of("<0x81>");
  BOOST_TEST(tokenizer->encode("xe\u0301", false).back() == *tokenizer->id_of("e\u0301"));
  const Ids alone = tokenizer->encode("x\u0301", false);
  BOOST_TEST((alone.size() >= 2 && alone.end()[-2] == mark_first && alone.back() == mark_second));
}

BOOST_AUTO_TEST_CASE(without_add_space_prefix_no_blank_is_added_or_taken) {
  GgufMetadata metadata = sentencepiece_gguf(gguf_cases());
  metadata["tokenizer.ggml.add_space_prefix"].value = false;
  const auto tokenizer = make_tokenizer(read_tokenizer_gguf(metadata, "sentencepiece"));
  BOOST_TEST(!tokenizer->drops_leading_blank());
  BOOST_TEST((tokenizer->encode("the", false) != gguf()->encode("the", false)));
  BOOST_TEST(tokenizer->decode(tokenizer->encode(" the", false)) == " the");
}

BOOST_AUTO_TEST_CASE(a_blank_stands_before_the_text_behind_each_control_token) {
  // The first part alone has it where the file says "first".
  const auto each = setting("llama2"), first = setting("mistral");
  const Ids word = each->encode("the", false);
  BOOST_TEST(word.size() == 1u);
  Ids expected = {1};
  expected.insert(expected.end(), word.begin(), word.end());
  BOOST_TEST(each->encode("<s>the", true) == expected, boost::test_tools::per_element());
  BOOST_TEST(first->encode("the", false) == word, boost::test_tools::per_element());
  BOOST_TEST((first->encode("<s>the", true) != expected));
  BOOST_TEST(each->decode(word) == "the");
  BOOST_TEST(each->decode(Ids{word[0], word[0]}) == "the the");
}

BOOST_AUTO_TEST_CASE(what_a_user_writes_never_becomes_a_control_token_though_pieces_could_merge_into_it) {
  json::object document = sentencepiece_json();
  json::object& vocabulary = document["model"].as_object()["vocab"].as_object();
  json::array& merges = document["model"].as_object()["merges"].as_array();
  vocabulary["s>"] = 990;
  merges.push_back(json::array{"s", ">"});
  merges.push_back(json::array{"<", "s>"});
  const auto tokenizer = tokenizer_of(document);
  BOOST_TEST(tokenizer->encode("a<s>", true).back() == 1);
  const Ids plain = tokenizer->encode("a<s>", false);
  BOOST_TEST(std::ranges::count(plain, 1) == 0);
  BOOST_TEST((plain.size() >= 2 && plain.end()[-2] == vocabulary["<"].as_int64() && plain.back() == 990));
  BOOST_TEST(tokenizer->decode(plain) == "a<s>");
  for (const char* name : {"llama2", "mistral", "split", "normalized", "unknown"}) {
    const auto other = setting(name);
    for (const char* text : {"<s>", "</s>[INST]", "<|im_start|>", "<x>", "<mask>"})
      for (const int32_t id : other->encode(std::string("say ") + text, false))
        BOOST_TEST((id == 0 || !other->is_control(id)), name << ": " << text);
  }
}

BOOST_AUTO_TEST_CASE(a_normalized_control_token_is_found_only_where_the_text_is_trusted) {
  const auto tokenizer = setting("normalized_first");
  const int32_t x = *tokenizer->id_of("<x>");
  const auto found = [&](std::vector<Segment> segments) {
    return std::ranges::count(tokenizer->encode(segments), x);
  };
  BOOST_TEST(found({{"a b <x>", true}}) == 1);
  BOOST_TEST(found({{"a b <x>", false}}) == 0);
  BOOST_TEST(found({{"a b ", false}, {"<x>", true}, {"c d", false}}) == 1);
  BOOST_TEST(found({{"a b <", false}, {"x>", true}}) == 0);
  BOOST_TEST(found({{"<x", true}, {">", false}}) == 0);
}

BOOST_AUTO_TEST_CASE(decoding_what_was_encoded_gives_the_text_back) {
  std::mt19937 random(1);
  const auto each = setting("llama2"), first = setting("mistral"), scored = gguf();
  for (int i = 0; i < 1000; ++i) {
    std::string text;
    for (size_t n = 1 + random() % 40; n > 0; --n) {
      char32_t c =
          random() % 3 ? "abc the\n.,"[random() % 10] : random() % (random() % 2 ? 0x800u : 0x110000u);
      if ((c >= 0xD800 && c < 0xE000) || c == 0x2581) c = 'x';
      append_utf8(c, text);
    }
    BOOST_TEST(each->decode(each->encode(text, false)) == text);
    BOOST_TEST(scored->decode(scored->encode(text, false)) == text);
    if (!text.starts_with(' ')) BOOST_TEST(first->decode(first->encode(text, false)) == text);
  }
}

BOOST_AUTO_TEST_CASE(scores_survive_the_way_through_a_gguf_and_are_not_taken_for_a_list) {
  const TokenizerParts scored = read_tokenizer_gguf(sentencepiece_gguf(gguf_cases()), "gguf");
  Config config;
  config.vocab = 910;
  GgufWriter writer;
  write_gguf_tokenizer({scored}, config, writer);
  const std::string header = writer.header();
  const auto file = GgufFile::parse(Mapping::copy_of(std::as_bytes(std::span(header)), "written"));
  const auto written = make_tokenizer(read_tokenizer_gguf(file.metadata, "written"));
  check(*written, "written", gguf_cases().at("texts").as_array(), gguf_cases().at("cases").as_array());
  BOOST_TEST(written->digest() == gguf()->digest());
  BOOST_CHECK_EXCEPTION(tokenizer_json(scored), InputError, names("by scores"));
}

BOOST_AUTO_TEST_CASE(tokens_and_flags_that_only_the_configuration_beside_the_file_has_are_added) {
  // The ids are those that transformers 5.24 gives.
  const fs::path folder =
      fs::temp_directory_path() / ("convoy-added-" + std::to_string(std::random_device()()));
  fs::create_directory(folder);
  const auto token = [](const char* content, bool special, bool strips = false) {
    return json::object{{"content", content}, {"lstrip", strips},     {"normalized", false},
                        {"rstrip", strips},   {"single_word", false}, {"special", special}};
  };
  const auto load = [&](const json::object& decoder) {
    std::ofstream(folder / "tokenizer.json") << sentencepiece_json();
    std::ofstream(folder / "tokenizer_config.json") << json::object{{"added_tokens_decoder", decoder}};
    return Tokenizer::load(folder);
  };
  const auto t = load({{"903", token("<|im_end|>", true, true)},
                       {"905", token("<tool>", false)},
                       {"906", token("<|eot|>", true)},
                       {"900", token("[INST]", true)},
                       {"300", token("▁the", true)}});
  BOOST_TEST(t->encode("a <tool> b<|eot|>", true) == (Ids{266, 738, 905, 261, 771, 906}),
             boost::test_tools::per_element());
  BOOST_TEST(t->encode("x  <|im_end|>  y", true) == (Ids{738, 804, 903, 738, 764}),
             boost::test_tools::per_element());
  BOOST_TEST(t->encode("[INST]", true) == Ids{900}, boost::test_tools::per_element());
  BOOST_TEST(t->is_control(900));
  BOOST_TEST(t->encode("▁the", true) == Ids{263}, boost::test_tools::per_element());
  BOOST_CHECK_EXCEPTION(load({{"902", token("<tool>", false)}}), InputError, names("id 902"));
  BOOST_CHECK_EXCEPTION(load({{"-1", token("<tool>", false)}}), InputError, names("\"-1\""));
  BOOST_CHECK_EXCEPTION(load({{"905", 1}}), InputError, names("added_tokens_decoder"));
  fs::remove_all(folder);
}

BOOST_AUTO_TEST_CASE(a_text_is_encoded_in_time_in_proportion_to_its_length_whatever_it_holds) {
  const auto each = setting("llama2"), split = setting("split"), scored = gguf();
  for (const std::string unit : {"a", "the ", " ", "\n", "漢", "🚀", "▁", "<s>", "x </s>"})
    for (const Tokenizer* tokenizer : {each.get(), split.get(), scored.get()})
      grows_in_proportion("\"" + unit + "\"", 40'000 / unit.size(),
                          [&](size_t n) { (void)tokenizer->encode(repeated(unit, n), true); });
}

BOOST_AUTO_TEST_CASE(no_sentencepiece_text_has_fewer_tokens_than_its_length_says) {
  json::object document = sentencepiece_json();
  json::array& added = document["added_tokens"].as_array();
  for (auto token = added.begin(); token != added.end();)
    token = token->at("lstrip").as_bool() ? added.erase(token) : token + 1;
  const auto tokenizer = tokenizer_of(document);
  const auto tokens_min = [](const Tokenizer& of, const std::string& text) {
    const Segment segment{text, true};
    return of.tokens_min(std::span(&segment, 1));
  };
  for (const char* unit :
       {" ", "▁", "the", "▁the", " ▁ the", "漢", "今天", "[/INST]", "<|im_start|>", "    "}) {
    std::string text;
    while (text.size() < 10'000) text += unit;
    const size_t least = tokens_min(*tokenizer, text);
    BOOST_TEST(least > 0u, unit);
    BOOST_TEST(tokenizer->encode(text, true).size() >= least, unit);
  }
  BOOST_TEST(tokens_min(*setting("fused"), std::string(1'000'000, 'a')) ==
             0u);  // one <unk> may stand for any text
}

BOOST_AUTO_TEST_CASE(a_sentencepiece_json_that_says_what_is_not_known_is_refused_by_name) {
  const auto model = [](json::object& d) -> json::object& { return d["model"].as_object(); };
  check_refused("Unigram", [&](json::object& d) { model(d)["type"] = "Unigram"; });
  check_refused("\"<nope>\"", [&](json::object& d) { model(d)["unk_token"] = "<nope>"; });
  check_refused("decoder", [](json::object& d) { d["decoder"] = nullptr; });
  check_refused("Metaspace", [](json::object& d) {
    d["decoder"] = {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "first"}};
  });
  check_refused("Replace, ByteFallback",
                [](json::object& d) { d["decoder"].as_object()["decoders"].as_array().resize(2); });
  check_refused("Replace, Fuse", [](json::object& d) {
    json::array& steps = d["decoder"].as_object()["decoders"].as_array();
    steps.erase(steps.begin() + 1);
  });
  check_refused("Strip", [](json::object& d) {
    d["decoder"].as_object()["decoders"].as_array()[3].as_object()["start"] = 2;
  });
  const json::value metaspace = {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "first"}};
  check_refused("\"_\"", [&](json::object& d) { d["pre_tokenizer"] = metaspace; });
  check_refused("sometimes", [&](json::object& d) {
    d["pre_tokenizer"] = metaspace;
    d["pre_tokenizer"].as_object()["replacement"] = "▁";
    d["pre_tokenizer"].as_object()["prepend_scheme"] = "sometimes";
  });
  const json::value expression = {
      {"type", "Replace"}, {"pattern", json::object{{"Regex", " "}}}, {"content", "▁"}};
  check_refused("Regex", [&](json::object& d) { d["normalizer"] = expression; });
  check_refused("any text would become", [&](json::object& d) {
    json::object token = d["added_tokens"].as_array()[0].as_object();
    token["content"] = "▁";
    token["id"] = model(d)["vocab"].at("▁");
    d["added_tokens"].as_array().push_back(token);
  });
}

BOOST_AUTO_TEST_CASE(sentencepiece_metadata_that_make_no_sense_are_refused) {
  for (const char* key : {"tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type"}) {
    check_gguf_refused(key, [&](GgufMetadata& m) { m.erase(key); });
    check_gguf_refused(key, [&](GgufMetadata& m) { m[key].value = uint64_t{7}; });
  }
  const auto scores = [](auto change) {
    return [change](GgufMetadata& m) { change_values<float>(m, "tokenizer.ggml.scores", change); };
  };
  check_gguf_refused("score", scores([](auto& v) { v[300] = std::numeric_limits<float>::quiet_NaN(); }));
  check_gguf_refused("score", scores([](auto& v) { v[300] = -std::numeric_limits<float>::infinity(); }));
  check_gguf_refused("tokenizer.ggml.scores", scores([](auto& v) { v.pop_back(); }));
  const auto tokens = [](auto change) {
    return [change](GgufMetadata& m) { change_values<std::string>(m, "tokenizer.ggml.tokens", change); };
  };
  check_gguf_refused("<0x0A>", tokens([](auto& v) { v[5] = "<0xZZ>"; }));
  check_gguf_refused("600 bytes", tokens([](auto& v) { v[300] = std::string(600, 'a'); }));
  check_gguf_refused("stands twice", tokens([](auto& v) { v[301] = v[300]; }));
}
