// The chat templates that come with Convoy, and more, against what jinja2 gives: stored renderings and the
// tokenizers' cases tell it.

#include <boost/test/unit_test.hpp>
#include <ctime>
#include <map>
#include <set>

#include "model/chat/chat_template.hpp"
#include "model/chat/chat_texts.hpp"
#include "model/chat/python_json.hpp"
#include "model/error.hpp"
#include "model/json.hpp"
#include "test/model/golden_tokenizer.hpp"

using namespace convoy;
using namespace convoy::model;
using namespace convoy::test;
namespace json = boost::json;

namespace {

/// The clock that the stored renderings were made by: noon of 4 March 2025.
std::time_t recorded() {
  std::tm time{.tm_hour = 12, .tm_mday = 4, .tm_mon = 2, .tm_year = 125, .tm_isdst = -1};
  return std::mktime(&time);
}

/// Those that the stored renderings were made with.
SpecialTokens tokens_of(std::string_view name) {
  if (name.starts_with("deepseek")) return {"<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"};
  if (name.starts_with("llama")) return {"<|begin_of_text|>", "<|eot_id|>"};
  return {"<s>", "</s>"};
}

std::string tokenizers_text(const std::string& tokenizer) {
  const fs::path file = golden_tokenizer_dir(tokenizer) / "tokenizer_config.json";
  return std::string(parse_json(read_file(file), "golden").at("chat_template").as_string());
}

/// One that comes with Convoy, or a text of the tests'; nullopt: its licence does not allow a copy.
std::optional<ChatTemplate> golden_template(const std::string& name) {
  if (find_chat_text(name)) return ChatTemplate::named(name, tokens_of(name));
  if (name != "llama3-first")
    return ChatTemplate::named((source_dir() / "test/golden/templates" / (name + ".jinja")).string(),
                               tokens_of(name));
  if (golden_tokenizer_dir("llama3").empty()) return std::nullopt;
  return ChatTemplate::from_text(tokenizers_text("llama3"), tokens_of(name));
}

std::vector<ChatTemplate> all_templates() {
  std::vector<ChatTemplate> all;
  for (const std::string_view name : ChatTemplate::names())
    all.push_back(ChatTemplate::named(name, tokens_of(name)));
  return all;
}

/// The text, or nothing where it is refused.
std::optional<std::string> rendered(const ChatTemplate& chat_template, const json::object& line) {
  const json::value* thinking = line.if_contains("thinking");
  const json::value& tools = line.at("tools");
  RenderOptions options{.add_generation_prompt = line.at("add_generation_prompt").as_bool(),
                        .tools = tools.is_null() ? nullptr : &tools.as_array(),
                        .now = recorded()};
  if (thinking && !thinking->is_null()) options.thinking = thinking->as_bool();
  try {
    return plain_text(chat_template.render(parse_messages(line.at("messages")), options));
  } catch (const InputError&) {
    return std::nullopt;
  }
}

void check(const ChatTemplate& chat_template, const json::object& line, const json::value& text) {
  const auto own = rendered(chat_template, line);
  const std::string told = std::string(chat_template.name()) + ": " + json::serialize(line);
  BOOST_TEST(own.has_value() == !text.is_null(), told);
  if (own && !text.is_null()) BOOST_TEST(*own == text.as_string(), told);
}

/// The tokenizer's cases, with its own template.
void check_cases(const std::string& tokenizer, const std::string& name) {
  const ChatTemplate chat_template = ChatTemplate::from_text(tokenizers_text(tokenizer), tokens_of(name));
  BOOST_TEST((chat_template.name() == name || !find_chat_text(name)));
  const json::object cases = golden_cases(tokenizer);
  BOOST_REQUIRE_GE(cases.at("chat").as_array().size(), 20);
  for (const json::value& c : cases.at("chat").as_array()) check(chat_template, c.as_object(), c.at("text"));
}

/// Conversations that try everything a client can to write a control token, for templates of every
/// strictness.
std::vector<std::vector<Message>> hostile() {
  const auto calls = [](const json::value& arguments) {
    const ToolCall call{.id = "<x>456789", .type = "<x>", .name = "<x>", .arguments = arguments};
    return Message{.role = "assistant", .content = "<x>", .tool_calls = std::vector{call}};
  };
  const Message system{"system", "<x>"}, user{"user", "<x>"}, said{"assistant", "<x>"},
      thought{.role = "assistant", .content = "<x>", .reasoning_content = "<x>"},
      done{.role = "tool", .content = "<x>", .tool_call_id = "<x>456789"};
  return {{user},
          {system, user, said, user},
          {system, user, calls("<x>"), done, thought, user},
          {user, calls({{"<x>", "<x>"}}), done, said, user},
          {system, user, {"<x>", "<x>"}}};
}

}  // namespace

