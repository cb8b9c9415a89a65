// The way of a request: what the cluster is asked, and what the client gets for its answers.

#include <boost/test/unit_test.hpp>

#include "test/gateway/fake_cluster.hpp"

namespace convoy::gateway::test {

BOOST_AUTO_TEST_CASE(a_chat_is_answered_in_one_body_as_openai_does) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, chat_path, chat_body(R"("max_tokens":20,"temperature":0)"));
  const Asked asked = cluster.asked();
  BOOST_TEST(asked.prompt == "|user:hi");
  BOOST_TEST(asked.max_tokens == 20u);
  BOOST_TEST(asked.temperature == 0.0f);
  BOOST_TEST(asked.end_tokens == std::vector<int32_t>{end_token});
  BOOST_TEST(asked.cache_key.empty());  // no secret, no cache
  cluster.answer(asked.number, "hello");
  const auto response = client.response();
  BOOST_TEST(response.result_int() == 200u);
  BOOST_TEST(response["x-cache"] == "bypass");
  BOOST_TEST(!response["x-request-id"].empty());
  const json::value body = parsed(response);
  BOOST_TEST(body.at("id").as_string().starts_with("chatcmpl-"));
  BOOST_TEST(body.at("object").as_string() == "chat.completion");
  BOOST_TEST(body.at("created").as_int64() > 1'700'000'000);
  BOOST_TEST(body.at("model").as_string() == "fake-model");
  const json::value& choice = body.at("choices").at(0);
  BOOST_TEST(choice.at("index").as_int64() == 0);
  BOOST_TEST(choice.at("message").at("role").as_string() == "assistant");
  BOOST_TEST(choice.at("message").at("content").as_string() == "hello");
  BOOST_TEST(choice.at("finish_reason").as_string() == "stop");
  BOOST_TEST(choice.at("logprobs").is_null());
  BOOST_TEST(body.at("usage").at("prompt_tokens").to_number<int>() == 8);
  BOOST_TEST(body.at("usage").at("completion_tokens").to_number<int>() == 6);
  BOOST_TEST(body.at("usage").at("total_tokens").to_number<int>() == 14);
  BOOST_TEST(cluster.cancels.stays_empty(50ms));
}

BOOST_AUTO_TEST_CASE(a_streamed_chat_has_role_pieces_end_usage_and_done) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, chat_path,
             chat_body(R"("stream":true,"stream_options":{"include_usage":true})"));
  cluster.answer(cluster.asked().number, "caf\xC3\xA9");
  const auto response = client.response();
  BOOST_TEST(response[http::field::content_type] == "text/event-stream");
  BOOST_TEST(response[http::field::cache_control] == "no-cache");
  auto events = events_of(response.body());
  BOOST_TEST_REQUIRE(events.size() >= 5u);
  BOOST_TEST(events.back() == "[DONE]");
  events.pop_back();
  const json::value first = json::parse(events.front()), last = json::parse(events.back());
  BOOST_TEST(first.at("choices").at(0).at("delta").at("role").as_string() == "assistant");
  BOOST_TEST(first.at("choices").at(0).at("delta").at("content").as_string() == "");
  BOOST_TEST(last.at("choices").as_array().empty());
  BOOST_TEST(last.at("usage").at("completion_tokens").to_number<int>() == 6);
  std::string text;
  for (size_t i = 0; i + 1 < events.size(); ++i) {
    const json::value event = json::parse(events[i]);
    BOOST_TEST(event.at("object").as_string() == "chat.completion.chunk");
    BOOST_TEST(event.at("id").as_string() == first.at("id").as_string());
    BOOST_TEST(event.at("usage").is_null());
    const json::value& choice = event.at("choices").at(0);
    const bool end = i + 2 == events.size();
    BOOST_TEST(choice.at("finish_reason").is_null() == !end);
    if (end) BOOST_TEST(choice.at("delta").as_object().empty());
    if (const auto* content = choice.at("delta").as_object().if_contains("content"))
      text += std::string(content->as_string());
  }
  BOOST_TEST(text == "caf\xC3\xA9");
  BOOST_TEST(client.get("/livez").result_int() == 200u);  // the connection lives on
}

