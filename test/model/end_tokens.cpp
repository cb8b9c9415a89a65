// Which tokens end an answer: every one that a checkpoint's files mean, whichever of them they name.

#include "model/chat/end_tokens.hpp"

#include <boost/json.hpp>

#include "builders.hpp"
#include "model/chat/chat_texts.hpp"
#include "model/checkpoint/checkpoint_parts.hpp"
#include "model/checkpoint/inspect.hpp"
#include "model/rewrite/rewrite_config.hpp"
#include "model/tokenizer/end_names.hpp"
#include "small_tokenizer.hpp"

using namespace convoy;
using namespace convoy::model;
using test::GgufBuilder;
using test::golden;
using test::raw;

namespace {

constexpr int32_t normal = 1, control = 3, user_defined = 4, unused = 5;

struct Token {
  std::string text;
  int32_t type = control;
};

std::vector<int32_t> ends_of(const std::vector<Token>& tokens, uint32_t eos,
                             const std::vector<std::pair<std::string, uint32_t>>& keys = {}) {
  std::string texts = raw(uint32_t{test::gguf_string}) + raw(uint64_t{tokens.size()}),
              types = raw(uint32_t{test::gguf_i32}) + raw(uint64_t{tokens.size()});
  for (const Token& token : tokens) texts += test::counted(token.text), types += raw(token.type);
  GgufBuilder file = test::tiny_gguf("llama", {.vocab = 8});
  file.key("tokenizer.ggml.tokens", test::gguf_array, texts)
      .key("tokenizer.ggml.token_type", test::gguf_array, types)
      .key("tokenizer.ggml.eos_token_id", eos);
  for (const auto& [name, id] : keys) file.key(name, id);
  return make_checkpoint(read_gguf(test::in_memory(file.bytes())))->config().end_tokens;
}

/// The small tokenizer with more control tokens, from id 310 on.
std::shared_ptr<const Tokenizer> tokenizer_with(const std::vector<std::string>& tokens, bool special = true) {
  TokenizerParts parts = test::small_parts();
  int32_t id = 310;
  for (const std::string& token : tokens)
    parts.added.push_back({.id = id++, .content = token, .special = special});
  return make_tokenizer(std::move(parts));
}

Config config_with(std::vector<int32_t> ends, int64_t vocab = 400) {
  Config config;
  config.vocab = vocab;
  config.end_tokens = std::move(ends);
  return config;
}

using Ids = std::vector<int32_t>;

}  // namespace

