#include "gateway/openai_request.hpp"

#include <boost/test/unit_test.hpp>
#include <random>

#include "gateway/prompt.hpp"
#include "test/gateway/fake_model.hpp"

namespace convoy::gateway {

namespace {

const actors::ClusterConfig::Gateway limits = [] {
  actors::ClusterConfig::Gateway limits;
  limits.stop_strings_max = 4;
  limits.prompts_max = 3;
  return limits;
}();

std::string chat(const std::string& more,
                 const std::string& messages = R"([{"role":"user","content":"hi"}])") {
  return R"({"model":"fake-model","messages":)" + messages + (more.empty() ? "" : "," + more) + "}";
}
std::string completion(const std::string& more, const std::string& prompt = R"("hi")") {
  return R"({"model":"fake-model","prompt":)" + prompt + (more.empty() ? "" : "," + more) + "}";
}

CompletionRequest good(const std::string& body, Endpoint endpoint = Endpoint::chat) {
  auto parsed = parse_request(endpoint, body, limits);
  if (auto* error = std::get_if<ApiError>(&parsed)) BOOST_FAIL(body + ": " + error->message);
  return std::get<CompletionRequest>(std::move(parsed));
}

ApiError bad(const std::string& body, Endpoint endpoint = Endpoint::chat) {
  auto parsed = parse_request(endpoint, body, limits);
  if (!std::holds_alternative<ApiError>(parsed)) BOOST_FAIL("accepted: " + body.substr(0, 200));
  return std::get<ApiError>(parsed);
}

void refuses(const std::string& body, const std::string& param, Endpoint endpoint = Endpoint::chat) {
  BOOST_TEST_CONTEXT(body) {
    const ApiError error = bad(body, endpoint);
    BOOST_TEST(error.status == 400u);
    BOOST_TEST(error.param == param);
    BOOST_TEST(error.type() == "invalid_request_error");
    BOOST_TEST(!error.message.empty());
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_plain_request_gets_the_defaults_of_openai) {
  const CompletionRequest r = good(chat(""));
  BOOST_TEST(r.model == "fake-model");
  BOOST_TEST(ChatMessages(r).size() == 1u);
  BOOST_TEST(*ChatMessages(r).read(0).content.get() == "hi");
  BOOST_TEST(r.sampling.temperature == 1.0f);
  BOOST_TEST(r.sampling.top_p == 1.0f);
  BOOST_TEST(!r.max_tokens.has_value());
  BOOST_TEST(!r.stream);
  BOOST_TEST(!r.deterministic());
}

BOOST_AUTO_TEST_CASE(every_field_of_a_request_arrives) {
  const CompletionRequest r = good(chat(
      R"("temperature":0,"top_p":0.5,"top_k":7,"min_p":0.1,"presence_penalty":-2,"frequency_penalty":2,
         "repetition_penalty":1.5,"seed":-5,"max_tokens":9,"max_completion_tokens":8,"stop":["a","b"],"stream":true,
         "stream_options":{"include_usage":true},"logprobs":true,"top_logprobs":3,"ignore_eos":true,"min_tokens":2,
         "return_token_ids":true)"));
  BOOST_TEST(r.sampling.temperature == 0.0f);
  BOOST_TEST(r.sampling.top_p == 0.5f);
  BOOST_TEST(r.sampling.top_k == 7u);
  BOOST_TEST(r.sampling.min_p == 0.1f);
  BOOST_TEST(r.sampling.presence_penalty == -2.0f);
  BOOST_TEST(r.sampling.frequency_penalty == 2.0f);
  BOOST_TEST(r.sampling.repetition_penalty == 1.5f);
  BOOST_TEST(static_cast<int64_t>(r.sampling.seed) == -5);
  BOOST_TEST(r.max_tokens.value() == 8u);
  BOOST_TEST(r.stop == (std::vector<std::string>{"a", "b"}));
  BOOST_TEST((r.stream && r.include_usage && r.return_token_ids && r.ignore_eos && r.sampling.logprobs));
  BOOST_TEST(r.sampling.top_logprobs == 3u);
  BOOST_TEST(r.sampling.min_tokens == 2u);
  BOOST_TEST(r.deterministic());
}

BOOST_AUTO_TEST_CASE(null_means_absent_and_unknown_fields_are_ignored) {
  const CompletionRequest r =
      good(chat(R"("temperature":null,"stop":null,"seed":null,"tools":null,"n":null,"made_up":{"x":[1]})"));
  BOOST_TEST(r.sampling.temperature == 1.0f);
  BOOST_TEST(!r.seeded);
}

BOOST_AUTO_TEST_CASE(values_that_ask_for_nothing_unsupported_pass) {
  good(chat(R"("n":1,"tools":[],"tool_choice":"none","logit_bias":{},"response_format":{"type":"text"},
               "modalities":["text"],"store":true,"user":"u","parallel_tool_calls":true,"top_k":-1)"));
  good(completion(R"("n":1,"best_of":1,"echo":false,"suffix":"","logprobs":null)"), Endpoint::completions);
}

BOOST_AUTO_TEST_CASE(neutral_values_of_what_we_do_not_have_pass) {
  good(chat(R"("chat_template_kwargs":{},"guided_json":null,"guided_choice":[],"structured_outputs":{},
               "stop_token_ids":[],"bad_words":[],"regex":"","lora_path":null,"use_beam_search":false,
               "skip_special_tokens":true,"add_generation_prompt":true,"add_special_tokens":false,
               "tool_choice":"","function_call":{},"modalities":[],"response_format":{},"priority":3)"));
  good(chat(R"("stream_options":{},"top_logprobs":0,"logprobs":false,"stop":"")"));
  good(chat(R"("stream_options":{"include_usage":false},"stop":[])"));
  good(completion(R"("logprobs":false,"stop":"","stream_options":{})"), Endpoint::completions);
  const auto r =
      good(chat("", R"([{"role":"user","content":"x","name":"","tool_calls":[],"function_call":null,
                                    "audio":{}},{"role":"assistant","content":"y","name":"Ada"}])"));
  BOOST_TEST(ChatMessages(r).size() == 2u);
}

BOOST_AUTO_TEST_CASE(an_effort_that_the_model_has_no_notion_of_is_accepted) {
  for (const char* effort : {R"("none")", R"("low")", R"("xhigh")", "null"})
    good(chat(std::string(R"("reasoning_effort":)") + effort + R"(,"verbosity":"low")"));
}

BOOST_AUTO_TEST_CASE(integers_may_be_written_as_json_likes) {
  BOOST_TEST(good(chat(R"("max_tokens":5.0)")).max_tokens.value() == 5u);
  BOOST_TEST(good(chat(R"("seed":1e3,"top_k":2.0,"n":1.0)")).sampling.seed == 1000u);
}

BOOST_AUTO_TEST_CASE(a_value_that_is_zero_as_float_counts_as_zero) {
  for (const char* top_p : {"0", "0.0", "1e-50"}) {
    const auto r = good(chat(std::string(R"("temperature":2,"top_p":)") + top_p));
    BOOST_TEST(r.sampling.temperature == 0.0f);  // greedy, whatever the temperature
    BOOST_TEST(r.sampling.top_p == 1.0f);
    BOOST_TEST(r.deterministic());
  }
  BOOST_TEST(good(chat(R"("temperature":1e-50)")).deterministic());
}

BOOST_AUTO_TEST_CASE(known_fields_that_we_cannot_serve_are_refused_by_name) {
  for (const auto& [field, value] :
       std::vector<std::pair<std::string, std::string>>{{"tools", R"([{"type":"function"}])"},
                                                        {"tool_choice", R"("required")"},
                                                        {"functions", R"([{"name":"f"}])"},
                                                        {"function_call", R"({"name":"f"})"},
                                                        {"logit_bias", R"({"5":1})"},
                                                        {"response_format", R"({"type":"json_object"})"},
                                                        {"response_format", R"("text")"},
                                                        {"modalities", R"(["text","audio"])"},
                                                        {"audio", R"({"voice":"x"})"},
                                                        {"chat_template_kwargs", R"({"a":1})"},
                                                        {"chat_template", R"("{{x}}")"},
                                                        {"documents", R"([{"text":"x"}])"},
                                                        {"continue_final_message", "true"},
                                                        {"add_generation_prompt", "false"},
                                                        {"echo", "true"}})
    refuses(chat("\"" + field + "\":" + value), field);
  for (const auto& [field, value] : std::vector<std::pair<std::string, std::string>>{
           {"best_of", "2"}, {"echo", "true"}, {"suffix", R"("x")"}, {"logit_bias", R"({"5":1})"}})
    refuses(completion("\"" + field + "\":" + value), field, Endpoint::completions);
  for (const auto& [field, value] :
       std::vector<std::pair<std::string, std::string>>{{"guided_json", R"({"type":"object"})"},
                                                        {"guided_regex", R"("[a-z]+")"},
                                                        {"guided_something_new", "1"},
                                                        {"structured_outputs", R"({"choice":["a"]})"},
                                                        {"structural_tag", R"("x")"},
                                                        {"regex", R"("x")"},
                                                        {"ebnf", R"("x")"},
                                                        {"json_schema", R"("{}")"},
                                                        {"stop_token_ids", "[7]"},
                                                        {"stop_regex", R"("x")"},
                                                        {"bad_words", R"(["x"])"},
                                                        {"allowed_token_ids", "[7]"},
                                                        {"logits_processors", R"(["x"])"},
                                                        {"custom_logit_processor", R"("x")"},
                                                        {"custom_params", R"({"x":1})"},
                                                        {"lora_path", R"("x")"},
                                                        {"use_beam_search", "true"},
                                                        {"prompt_logprobs", "0"},
                                                        {"truncate_prompt_tokens", "5"},
                                                        {"include_stop_str_in_output", "true"},
                                                        {"skip_special_tokens", "false"},
                                                        {"add_special_tokens", "true"},
                                                        {"return_tokens_as_token_ids", "true"}}) {
    refuses(chat("\"" + field + "\":" + value), field);
    refuses(completion("\"" + field + "\":" + value), field, Endpoint::completions);
    BOOST_TEST(bad(chat("\"" + field + "\":" + value)).code == "unsupported_parameter");
  }
}

BOOST_AUTO_TEST_CASE(a_wrong_type_or_range_is_refused_by_name) {
  for (const auto& [field, value] :
       std::vector<std::pair<std::string, std::string>>{{"temperature", "2.1"},
                                                        {"temperature", "-0.1"},
                                                        {"temperature", R"("0")"},
                                                        {"top_p", "1.01"},
                                                        {"top_p", "true"},
                                                        {"min_p", "-1"},
                                                        {"top_k", "-2"},
                                                        {"top_k", "1.5"},
                                                        {"presence_penalty", "2.5"},
                                                        {"frequency_penalty", "-2.5"},
                                                        {"top_p", "-1e-50"},
                                                        {"repetition_penalty", "0"},
                                                        {"repetition_penalty", "1e-50"},
                                                        {"reasoning_effort", "1"},
                                                        {"seed", "1.5"},
                                                        {"seed", R"("1")"},
                                                        {"seed", "9223372036854775808"},
                                                        {"max_tokens", "0"},
                                                        {"max_tokens", "-1"},
                                                        {"max_tokens", "5.5"},
                                                        {"max_tokens", "1e50"},
                                                        {"max_tokens", "99999999999"},
                                                        {"max_completion_tokens", "0"},
                                                        {"stop", "1"},
                                                        {"stop", R"(["a",""])"},
                                                        {"stop", R"(["1","2","3","4","5"])"},
                                                        {"stop", R"([["a"]])"},
                                                        {"stream", "1"},
                                                        {"stream", R"("true")"},
                                                        {"logprobs", "1"},
                                                        {"top_logprobs", "1"},
                                                        {"n", "0"},
                                                        {"n", "17"},
                                                        {"user", "7"},
                                                        {"user", '"' + std::string(513, 'u') + '"'},
                                                        {"priority", "-1"},
                                                        {"priority", "10"},
                                                        {"priority", "4.5"},
                                                        {"priority", R"("high")"},
                                                        {"speculation", "true"},
                                                        {"speculation", R"("eagle")"},
                                                        {"n", "\"1\""},
                                                        {"ignore_eos", "0"},
                                                        {"min_tokens", "-1"},
                                                        {"return_token_ids", "1"},
                                                        {"stream_options", R"({"include_usage":true})"},
                                                        {"logit_bias", "3"}})
    refuses(chat("\"" + field + "\":" + value), field);
  refuses(chat(R"("logprobs":true,"top_logprobs":21)"), "top_logprobs");
  refuses(chat(R"("stream":true,"stream_options":1)"), "stream_options");
  refuses(chat(R"("stream":true,"stream_options":{"include_usage":1})"), "stream_options.include_usage");
  refuses(chat(R"("max_tokens":3,"min_tokens":4)"), "min_tokens");
  refuses(completion(R"("logprobs":6)"), "logprobs", Endpoint::completions);
  refuses(completion(R"("logprobs":true)"), "logprobs", Endpoint::completions);
}

BOOST_AUTO_TEST_CASE(messages_are_checked_one_by_one) {
  refuses(R"({"model":"m"})", "messages");
  refuses(R"({"messages":[]})", "model");
  refuses(R"({"model":7,"messages":[]})", "model");
  const auto with = [](const std::string& messages) { return chat("", messages); };
  refuses(with("[]"), "messages");
  refuses(with("{}"), "messages");
  refuses(with("[1]"), "messages[0]");
  refuses(with(R"([{"role":"user"}])"), "messages[0].content");
  refuses(with(R"([{"content":"x"}])"), "messages[0].role");
  refuses(with(R"([{"role":"tool","content":"x"}])"), "messages[0].role");
  refuses(with(R"([{"role":"user","content":"x"},{"role":"user","content":7}])"), "messages[1].content");
  refuses(with(R"([{"role":"user","content":[{"type":"image_url","image_url":"x"}]}])"),
          "messages[0].content[0].type");
  refuses(with(R"([{"role":"user","content":[{"type":"text"}]}])"), "messages[0].content[0].text");
  refuses(with(R"([{"role":"assistant","content":"x","tool_calls":[{}]}])"), "messages[0].tool_calls");
  // The reason, not that calls come without a content.
  refuses(with(R"([{"role":"assistant","content":null,"tool_calls":[{}]}])"), "messages[0].tool_calls");
  refuses(with(R"([{"role":"assistant","tool_calls":[{}]}])"), "messages[0].tool_calls");
  refuses(with(R"([{"role":"user","content":"x","name":7}])"), "messages[0].name");
  const auto r = good(
      with(R"([{"role":"developer","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}])"));
  ChatMessages messages(r);
  BOOST_TEST(messages.read(0).role == "system");
  BOOST_TEST(*messages.read(0).content.get() == "ab");
}

BOOST_AUTO_TEST_CASE(prompts_are_texts_or_lists_of_token_ids_one_or_several) {
  const auto prompts = [](const std::string& p) {
    return good(completion("", p), Endpoint::completions).prompts;
  };
  using Ids = std::vector<int32_t>;
  BOOST_TEST((prompts(R"("hi")") == std::vector<PromptInput>{"hi"}));
  BOOST_TEST((prompts(R"(["hi"])") == std::vector<PromptInput>{"hi"}));
  BOOST_TEST((prompts("[1,2]") == std::vector<PromptInput>{Ids{1, 2}}));
  BOOST_TEST((prompts("[[1,2]]") == std::vector<PromptInput>{Ids{1, 2}}));
  BOOST_TEST((prompts(R"(["a","b",""])") == std::vector<PromptInput>{"a", "b", ""}));
  BOOST_TEST((prompts("[[1],[2,3]]") == std::vector<PromptInput>{Ids{1}, Ids{2, 3}}));
  for (const char* p : {"[]", "7", "{}", "[[]]", "[[1],[]]", "[-1]", "[1,\"a\"]", "[1.5]", "[99999999999]",
                        "null", "[[[1]]]", "[null]", "[\"a\",1]", R"(["a","b","c","d"])"})
    refuses(completion("", p), "prompt", Endpoint::completions);
  BOOST_TEST(bad(completion("", R"(["a","b","c","d"])"), Endpoint::completions).message.find("at most 3") !=
             std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_body_that_is_not_json_in_utf8_is_refused) {
  for (const std::string& body : std::vector<std::string>{
           "", "{", "nonsense", "[]", "1", "{\"model\":\"a\"} x", "{\"a\":\"\xFF\"}", "{\"a\":\"\xC0\x80\"}",
           "{\"a\":\"\\ud800\"}", "{\"a\":nan}", "\xEF\xBB\xBF{}"})
    refuses(body, "");
}

BOOST_AUTO_TEST_CASE(what_is_wrong_with_a_body_that_is_not_json_is_said_with_its_place) {
  const auto says = [](const std::string& body, const std::string& words) {
    const std::string message = bad(body).message;
    BOOST_TEST(message.find(words) != std::string::npos, "no '" << words << "' in: " << message);
  };
  says("{\"model\": \"a\",\n}",
       "the body is not valid JSON at line 2, column 1 (byte 15): a comma stands before '}'");
  says("{\"model\": \"caf\xe9\"}", "\"\\xe9\" is not UTF-8");
  says("\x1f\x8b\x08", "the body is not JSON but gzip-compressed");
  says("\xEF\xBB\xBF{}", "BOM");
  says("{\"model\": \"a\"", "the text ends in the middle");
}

BOOST_AUTO_TEST_CASE(a_body_that_is_nested_very_deeply_is_refused_without_harm) {
  constexpr size_t levels = 100'000;
  const ApiError arrays = bad(R"({"model":)" + std::string(levels, '[') + std::string(levels, ']') + "}");
  BOOST_TEST(arrays.status == 400u);
  BOOST_TEST(arrays.message.find("nested") != std::string::npos);
  std::string objects;
  for (size_t i = 0; i < levels; ++i) objects += "{\"a\":";
  BOOST_TEST(bad(objects).status == 400u);
}

BOOST_AUTO_TEST_CASE(bytes_changed_at_random_never_crash_the_parser) {
  const uint32_t seed = std::random_device{}();
  BOOST_TEST_MESSAGE("seed " << seed);
  std::mt19937 random(seed);
  const std::string start =
      chat(R"("temperature":0.5,"stop":["a"],"seed":7,"stream":true,"logprobs":true,"top_logprobs":2)");
  size_t accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string body = start;
    for (size_t n = 1 + random() % 4; n > 0; --n) body[random() % body.size()] = static_cast<char>(random());
    const auto parsed = parse_request(Endpoint::chat, body, limits);
    if (const auto* error = std::get_if<ApiError>(&parsed))
      BOOST_TEST_REQUIRE(error->status == 400u);
    else
      ++accepted;
  }
  BOOST_TEST(accepted > 0u);
}

namespace {

std::variant<Prompt, ApiError> encoded(const CompletionRequest& r, int64_t context, bool control = false) {
  GatewayOptions options;
  options.max_tokens_default = 50;
  options.control_tokens_in_prompts = control;
  return encode_prompt(r, 0, test::fake_model(context), options, {});
}

}  // namespace

BOOST_AUTO_TEST_CASE(text_of_users_never_becomes_a_control_token) {
  const auto chat_prompt =
      std::get<Prompt>(encoded(good(chat("", R"([{"role":"user","content":"<ctl>"}])")), 1000));
  BOOST_TEST(std::count(chat_prompt.tokens.begin(), chat_prompt.tokens.end(), test::control_token) ==
             1);  // the template's
  const auto r = good(completion("", R"("<ctl>")"), Endpoint::completions);
  BOOST_TEST(std::get<Prompt>(encoded(r, 1000)).tokens.size() == 5u);
  BOOST_TEST(std::get<Prompt>(encoded(r, 1000, true)).tokens == std::vector<int32_t>{test::control_token});
}

BOOST_AUTO_TEST_CASE(prompt_and_answer_fit_the_context_together) {
  const std::string ten = R"("0123456789")";
  const auto plain = good(completion("", ten), Endpoint::completions);
  BOOST_TEST(std::get<Prompt>(encoded(plain, 1000)).max_tokens == 50u);
  BOOST_TEST(std::get<Prompt>(encoded(plain, 30)).max_tokens == 20u);
  BOOST_TEST(std::get<Prompt>(encoded(plain, 11)).max_tokens == 1u);
  for (int64_t context : {5, 10}) {
    const auto error = std::get<ApiError>(encoded(plain, context));
    BOOST_TEST(error.code == "context_length_exceeded");
    BOOST_TEST(error.param == "prompt");
    BOOST_TEST(error.message.find(std::to_string(context)) != std::string::npos);
    BOOST_TEST(error.message.find("10") != std::string::npos);
  }
  const auto named = good(completion(R"("max_tokens":20)", ten), Endpoint::completions);
  BOOST_TEST(std::get<Prompt>(encoded(named, 30)).max_tokens == 20u);
  const auto error = std::get<ApiError>(encoded(named, 29));
  BOOST_TEST(error.status == 400u);
  BOOST_TEST(error.param == "max_tokens");
}

BOOST_AUTO_TEST_CASE(a_conversation_that_cannot_fit_is_refused_before_all_of_it_is_rendered) {
  std::string messages = "[";
  for (int i = 0; i < 5000; i++) messages += R"({"role":"user","content":"hi"},)";
  const auto longer = good(chat("", messages + R"({"role":"user","content":"refuse me"}])"));
  const auto early = std::get<ApiError>(encoded(longer, 1000));
  BOOST_TEST(early.code == "context_length_exceeded");  // the template did not get as far as its own refusal
  BOOST_TEST(early.param == "messages");
  BOOST_TEST(early.message.find("at least") != std::string::npos);
  BOOST_TEST(std::get<ApiError>(encoded(longer, 1'000'000)).code.empty());

  const auto fits = good(chat("", messages + R"({"role":"user","content":"hi"}])"));
  const int64_t tokens = std::ssize(std::get<Prompt>(encoded(fits, 1'000'000)).tokens);
  BOOST_TEST(tokens == 5001 * 8);  // "<ctl>user:hi"
  BOOST_TEST(std::get<Prompt>(encoded(fits, tokens + 1)).max_tokens == 1u);
  BOOST_TEST(std::get<ApiError>(encoded(fits, tokens)).code == "context_length_exceeded");
}

BOOST_AUTO_TEST_CASE(a_template_has_the_limits_that_the_configuration_gives_it) {
  const auto hello = good(chat("", R"([{"role":"user","content":"hi"}])"));
  const auto refused = [&](const auto& limit) {
    GatewayOptions options;
    limit(options);
    const auto prompt = encode_prompt(hello, 0, test::fake_model(), options, {});
    return std::holds_alternative<ApiError>(prompt) ? std::get<ApiError>(prompt).message : "";
  };
  BOOST_TEST(refused([](auto&) {}).empty());
  BOOST_TEST(refused([](auto& o) { o.template_steps_max = 3; }).find("more than 3 steps") !=
             std::string::npos);
  BOOST_TEST(refused([](auto& o) { o.template_bytes_max = 9; }).find("more than 9 bytes") !=
             std::string::npos);
  BOOST_TEST(refused([](auto& o) { o.template_depth_max = 2; }).find("more than 2 levels") !=
             std::string::npos);
}

BOOST_AUTO_TEST_CASE(what_template_or_vocabulary_refuse_is_the_clients_error) {
  const auto refused =
      std::get<ApiError>(encoded(good(chat("", R"([{"role":"user","content":"refuse me"}])")), 1000));
  BOOST_TEST(refused.status == 400u);
  BOOST_TEST(refused.param == "messages");
  const auto beyond = std::get<ApiError>(encoded(good(completion("", "[259]"), Endpoint::completions), 1000));
  BOOST_TEST(beyond.param == "prompt");
  const auto empty = std::get<ApiError>(encoded(good(completion("", R"("")"), Endpoint::completions), 1000));
  BOOST_TEST(empty.param == "prompt");
}

BOOST_AUTO_TEST_CASE(a_model_without_tokenizer_serves_token_ids_only) {
  ServedModel model = test::fake_model();
  model.tokenizer = nullptr;
  model.chat.reset();
  const auto encode = [&](const CompletionRequest& r) { return encode_prompt(r, 0, model, {}, {}); };
  BOOST_TEST(std::get<Prompt>(encode(good(completion("", "[1,2]"), Endpoint::completions))).tokens.size() ==
             2u);
  BOOST_TEST(std::get<ApiError>(encode(good(completion(""), Endpoint::completions))).param == "prompt");
  BOOST_TEST(
      std::get<ApiError>(encode(good(completion(R"("stop":"x")", "[1]"), Endpoint::completions))).param ==
      "stop");
  BOOST_TEST(std::get<ApiError>(encode(good(chat("")))).status == 400u);
}

}  // namespace convoy::gateway