BOOST_AUTO_TEST_CASE(streamed_and_unstreamed_answers_agree) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  const std::string answer = "a \xF0\x9F\x98\x80 b\n\nc";
  const std::string more = R"("return_token_ids":true,"logprobs":2,"seed":3,"stop":"\n\n")";
  const std::string body = R"({"model":"fake-model","prompt":"x",)" + more;
  client.ask(http::verb::post, completions_path, body + "}");
  cluster.answer(cluster.asked().number, answer);
  const json::value whole = parsed(client.response()).at("choices").at(0);
  client.ask(http::verb::post, completions_path, body + R"(,"stream":true})");
  cluster.answer(cluster.asked().number, answer);
  std::string text, finish;
  json::array ids, tokens;
  for (const std::string& data : events_of(client.response().body())) {
    if (data == "[DONE]") continue;
    const json::value choice = json::parse(data).at("choices").at(0);
    text += std::string(choice.at("text").as_string());
    if (const auto* list = choice.as_object().if_contains("token_ids"))
      for (const auto& id : list->as_array()) ids.push_back(id);
    if (choice.at("logprobs").is_object())
      for (const auto& t : choice.at("logprobs").at("tokens").as_array()) tokens.push_back(t);
    if (choice.at("finish_reason").is_string()) finish = std::string(choice.at("finish_reason").as_string());
  }
  BOOST_TEST(text == "a \xF0\x9F\x98\x80 b");
  BOOST_TEST(text == std::string(whole.at("text").as_string()));
  BOOST_TEST((ids == whole.at("token_ids").as_array()));
  BOOST_TEST((tokens == whole.at("logprobs").at("tokens").as_array()));
  BOOST_TEST(ids.size() == 10u);  // up to the token that completed the stop string
  BOOST_TEST(finish == "stop");
}

BOOST_AUTO_TEST_CASE(a_stop_string_cancels_the_work_and_ends_the_answer) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, chat_path, chat_body(R"("stop":["END"])"));
  const Asked asked = cluster.asked();
  cluster.accept(asked.number);
  cluster.text(asked.number, 0, "text E");
  cluster.text(asked.number, 6, "N");
  cluster.text(asked.number, 7, "D more");
  const json::value body = parsed(client.response());
  BOOST_TEST(body.at("choices").at(0).at("message").at("content").as_string() == "text ");
  BOOST_TEST(body.at("choices").at(0).at("finish_reason").as_string() == "stop");
  BOOST_TEST(body.at("usage").at("completion_tokens").to_number<int>() == 8);
  BOOST_TEST(cluster.cancelled() == asked.number);
}

BOOST_AUTO_TEST_CASE(an_answer_cut_by_its_length_says_so) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, completions_path,
             R"({"model":"fake-model","prompt":[104,105],"max_tokens":2,"ignore_eos":true})");
  const Asked asked = cluster.asked();
  BOOST_TEST(asked.prompt == "hi");
  BOOST_TEST(asked.end_tokens.empty());
  cluster.text(asked.number, 0, "ab");
  cluster.finish(asked.number, 2, Reason::LENGTH);
  const json::value body = parsed(client.response());
  BOOST_TEST(body.at("object").as_string() == "text_completion");
  BOOST_TEST(body.at("id").as_string().starts_with("cmpl-"));
  BOOST_TEST(body.at("choices").at(0).at("text").as_string() == "ab");
  BOOST_TEST(body.at("choices").at(0).at("finish_reason").as_string() == "length");
}

