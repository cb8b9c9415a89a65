// Damaged and hostile tokenizer files end in an InputError, and nothing else.

#include <boost/test/unit_test.hpp>
#include <iostream>
#include <random>

#include "model/error.hpp"
#include "test/model/gguf_arrays.hpp"
#include "test/model/golden_tokenizer.hpp"
#include "test/model/small_tokenizer.hpp"

using namespace convoy;
using namespace convoy::model;
using namespace convoy::test;
namespace json = boost::json;

namespace {

/// small_parts() as a tokenizer.json.
json::object small_json() {
  const TokenizerParts parts = small_parts();
  json::object vocabulary;
  for (const auto& [text, id] : parts.vocabulary) vocabulary[text] = id;
  json::array merges, added;
  for (const auto& [left, right] : parts.merges) merges.push_back(json::array{left, right});
  for (const AddedToken& t : parts.added) {
    added.push_back(json::object{{"id", t.id},
                                 {"content", t.content},
                                 {"special", t.special},
                                 {"single_word", t.single_word},
                                 {"lstrip", t.lstrip},
                                 {"rstrip", t.rstrip},
                                 {"normalized", t.normalized}});
  }
  const json::object byte_level{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  return {{"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"decoder", byte_level},
          {"post_processor", nullptr},
          {"added_tokens", added},
          {"model", json::object{{"type", "BPE"}, {"vocab", vocabulary}, {"merges", merges}}}};
}

std::shared_ptr<const Tokenizer> load(std::string_view text) {
  return make_tokenizer(parse_tokenizer_json(text, "hostile"));
}

/// Loads it, or is refused; whatever else happens fails the test. Returns whether it was loaded.
bool load_or_refuse(std::string_view text) {
  try {
    const auto tokenizer = load(text);
    tokenizer->decode(tokenizer->encode("The <|x|> <think> abc 123 é", true));
    return true;
  } catch (const InputError&) {
    return false;
  }
}

/// The document after `change` is refused with an error that contains `named`.
template <typename Change>
void check_refused(const std::string& named, Change change) {
  json::object document = small_json();
  change(document);
  BOOST_CHECK_EXCEPTION(load(json::serialize(document)), InputError, [&](const InputError& e) {
    const bool found = std::string(e.what()).find(named) != std::string::npos;
    if (!found) std::cout << "expected \"" << named << "\" in: " << e.what() << '\n';
    return found;
  });
}

GgufMetadata small_gguf() {
  const TokenizerParts parts = small_parts();
  std::vector<std::string> tokens, merges;
  for (const auto& [text, id] : parts.vocabulary) tokens.push_back(text);
  std::vector<int32_t> types(tokens.size(), 1);
  tokens.push_back("<|x|>");
  types.push_back(3);
  for (const auto& [left, right] : parts.merges) merges.push_back(left + " " + right);
  GgufMetadata metadata;
  metadata["tokenizer.ggml.model"].value = "gpt2";
  metadata["tokenizer.ggml.pre"].value = "gpt-2";
  metadata["tokenizer.ggml.tokens"].value = gguf_values(tokens);
  metadata["tokenizer.ggml.token_type"].value = gguf_values(types);
  metadata["tokenizer.ggml.merges"].value = gguf_values(merges);
  metadata["tokenizer.ggml.eos_token_id"].value = uint64_t{260};
  return metadata;
}

template <typename Change>
void check_gguf_refused(const std::string& named, Change change) {
  GgufMetadata metadata = small_gguf();
  change(metadata);
  BOOST_CHECK_EXCEPTION(
      make_tokenizer(read_tokenizer_gguf(metadata, "hostile")), InputError,
      [&](const InputError& e) { return std::string(e.what()).find(named) != std::string::npos; });
}

}  // namespace

BOOST_AUTO_TEST_CASE(the_small_tokenizer_is_the_same_from_json_and_from_parts) {
  const auto tokenizer = load(json::serialize(small_json()));
  BOOST_TEST(tokenizer->digest() == make_tokenizer(small_parts())->digest());
}

BOOST_AUTO_TEST_CASE(a_truncated_file_is_refused_wherever_it_ends) {
  const std::string text = json::serialize(small_json());
  for (size_t bytes = 0; bytes < text.size(); bytes += 3) BOOST_TEST(!load_or_refuse(text.substr(0, bytes)));
}

BOOST_AUTO_TEST_CASE(a_flipped_bit_is_refused_or_makes_another_tokenizer) {
  const uint32_t seed = std::random_device()();
  std::cout << "seed " << seed << '\n';
  std::mt19937 random(seed);
  const std::string text = json::serialize(small_json());
  int refused = 0;
  for (int i = 0; i < 1500; ++i) {
    std::string damaged = text;
    damaged[random() % damaged.size()] ^= static_cast<char>(1 << random() % 8);
    refused += !load_or_refuse(damaged);
  }
  BOOST_TEST(refused > 100);
}

BOOST_AUTO_TEST_CASE(a_real_file_with_damage_is_refused_or_loads) {
  const uint32_t seed = std::random_device()();
  std::cout << "seed " << seed << '\n';
  std::mt19937 random(seed);
  const std::string text = read_xz(golden_tokenizer_dir("deepseek_v3") / "tokenizer.json.xz");
  for (int i = 0; i < 4; ++i) BOOST_TEST(!load_or_refuse(text.substr(0, random() % text.size())));
  for (int i = 0; i < 4; ++i) {
    std::string damaged = text;
    for (int flips = 0; flips < 3; ++flips)
      damaged[random() % damaged.size()] ^= static_cast<char>(1 << random() % 8);
    load_or_refuse(damaged);
  }
}

BOOST_AUTO_TEST_CASE(what_is_not_a_tokenizer_is_refused) {
  for (const char* text : {"", "null", "[]", "{}", "{\"model\":[]}", "{\"model\":{}}", "\xff", "[[[[[[[["}) {
    BOOST_TEST(!load_or_refuse(text), text);
  }
  BOOST_TEST(!load_or_refuse(std::string(100'000, '[')));
}

BOOST_AUTO_TEST_CASE(ids_that_are_huge_negative_or_taken_are_refused) {
  auto set_id = [](const json::value& id) {
    return [id](json::object& d) { d["model"].as_object()["vocab"].as_object()["a"] = id; };
  };
  check_refused("id of \"a\"", set_id(int64_t{1} << 62));
  check_refused("id of \"a\"", set_id(uint64_t{1} << 63));
  check_refused("id of \"a\"", set_id(token_ids_max));
  check_refused("id of \"a\"", set_id(-1));
  check_refused("id of \"a\"", set_id(1.5));
  check_refused("id of \"a\"", set_id("7"));
  check_refused("two tokens have id 256", set_id(256));
  check_refused("two tokens have id 300",
                [](json::object& d) { d["added_tokens"].as_array()[1].as_object()["id"] = 300; });
  check_refused("\"<|x|>\" stands twice",
                [](json::object& d) { d["added_tokens"].as_array()[2].as_object()["content"] = "<|x|>"; });
}

BOOST_AUTO_TEST_CASE(merges_that_make_no_sense_are_refused) {
  auto add_merge = [](const json::value& merge) {
    return [merge](json::object& d) { d["model"].as_object()["merges"].as_array().push_back(merge); };
  };
  check_refused("\"nope\"", add_merge(json::array{"nope", "a"}));
  check_refused("\"ba\"", add_merge(json::array{"b", "a"}));
  check_refused("stands twice", add_merge(json::array{"a", "b"}));
  check_refused("stands twice", add_merge("a b"));
  check_refused("two tokens", add_merge(json::array{"a"}));
  check_refused("two tokens", add_merge("ab"));
  check_refused("two tokens", add_merge("a b c"));
  check_refused("not a string", add_merge(7));
}

BOOST_AUTO_TEST_CASE(a_control_token_that_is_one_byte_of_any_text_is_refused) {
  check_refused("added token \"q\"", [](json::object& d) {
    const json::value id = d["model"].as_object()["vocab"].as_object()["q"];
    d["added_tokens"].as_array().push_back(json::object{{"id", id}, {"content", "q"}, {"special", true}});
  });
}

BOOST_AUTO_TEST_CASE(a_version_line_among_merges_is_none) {
  for (const int at : {0, 2}) {
    json::object document = small_json();
    json::array& merges = document["model"].as_object()["merges"].as_array();
    merges.insert(merges.begin() + at, "#version: 0.2");
    const auto tokenizer = load(json::serialize(document));
    BOOST_TEST(tokenizer->encode("abc", false) == std::vector<int32_t>{257},
               boost::test_tools::per_element());
  }
  GgufMetadata metadata = small_gguf();
  change_values<std::string>(metadata, "tokenizer.ggml.merges",
                             [](auto& merges) { merges.insert(merges.begin(), "#version: 0.2"); });
  BOOST_TEST(make_tokenizer(read_tokenizer_gguf(metadata, "small"))->encode("abc", false) ==
                 std::vector<int32_t>{257},
             boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(parts_that_are_not_known_are_refused_by_name) {
  const json::value unknown = json::object{{"type", "Marmalade"}};
  for (const char* key : {"normalizer", "pre_tokenizer", "post_processor", "decoder"}) {
    check_refused("Marmalade", [&](json::object& d) { d[key] = unknown; });
  }
  check_refused("Marmalade", [](json::object& d) { d["model"].as_object()["type"] = "Marmalade"; });
  check_refused("byte_fallback", [](json::object& d) { d["model"].as_object()["byte_fallback"] = true; });
  check_refused("dropout", [](json::object& d) { d["model"].as_object()["dropout"] = 0.1; });
  check_refused("end_of_word_suffix",
                [](json::object& d) { d["model"].as_object()["end_of_word_suffix"] = "</w>"; });
  check_refused("Marmalade", [](json::object& d) {
    d["pre_tokenizer"] =
        json::object{{"type", "Split"}, {"pattern", json::object{{"Regex", "a"}}}, {"behavior", "Marmalade"}};
  });
  check_refused("is wrong at its byte", [](json::object& d) {
    const json::object split{
        {"type", "Split"}, {"pattern", json::object{{"Regex", "(a"}}}, {"behavior", "Isolated"}};
    const json::object sequence{{"type", "Sequence"},
                                {"pretokenizers", json::array{split, d.at("pre_tokenizer")}}};
    d["pre_tokenizer"] = sequence;
  });
}

BOOST_AUTO_TEST_CASE(a_gguf_gives_the_tokenizer_that_its_metadata_describe) {
  const auto tokenizer = make_tokenizer(read_tokenizer_gguf(small_gguf(), "small"));
  BOOST_TEST(tokenizer->encode("<|x|>abc", true) == (std::vector<int32_t>{260, 257}),
             boost::test_tools::per_element());
  BOOST_TEST(tokenizer->eos().value() == 260);
  BOOST_TEST(!tokenizer->bos().has_value());
  BOOST_TEST(!tokenizer->chat_template().has_value());
}

BOOST_AUTO_TEST_CASE(gguf_metadata_that_make_no_sense_are_refused) {
  check_gguf_refused("smollm", [](GgufMetadata& m) { m["tokenizer.ggml.pre"].value = "marmalade"; });
  check_gguf_refused("bert", [](GgufMetadata& m) { m["tokenizer.ggml.model"].value = "bert"; });
  for (const char* key : {"tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens",
                          "tokenizer.ggml.token_type", "tokenizer.ggml.merges"}) {
    check_gguf_refused(key, [&](GgufMetadata& m) { m.erase(key); });
    check_gguf_refused(key, [&](GgufMetadata& m) { m[key].value = uint64_t{7}; });
  }
  const auto types = [](auto change) {
    return [change](GgufMetadata& m) { change_values<int32_t>(m, "tokenizer.ggml.token_type", change); };
  };
  check_gguf_refused("entries", types([](auto& v) { v.pop_back(); }));
  check_gguf_refused("type 9", types([](auto& v) { v[5] = 9; }));
  check_gguf_refused("not a number", types([](auto& v) { v[5] = -1; }));
  for (const char* key : {"tokenizer.ggml.tokens", "tokenizer.ggml.merges"})
    check_gguf_refused("not a string", [key](GgufMetadata& m) { m[key] = m["tokenizer.ggml.token_type"]; });
  check_gguf_refused("not a number",
                     [](GgufMetadata& m) { m["tokenizer.ggml.token_type"] = m["tokenizer.ggml.tokens"]; });
  check_gguf_refused("stands twice", [](GgufMetadata& m) {
    change_values<std::string>(m, "tokenizer.ggml.tokens", [](auto& tokens) { tokens[5] = tokens[6]; });
  });
  check_gguf_refused("beyond the vocabulary",
                     [](GgufMetadata& m) { m["tokenizer.ggml.eos_token_id"].value = uint64_t{1} << 63; });
}