// The sets are those that llama-server prints as EOG for such vocabularies.
BOOST_AUTO_TEST_CASE(a_gguf_ends_at_every_control_token_that_is_known_to_end_something) {
  const auto llama3 = ends_of({{"a", normal},
                               {"<|begin_of_text|>"},
                               {"<|end_of_text|>"},
                               {"<|start_header_id|>"},
                               {"<|eom_id|>"},
                               {"<|eot_id|>"}},
                              2);
  BOOST_TEST(llama3 == (Ids{2, 4, 5}), boost::test_tools::per_element());
  const auto qwen = ends_of({{"a", normal},
                             {"<|endoftext|>"},
                             {"<|im_start|>"},
                             {"<|im_end|>"},
                             {"<|fim_prefix|>"},
                             {"<|fim_pad|>"},
                             {"<|repo_name|>"},
                             {"<|file_sep|>"}},
                            1);
  BOOST_TEST(qwen == (Ids{1, 3, 5, 6, 7}), boost::test_tools::per_element());
  const auto deepseek = ends_of(
      {{"<｜begin▁of▁sentence｜>"}, {"<｜User｜>"}, {"<｜end▁of▁sentence｜>"}, {"<｜▁pad▁｜>"}, {"<|EOT|>"}},
      0, {{"tokenizer.ggml.eot_token_id", 4}});
  BOOST_TEST(deepseek == (Ids{0, 4, 2}), boost::test_tools::per_element());
  const auto others = ends_of(
      {{"a", normal}, {"</s>"}, {"<eos>"}, {"[PAD]"}, {"<|return|>"}, {"<|call|>"}, {"<turn|>"}, {"<stop>"}},
      1);
  BOOST_TEST(others == (Ids{1, 2, 3, 4, 5, 6}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(an_end_that_the_file_calls_user_defined_is_one_as_well) {
  BOOST_TEST(ends_of({{"a", normal}, {"<|im_start|>", user_defined}, {"</s>"}, {"<|im_end|>", user_defined}},
                     2) == (Ids{2, 3}),
             boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_word_that_only_looks_like_an_end_is_none) {
  BOOST_TEST(ends_of({{"</s>", normal}, {"<|im_end|>", unused}, {"x"}}, 2) == Ids{2},
             boost::test_tools::per_element());
  BOOST_TEST(ends_of({{"a", normal}, {"<|im_start|>", user_defined}, {"x"}, {"<|im_start|>"}}, 2) == Ids{2},
             boost::test_tools::per_element());
  std::vector<Token> many(9, {"a", normal});  // the model has rows for 8
  many[8] = {"<|im_end|>"};
  BOOST_TEST(ends_of(many, 2) == Ids{2}, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(the_tokenizers_own_end_of_a_text_ends_an_answer) {
  TokenizerParts parts = test::small_parts();
  parts.eos = "<|x|>";
  const auto tokenizer = make_tokenizer(parts);
  BOOST_TEST(end_tokens(config_with({}), tokenizer.get(), std::nullopt) == Ids{300},
             boost::test_tools::per_element());
  BOOST_TEST(end_tokens(config_with({300, 7}), tokenizer.get(), std::nullopt) == (Ids{300, 7}),
             boost::test_tools::per_element());
  BOOST_TEST(end_tokens(config_with({7}, 300), tokenizer.get(), std::nullopt) == Ids{7},
             boost::test_tools::per_element());  // which the model cannot say
  BOOST_TEST(end_tokens(config_with({7}), nullptr, std::nullopt) == Ids{7}, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(the_token_with_which_the_template_ends_a_turn_ends_an_answer) {
  const auto tokenizer =
      tokenizer_with({"<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>",
                      "<｜end▁of▁sentence｜>", "<｜Assistant｜>", "<|begin_of_text|>", "</s>"});
  const auto ends_with = [&](const char* name) {
    return end_tokens(config_with({7}), tokenizer.get(), ChatTemplate::named(name, {.eos = "</s>"}));
  };
  for (const char* name : {"smollm2", "qwen2.5", "qwen3", "qwen3-coder", "qwq-32b"})
    BOOST_TEST(ends_with(name) == (Ids{7, 311}), name << boost::test_tools::per_element());
  for (const char* name : {"deepseek-v3", "deepseek-r1-distill-tools", "made"})
    BOOST_TEST(ends_with(name) == (Ids{7, 315}), name << boost::test_tools::per_element());
  // Told by the tokenizer, and by a text that no name is known for.
  BOOST_TEST(ends_with("mistral-nemo") == (Ids{7, 318}), boost::test_tools::per_element());
  const auto llama = ChatTemplate::from_text(
      "{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim "
      "+ "
      "'<|eot_id|>' }}{% endfor %}",
      {});
  BOOST_TEST(end_tokens(config_with({7}), tokenizer.get(), llama) == (Ids{7, 312}),
             boost::test_tools::per_element());
  // A vocabulary that lacks the token writes it as words: none of them ends anything.
  BOOST_TEST(end_tokens(config_with({7}), make_tokenizer(test::small_parts()).get(),
                        ChatTemplate::named("smollm2", {})) == Ids{7},
             boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(inspect_names_the_ends_of_a_folder_that_only_its_tokenizer_knows) {
  const test::TemporaryFolder folder;
  std::filesystem::copy(golden("llama-gqa"), folder.path());
  auto config = boost::json::parse(Mapping::open(folder.path() / "config.json")->text()).as_object();
  config.erase("eos_token_id");
  folder.write("config.json", boost::json::serialize(config));
  std::filesystem::remove(folder.path() / "generation_config.json");
  TokenizerParts parts = test::small_parts();
  parts.eos = "<|x|>";
  parts.added.push_back({.id = 310, .content = "<｜end▁of▁sentence｜>", .special = true});
  parts.chat_template = std::string(find_chat_text("made")->jinja);
  folder.write("tokenizer.json", tokenizer_json(parts));
  folder.write("tokenizer_config.json", tokenizer_config_json(parts, std::nullopt));
  const auto checkpoint = Checkpoint::open(folder.path());
  BOOST_TEST(checkpoint->config().end_tokens.empty());
  const auto ends = inspect_text(*checkpoint).ends;
  BOOST_TEST((ends == decltype(ends){{300, "<|x|>"}, {310, "<｜end▁of▁sentence｜>"}}));
}

BOOST_AUTO_TEST_CASE(a_gguf_has_keys_for_the_ends_that_no_reader_knows_by_their_text) {
  TokenizerParts parts = test::small_parts();
  int32_t id = 310;
  for (const char* token : {"<|im_end|>", "<|endoftext|>", "<|fim_pad|>", "<|stop|>", "<|halt|>"})
    parts.added.push_back({.id = id++, .content = token, .special = true});
  parts.eos = "<|im_end|>";
  const auto written = [&](const Ids& ends) {
    GgufWriter gguf;
    write_gguf_tokenizer({parts}, config_with(ends), gguf);
    const GgufMetadata metadata = GgufFile::parse(test::in_memory(gguf.header())).metadata;
    Ids ids;
    for (const char* name : {"eos", "eot", "eom"}) {
      const auto found = metadata.find("tokenizer.ggml." + std::string(name) + "_token_id");
      if (found != metadata.end())
        ids.push_back(static_cast<int32_t>(std::get<uint64_t>(found->second.value)));
    }
    return ids;
  };
  BOOST_TEST(written({311, 310}) == (Ids{310, 311}), boost::test_tools::per_element());
  BOOST_TEST(written({310, 311, 312, 313, 314}) == (Ids{310, 313, 314}), boost::test_tools::per_element());
  BOOST_TEST(written({311, 312, 313}) == (Ids{310, 313, 311}), boost::test_tools::per_element());
  BOOST_TEST(written({310, 313, 314, 300}) == (Ids{310, 313, 314}), boost::test_tools::per_element());
  const auto lost = lost_in_gguf({parts}, config_with({310, 313, 314, 300}));
  BOOST_TEST(lost.front() == "1 of 4 tokens that end an answer");
}