namespace {

const std::string secret(32, 's');

/// What a cache that keeps everything does with a Store, for the next request.
void replay(Cluster& cluster, uint64_t number, const Frame<schema::Store>& frame) {
  Reading store(frame);
  std::vector<int32_t> ids;
  for (auto token : store->getAnswer().getTokens()) ids.push_back(token.getId());
  cluster.tokens(number, 0, ids, true);
  cluster.finish(number, static_cast<uint32_t>(ids.size()), store->getAnswer().getReason(), true);
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_deterministic_answer_is_stored_and_replayed_the_same_streamed_or_not) {
  Cluster cluster({}, fake_model(), secret);
  Client client(cluster.gateway->port());
  const std::string more = R"("temperature":0,"stop":["END"],"return_token_ids":true)";
  const auto choice_of = [&](const Client::Response& r) { return parsed(r).at("choices").at(0); };
  client.ask(http::verb::post, chat_path, chat_body(more));
  const Asked first = cluster.asked();
  BOOST_TEST(first.cache_key.size() == 32u);
  cluster.answer(first.number, "some text END and more");
  const auto computed = client.response();
  BOOST_TEST(computed["x-cache"] == "miss");
  const auto stored = cluster.stores.take();
  BOOST_TEST(Reading(stored)->getCacheKey().size() == 32u);
  BOOST_TEST(Reading(stored)->getAnswer().getTokens().size() == 13u);

  client.ask(http::verb::post, chat_path, chat_body(more));
  const Asked second = cluster.asked();
  BOOST_TEST((second.cache_key == first.cache_key));
  replay(cluster, second.number, stored);
  const auto cached = client.response();
  BOOST_TEST(cached["x-cache"] == "hit");
  BOOST_TEST((choice_of(cached) == choice_of(computed)));
  BOOST_TEST((parsed(cached).at("usage") == parsed(computed).at("usage")));

  client.ask(http::verb::post, chat_path, chat_body(more + R"(,"stream":true)"));
  const Asked third = cluster.asked();
  BOOST_TEST((third.cache_key == first.cache_key));
  replay(cluster, third.number, stored);
  const auto streamed = client.response();
  BOOST_TEST(streamed["x-cache"] == "hit");
  BOOST_TEST(streamed.body().find(R"("content":"some text ")") != std::string::npos);
  BOOST_TEST(streamed.body().find("[DONE]") != std::string::npos);
  BOOST_TEST(cluster.stores.stays_empty(50ms));  // what came from the cache is not stored again
}

BOOST_AUTO_TEST_CASE(a_streamed_answer_is_stored_whole) {
  Cluster cluster({}, fake_model(), secret);
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, chat_path, chat_body(R"("seed":1,"stream":true)"));
  cluster.answer(cluster.asked().number, "text");
  BOOST_TEST(client.response()["x-cache"] == "miss");
  const auto stored = cluster.stores.take();
  BOOST_TEST(Reading(stored)->getAnswer().getTokens().size() == 5u);
  BOOST_TEST((Reading(stored)->getAnswer().getReason() == Reason::STOP));
}

BOOST_AUTO_TEST_CASE(what_is_not_deterministic_or_not_wanted_bypasses_the_cache) {
  Cluster cluster({}, fake_model(), secret);
  Client client(cluster.gateway->port());
  for (const auto& [more, header] : std::vector<std::pair<std::string, std::string>>{
           {"", ""},
           {R"("temperature":0.5)", ""},
           {R"("temperature":0)", "Cache-Control: no-store\r\n"},
           {R"("seed":1)", "cache-control: max-age=0, No-Cache\r\n"}}) {
    client.ask(http::verb::post, chat_path, chat_body(more), header);
    const Asked asked = cluster.asked();
    BOOST_TEST(asked.cache_key.empty());
    cluster.answer(asked.number, "text");
    BOOST_TEST(client.response()["x-cache"] == "bypass");
  }
  BOOST_TEST(cluster.stores.stays_empty(50ms));
}

BOOST_AUTO_TEST_CASE(an_answer_that_is_not_whole_is_never_stored) {
  Cluster cluster({}, fake_model(), secret);
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, chat_path, chat_body(R"("temperature":0)"));
  const Asked asked = cluster.asked();
  cluster.text(asked.number, 0, "abc");
  cluster.finish(asked.number, 3, Reason::FAILED);
  BOOST_TEST(client.response().result_int() == 503u);
  BOOST_TEST(cluster.stores.stays_empty(100ms));
}

BOOST_AUTO_TEST_CASE(the_cache_key_knows_the_limit_that_the_client_left_to_us) {
  std::string keys[2];
  for (int i : {0, 1}) {
    GatewayOptions options;
    options.max_tokens_default = i ? 5 : 6;
    Cluster cluster(options, fake_model(), secret);
    Client client(cluster.gateway->port());
    client.ask(http::verb::post, chat_path, chat_body(R"("temperature":0)"));
    keys[i] = cluster.asked().cache_key;
  }
  BOOST_TEST((keys[0] != keys[1]));
}