BOOST_AUTO_TEST_CASE(deepseek_v3_renders_every_case_as_the_reference_does) {
  check_cases("deepseek_v3", "deepseek-v3");
}

BOOST_AUTO_TEST_CASE(qwen3_renders_every_case_as_the_reference_does) { check_cases("qwen3", "qwen3"); }

BOOST_AUTO_TEST_CASE(llama3_renders_every_case_as_the_reference_does) {
  if (golden_tokenizer_dir("llama3").empty()) {
    BOOST_TEST_MESSAGE("skipped: llama3's licence does not allow a copy, and ../shared has none");
    return;
  }
  check_cases("llama3", "llama");
}

BOOST_AUTO_TEST_CASE(smollm2_renders_every_case_as_the_reference_does) {
  const json::object cases = golden_cases("smollm2");
  BOOST_REQUIRE_GE(cases.at("chat").as_array().size(), 10);
  for (const json::value& c : cases.at("chat").as_array())
    check(ChatTemplate::named("smollm2", {}), c.as_object(), c.at("text"));
}

BOOST_AUTO_TEST_CASE(every_template_renders_the_stored_conversations_as_jinja2_does) {
  const auto golden =
      parse_json(read_file(source_dir() / "test/golden/templates/cases.json"), "golden").as_object();
  const json::array& conversations = golden.at("conversations").as_array();
  const json::object& renderings = golden.at("renderings").as_object();
  BOOST_REQUIRE_GE(conversations.size(), 15);
  for (const std::string_view name : ChatTemplate::names())
    BOOST_TEST(renderings.contains(name), "no renderings of " << name);
  for (const auto& [name, texts] : renderings) {
    BOOST_REQUIRE_EQUAL(texts.as_array().size(), conversations.size());
    const auto chat_template = golden_template(name);
    for (size_t i = 0; chat_template && i < conversations.size(); i++)
      check(*chat_template, conversations[i].as_object(), texts.as_array()[i]);
  }
}

BOOST_AUTO_TEST_CASE(nothing_that_a_client_wrote_is_trusted_in_any_template) {
  const json::array tools = {json::parse(R"({"type": "<x>", "function": {"name": "<x>", "description": "<x>",
      "parameters": {"type": "object", "properties": {"<x>": {"type": "<x>", "description": "<x>"}}}}})")};
  for (const ChatTemplate& chat_template : all_templates()) {
    const std::string& name = chat_template.name();
    size_t accepted = 0, found = 0;
    for (const std::vector<Message>& messages : hostile()) {
      std::vector<Segment> segments;
      try {
        segments = chat_template.render(messages, {.tools = &tools});
      } catch (const InputError&) {  // a template need not take all of them
        continue;
      }
      accepted++;
      for (const Segment& segment : segments) {
        if (segment.trusted) BOOST_TEST(segment.text.find("<x>") == segment.text.npos, name << segment.text);
        if (!segment.trusted) found += segment.text.find("<x>") != segment.text.npos;
      }
    }
    BOOST_TEST(accepted >= 3, name);
    BOOST_TEST(found >= 10, name << found);
  }
}

BOOST_AUTO_TEST_CASE(every_text_that_comes_with_convoy_is_its_file_byte_for_byte_and_known_by_its_name) {
  std::set<std::string> names, digests;
  for (const ChatText& text : chat_texts()) {
    const auto file = source_dir() / "model/chat/texts" / (std::string(text.name) + ".jinja");
    BOOST_TEST(read_file(file) == std::string(text.jinja) + "\n");
    const ChatTemplate chat_template = ChatTemplate::from_text(text.jinja, {});
    BOOST_TEST(chat_template.name() == text.name);
    BOOST_TEST(names.emplace(text.name).second, text.name);
    BOOST_TEST(digests.insert(chat_template.sha256()).second, text.name);
    BOOST_TEST(chat_template.sha256().size() == 64);
  }
  BOOST_TEST(names.size() >= 9);
}

BOOST_AUTO_TEST_CASE(a_newline_at_the_end_of_the_jinja_text_does_not_matter) {
  const std::string text = tokenizers_text("qwen3");
  BOOST_TEST(ChatTemplate::from_text(text + "\n", {}).name() == "qwen3");
  BOOST_TEST(ChatTemplate::from_text(text + " \n", {}).name().starts_with("jinja-"));
}

