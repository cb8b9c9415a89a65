// Every stored case of the reference, ids and decoded text.

#include <boost/test/unit_test.hpp>
#include <chrono>
#include <iostream>

#include "model/chat/chat_template.hpp"
#include "model/tokenizer/tokenizer_parts.hpp"
#include "test/model/golden_tokenizer.hpp"

using namespace convoy;
using namespace convoy::model;
using namespace convoy::test;
namespace json = boost::json;

namespace {

std::shared_ptr<const Tokenizer> golden_tokenizer(const std::string& name) {
  const fs::path file = golden_tokenizer_dir(name) / "tokenizer.json.xz";
  return make_tokenizer(parse_tokenizer_json(read_xz(file), file.string()));
}

std::string printed(std::span<const int32_t> ids) {
  std::string text;
  for (const int32_t id : ids) text += std::to_string(id) + ' ';
  return text;
}

void check_cases(const Tokenizer& tokenizer, const json::object& cases) {
  const json::array& encode = cases.at("encode").as_array();
  BOOST_REQUIRE_GT(encode.size(), 400);
  BOOST_TEST(tokenizer.size() == cases.at("vocab_size").as_int64());
  for (const json::value& c : encode) {
    const std::string text(c.at("text").as_string());
    const auto ids = json::value_to<std::vector<int32_t>>(c.at("ids"));
    const std::vector<int32_t> own = tokenizer.encode(text, true);
    BOOST_TEST(own == ids, json::serialize(c.at("text"))
                               << "\n  ours      " << printed(own) << "\n  reference " << printed(ids));
    const std::string decoded = tokenizer.decode(ids);
    BOOST_TEST(decoded == c.at("decoded").as_string(), json::serialize(c.at("text"))
                                                           << " decodes to " << decoded);
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(deepseek_v3_encodes_and_decodes_every_case_as_the_reference_does) {
  check_cases(*golden_tokenizer("deepseek_v3"), golden_cases("deepseek_v3"));
}

BOOST_AUTO_TEST_CASE(qwen3_encodes_and_decodes_every_case_as_the_reference_does) {
  check_cases(*golden_tokenizer("qwen3"), golden_cases("qwen3"));
}

BOOST_AUTO_TEST_CASE(llama3_encodes_and_decodes_every_case_as_the_reference_does) {
  if (golden_tokenizer_dir("llama3").empty()) {
    BOOST_TEST_MESSAGE("skipped: llama3's licence does not allow a copy, and ../shared has none");
    return;
  }
  check_cases(*golden_tokenizer("llama3"), golden_cases("llama3"));
}

BOOST_AUTO_TEST_CASE(smollm2_in_the_default_gguf_encodes_and_decodes_every_case_as_the_reference_does) {
  if (!fs::exists(default_model())) {
    BOOST_TEST_MESSAGE("skipped: the default model is not in models/ (scripts/fetch-model brings it)");
    return;
  }
  check_cases(*Tokenizer::load(default_model()), golden_cases("smollm2"));
}

BOOST_AUTO_TEST_CASE(the_default_gguf_brings_the_template_that_smollm2_is_recognised_by) {
  if (!fs::exists(default_model())) {
    BOOST_TEST_MESSAGE("skipped: the default model is not in models/ (scripts/fetch-model brings it)");
    return;
  }
  const auto tokenizer = Tokenizer::load(default_model());
  BOOST_REQUIRE(tokenizer->chat_template().has_value());
  BOOST_TEST(ChatTemplate::of(*tokenizer)->name() == "smollm2");
  BOOST_TEST(tokenizer->bos().value() == 1);
  BOOST_TEST(tokenizer->eos().value() == 2);
}