BOOST_AUTO_TEST_CASE(the_cache_key_knows_what_every_stage_computes_with) {
  Cluster cluster({}, fake_model(), secret);
  Client client(cluster.gateway->port());
  const auto key_with = [&](const std::vector<std::string>& variants) {
    cluster.stages_compute_with(variants);
    client.ask(http::verb::post, chat_path, chat_body(R"("temperature":0)"));
    const Asked asked = cluster.asked();
    cluster.answer(asked.number, "text");
    client.response();
    return asked.cache_key;
  };
  const std::vector<std::string> keys = {key_with({"vnni", "vnni"}), key_with({"avx2", "vnni"}),
                                         key_with({"vnni", "avx2"}), key_with({"vnni"})};
  for (size_t i = 0; i < keys.size(); ++i)
    for (size_t j = 0; j < i; ++j) BOOST_TEST((keys[i] != keys[j]));
  BOOST_TEST((key_with({"vnni", "vnni"}) == keys[0]));
  BOOST_TEST(key_with({"vnni", ""}).empty());  // a stage is not there yet
}

BOOST_AUTO_TEST_CASE(an_answer_over_a_change_of_what_stages_compute_with_is_not_stored) {
  Cluster cluster({}, fake_model(), secret);
  Client client(cluster.gateway->port());
  // What they compute with before, in the middle of the answer, and at its end.
  const auto stored = [&](const std::vector<std::vector<std::string>>& variants) {
    cluster.stages_compute_with(variants[0]);
    client.ask(http::verb::post, chat_path, chat_body(R"("temperature":0)"));
    const Asked asked = cluster.asked();
    for (size_t i = 1; i < variants.size(); ++i) cluster.stages_compute_with(variants[i]);
    cluster.answer(asked.number, "text");
    client.response();
    return !cluster.stores.stays_empty(50ms);
  };
  BOOST_TEST(stored({{"cuda"}, {"cuda"}}));
  BOOST_TEST(stored({{"cuda"}, {""}, {"cuda"}}));  // a stage was replaced by one like it
  BOOST_TEST(!stored({{"cuda"}, {"cuda", "vnni"}}));
  BOOST_TEST(!stored({{"cuda"}, {"cuda", "vnni"}, {"cuda"}}));  // a node came and went
}

BOOST_AUTO_TEST_CASE(nothing_is_cached_before_the_models_digest_is_known) {
  ServedModel model = fake_model();
  model.weights_digest = Later();
  const Later digest = model.weights_digest;
  Cluster cluster({}, model, secret);
  Client client(cluster.gateway->port());
  for (const bool known : {false, true}) {
    if (known) Later(digest).set("0123456789abcdef");
    client.ask(http::verb::post, chat_path, chat_body(R"("temperature":0)"));
    const Asked asked = cluster.asked();
    BOOST_TEST(asked.cache_key.empty() == !known);
    cluster.answer(asked.number, "text");
    client.response();
  }
}

BOOST_AUTO_TEST_CASE(requests_without_a_seed_get_different_ones) {
  Cluster cluster;
  Client one(cluster.gateway->port()), two(cluster.gateway->port());
  one.ask(http::verb::post, chat_path, chat_body());
  two.ask(http::verb::post, chat_path, chat_body());
  BOOST_TEST(cluster.asked().seed != cluster.asked().seed);
  Client three(cluster.gateway->port());
  three.ask(http::verb::post, chat_path, chat_body(R"("seed":7)"));
  BOOST_TEST(cluster.asked().seed == 7u);
}