BOOST_AUTO_TEST_CASE(no_messages_and_tools_that_are_no_objects_are_refused) {
  const json::array tools = {"get_weather"};
  for (const ChatTemplate& chat_template : all_templates()) {
    BOOST_CHECK_THROW(chat_template.render({}, {.add_generation_prompt = true}), InputError);
    const std::vector<Message> messages = {{"user", "Hi"}};
    BOOST_CHECK_THROW(chat_template.render(messages, {.tools = &tools}), InputError);
  }
}

BOOST_AUTO_TEST_CASE(a_message_of_the_wrong_shape_is_refused_with_its_place) {
  const std::map<std::string, std::string> refused = {
      {R"({"role": "user"})", "messages"},
      {R"([1])", "messages[0]"},
      {R"([{"content": "x"}])", "messages[0]"},
      {R"([{"role": "user", "content": "x"}, {"role": "user", "content": ["x"]}])", "messages[1]"},
      {R"([{"role": "assistant", "content": "", "reasoning_content": 5}])", "messages[0]"},
      {R"([{"role": "assistant", "content": "", "tool_calls": {}}])", "messages[0]"},
      {R"([{"role": "assistant", "tool_calls": [{"function": 1}]}])", "messages[0].tool_calls[0].function"},
      {R"([{"role": "assistant", "tool_calls": [{"function": {"arguments": ""}}]}])",
       "messages[0].tool_calls[0]"},
      {R"([{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}])",
       "messages[0].tool_calls[0]"},
      {R"([{"role": "assistant", "content": "", "prefix": 1}])", "messages[0]"},
  };
  for (const auto& [text, where] : refused) {
    BOOST_CHECK_EXCEPTION(parse_messages(parse_json(text, "text")), InputError,
                          [&](const InputError& error) { return error.where() == where; });
  }
}

BOOST_AUTO_TEST_CASE(absent_null_and_empty_are_three_things) {
  const auto messages = parse_messages(json::parse(
      R"([{"role": "a"}, {"role": "a", "content": null, "tool_calls": null},
          {"role": "a", "content": "", "tool_calls": []}])"));
  BOOST_TEST((!messages[0].content.present() && !messages[0].tool_calls.present()));
  BOOST_TEST((messages[1].content.null() && messages[1].tool_calls.null()));
  BOOST_TEST((messages[2].content.get() && messages[2].content.get()->empty()));
  BOOST_TEST((messages[2].tool_calls.get() && messages[2].tool_calls.get()->empty()));
}

BOOST_AUTO_TEST_CASE(json_is_spelled_as_python_does) {
  const std::pair<const char*, const char*> spellings[] = {
      {R"({ "b":1,"a":[ ] ,"c":{}})", R"({"b": 1, "a": [], "c": {}})"},
      {R"(["ü\u2028/\"\\\u0001\u007f"])", "[\"ü\u2028/\\\"\\\\\\u0001\x7f\"]"},
      {"[1.0, -0.0, 0.1, 1e5, 1E-5, 0.0001]", "[1.0, -0.0, 0.1, 100000.0, 1e-05, 0.0001]"},
      {"[1e15, 1e16, 1.5e16, 3.14, -2.5e-300, 0.30000000000000004]",
       "[1000000000000000.0, 1e+16, 1.5e+16, 3.14, -2.5e-300, 0.30000000000000004]"},
      {"[18446744073709551615, -9223372036854775808, true, null]",
       "[18446744073709551615, -9223372036854775808, true, null]"},
  };
  for (const auto& [text, python] : spellings)
    BOOST_TEST(python_json(parse_json(text, "text"), "here") == python);
  BOOST_TEST(python_json(parse_json(R"({"a": [1, {}], "b": {"c": []}})", "text"), "here", 4) ==
             "{\n    \"a\": [\n        1,\n        {}\n    ],\n    \"b\": {\n        \"c\": []\n    }\n}");
}

BOOST_AUTO_TEST_CASE(a_number_whose_spelling_is_lost_is_refused) {
  for (const char* text : {"[18446744073709551616]", "[-9223372036854775809]", "[1e400]", "[1e30]"}) {
    BOOST_CHECK_EXCEPTION(python_json(parse_json(text, "text"), "tools"), InputError,
                          [](const InputError& error) { return error.where() == "tools"; });
  }
}