BOOST_AUTO_TEST_CASE(prompts_of_a_list_are_cached_as_if_each_came_alone) {
  const auto several = [](const std::string& prompts) {
    return R"({"model":"fake-model","temperature":0,"prompt":)" + prompts + "}";
  };
  Cluster cluster({}, fake_model(), secret);
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, completions_path, several(R"("b")"));
  const Asked alone = cluster.asked();
  cluster.answer(alone.number, "text");
  client.response();
  const auto stored = cluster.stores.take();
  client.ask(http::verb::post, completions_path, several(R"(["a","b"])"));
  const Asked one = cluster.asked(), two = cluster.asked();
  BOOST_TEST((two.cache_key == alone.cache_key));
  BOOST_TEST((one.cache_key != alone.cache_key));
  replay(cluster, two.number, stored);
  cluster.answer(one.number, "other");
  const auto half = client.response();
  BOOST_TEST(half["x-cache"] == "miss");
  BOOST_TEST(parsed(half).at("choices").at(1).at("text").as_string() == "text");
  const auto other = cluster.stores.take();
  BOOST_TEST(cluster.stores.stays_empty(20ms));
  client.ask(http::verb::post, completions_path, several(R"([[97],"b"])"));
  cluster.asked();  // token ids: another request
  const Asked text = cluster.asked();
  BOOST_TEST((text.cache_key == alone.cache_key));
  client.vanish();
  Client again(cluster.gateway->port());
  again.ask(http::verb::post, completions_path, several(R"(["a","b"])"));
  replay(cluster, cluster.asked().number, other);
  replay(cluster, cluster.asked().number, stored);
  BOOST_TEST(again.response()["x-cache"] == "hit");
}

BOOST_AUTO_TEST_CASE(errors_of_a_request_leave_the_connection_usable_and_the_cluster_alone) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  const auto error = [&](const std::string& body) {
    return parsed(client.post(chat_path, body)).at("error");
  };
  BOOST_TEST(error("{").at("type").as_string() == "invalid_request_error");
  BOOST_TEST(error(chat_body(R"("n":0)")).at("param").as_string() == "n");
  const json::value unknown = error(R"({"model":"gpt-9","messages":[{"role":"user","content":"x"}]})");
  BOOST_TEST(unknown.at("code").as_string() == "model_not_found");
  const json::value longer = error(chat_body("", std::string(2000, 'x')));
  BOOST_TEST(longer.at("code").as_string() == "context_length_exceeded");
  const std::string message(longer.at("message").as_string());
  BOOST_TEST((message.find("1000") != std::string::npos && message.find("2006") != std::string::npos));
  const json::value huge =
      error(chat_body("", std::string(1 << 20, 'x')));  // tokenised on the encoder's thread
  BOOST_TEST(huge.at("code").as_string() == "context_length_exceeded");
  BOOST_TEST(cluster.generates.stays_empty(50ms));
}

BOOST_AUTO_TEST_CASE(answers_of_many_clients_at_once_do_not_mix) {
  GatewayOptions options;
  options.threads = 3;
  Cluster cluster(options);
  std::atomic<int> right = 0;
  std::vector<std::thread> clients;
  constexpr int clients_count = 8, rounds = 20;
  for (int c = 0; c < clients_count; ++c) {
    clients.emplace_back([&, c] {
      Client client(cluster.gateway->port());
      for (int r = 0; r < rounds; ++r) {
        const std::string text = "client " + std::to_string(c) + " round " + std::to_string(r);
        client.ask(http::verb::post, chat_path, chat_body(r % 2 ? R"("stream":true)" : "", text));
        const std::string body = client.response().body();
        std::string got;
        if (r % 2 == 0) {
          got = std::string(json::parse(body).at("choices").at(0).at("message").at("content").as_string());
        } else {
          size_t at = 0;
          while ((at = body.find("data: {", at)) != std::string::npos) {
            const json::value event = json::parse(body.substr(at + 6, body.find("\n\n", at) - at - 6));
            const auto& delta = event.at("choices").at(0).at("delta").as_object();
            if (const auto* content = delta.if_contains("content")) got += std::string(content->as_string());
            ++at;
          }
        }
        right += got == text;
      }
    });
  }
  for (int i = 0; i < clients_count * rounds; ++i) {
    const Asked asked = cluster.asked();
    cluster.answer(asked.number, asked.prompt.substr(6));  // what was asked, without "|user:"
  }
  for (auto& client : clients) client.join();
  BOOST_TEST(right == clients_count * rounds);
}

}  // namespace convoy::gateway::test
