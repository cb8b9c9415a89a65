// What a request says of who asks and how its answer is made, and what the client hears of that.

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <set>

#include "test/gateway/fake_cluster.hpp"

namespace convoy::gateway::test {

namespace {

std::string name_of(Client& client) {
  return "connection 127.0.0.1:" + std::to_string(client.socket().local_endpoint().port());
}

GatewayOptions that_speculates() {
  GatewayOptions options;
  options.speculation = true;
  options.drafts_max = 7;
  return options;
}

}  // namespace

BOOST_AUTO_TEST_CASE(who_names_a_user_is_that_tenant_and_finds_only_its_own_prompts) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, chat_path, chat_body(R"("user":"ann","priority":9)"));
  const Asked asked = cluster.asked();
  BOOST_TEST(asked.tenant == "user ann");
  BOOST_TEST(asked.salt == "ann");
  BOOST_TEST(asked.priority == 9u);
}

BOOST_AUTO_TEST_CASE(without_a_user_each_connection_is_a_tenant_and_shares_what_is_found) {
  Cluster cluster;
  Client one(cluster.gateway->port()), two(cluster.gateway->port());
  std::set<std::string> tenants;
  for (Client* client : {&one, &two}) {
    client->ask(http::verb::post, completions_path, R"({"model":"fake-model","prompt":"hi","user":""})");
    const Asked asked = cluster.asked();
    BOOST_TEST(asked.tenant == name_of(*client));
    BOOST_TEST(asked.salt.empty());
    BOOST_TEST(asked.priority == 5u);
    tenants.insert(asked.tenant);
  }
  BOOST_TEST(tenants.size() == 2u);
}

BOOST_AUTO_TEST_CASE(tokens_are_guessed_ahead_where_the_request_or_else_the_configuration_says_so) {
  const std::string lookup = R"("speculation":"prompt_lookup")", off = R"("speculation":"off")";
  Cluster plain;
  GatewayOptions speculative = that_speculates();
  Cluster eager(speculative);
  const auto drafts = [](Cluster& cluster, const std::string& more) {
    Client client(cluster.gateway->port());
    client.ask(http::verb::post, chat_path, chat_body(more));
    return cluster.asked().drafts;
  };
  BOOST_TEST(drafts(plain, "") == 0u);
  BOOST_TEST(drafts(plain, lookup) == 4u);
  BOOST_TEST(drafts(eager, "") == 7u);
  BOOST_TEST(drafts(eager, off) == 0u);
}

BOOST_AUTO_TEST_CASE(how_an_answer_is_scheduled_does_not_count_in_the_cache) {
  Cluster cluster({}, fake_model(), std::string(32, 's'));
  Client client(cluster.gateway->port());
  std::set<std::string> keys;
  for (const char* more : {"", R"(,"speculation":"prompt_lookup")", R"(,"priority":0)", R"(,"user":"ann")"}) {
    client.ask(http::verb::post, chat_path, chat_body(std::string(R"("temperature":0)") + more));
    const Asked asked = cluster.asked();
    BOOST_TEST(asked.cache_key.size() == 32u);
    keys.insert(asked.cache_key);
    cluster.answer(asked.number, "x");
    client.response();
  }
  BOOST_TEST(keys.size() == 1u);
}

BOOST_AUTO_TEST_CASE(several_answers_to_one_prompt_are_choices_whose_prompt_counts_once) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, chat_path, chat_body(R"("n":3,"seed":40)"));
  const Asked asked[] = {cluster.asked(), cluster.asked(), cluster.asked()};
  for (size_t i = 0; i < 3; ++i) {
    BOOST_TEST(asked[i].prompt == "|user:hi");
    BOOST_TEST(asked[i].seed == 40 + i);  // what would give that answer alone
    BOOST_TEST(asked[i].tenant == name_of(client));
  }
  for (size_t i = 3; i-- > 0;) {
    cluster.text(asked[i].number, 0, std::string(1, static_cast<char>('a' + i)));
    cluster.finish(asked[i].number, 1, Reason::LENGTH, false, i == 0 ? 2 : 8);
  }
  const json::value body = parsed(client.response());
  const json::array& choices = body.at("choices").as_array();
  BOOST_TEST_REQUIRE(choices.size() == 3u);
  for (size_t i = 0; i < 3; ++i) {
    BOOST_TEST(choices[i].at("index").to_number<size_t>() == i);
    BOOST_TEST(choices[i].at("message").at("content").as_string() ==
               std::string(1, static_cast<char>('a' + i)));
  }
  const json::value& usage = body.at("usage");
  BOOST_TEST(usage.at("prompt_tokens").to_number<int>() == 8);
  BOOST_TEST(usage.at("completion_tokens").to_number<int>() == 3);
  BOOST_TEST(usage.at("prompt_tokens_details").at("cached_tokens").to_number<int>() == 2);
}

BOOST_AUTO_TEST_CASE(several_answers_stream_each_with_its_role) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, chat_path, chat_body(R"("n":2,"stream":true)"));
  const Asked one = cluster.asked(), two = cluster.asked();
  BOOST_TEST(one.seed != two.seed);
  cluster.answer(two.number, "bb");
  cluster.answer(one.number, "a");
  auto events = events_of(client.response().body());
  events.pop_back();  // [DONE]
  std::string texts[2];
  int roles[2] = {}, ends[2] = {};
  for (const std::string& data : events) {
    const json::value choice = json::parse(data).at("choices").at(0);
    const auto index = choice.at("index").to_number<size_t>();
    const json::object& delta = choice.at("delta").as_object();
    BOOST_TEST_REQUIRE(index < 2u);
    roles[index] += delta.contains("role");
    if (const json::value* content = delta.if_contains("content")) texts[index] += content->as_string();
    ends[index] += choice.at("finish_reason").is_string();
  }
  BOOST_TEST(texts[0] == "a");
  BOOST_TEST(texts[1] == "bb");
  for (size_t i = 0; i < 2; ++i) BOOST_TEST((roles[i] == 1 && ends[i] == 1));
}

BOOST_AUTO_TEST_CASE(each_of_several_seeded_answers_is_kept_as_if_it_came_alone) {
  Cluster cluster({}, fake_model(), std::string(32, 's'));
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, completions_path,
             R"({"model":"fake-model","prompt":["x","y"],"n":2,"seed":-1})");
  std::vector<std::string> together, alone;
  for (int i = 0; i < 4; ++i) {
    const Asked asked = cluster.asked();
    together.push_back(asked.cache_key);
    cluster.answer(asked.number, "z");
  }
  client.response();
  for (const char* which : {R"("x","seed":-1)", R"("x","seed":0)", R"("y","seed":-1)", R"("y","seed":0)"}) {
    client.ask(http::verb::post, completions_path,
               std::string(R"({"model":"fake-model","prompt":)") + which + "}");
    const Asked asked = cluster.asked();
    alone.push_back(asked.cache_key);
    cluster.answer(asked.number, "z");
    client.response();
  }
  BOOST_TEST(together == alone, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(usage_says_how_much_of_the_prompt_was_found_in_streams_too) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, chat_path,
             chat_body(R"("stream":true,"stream_options":{"include_usage":true})"));
  const Asked asked = cluster.asked();
  cluster.text(asked.number, 0, "a");
  cluster.finish(asked.number, 1, Reason::LENGTH, false, 6);
  const auto events = events_of(client.response().body());
  const json::value usage = json::parse(events.at(events.size() - 2)).at("usage");
  BOOST_TEST(usage.at("prompt_tokens_details").at("cached_tokens").to_number<int>() == 6);
}

BOOST_AUTO_TEST_CASE(while_the_cluster_is_overloaded_nothing_of_a_request_is_read) {
  GatewayOptions options;
  options.readiness_period_ms = 60'000;
  Cluster cluster(options);
  Client client(cluster.gateway->port());
  cluster.pipeline_is_overloaded(true, 2500);
  for (const std::string& path : {chat_path, completions_path}) {
    const auto response = client.post(path, "this is not JSON");
    BOOST_TEST(response.result_int() == 503u);
    BOOST_TEST(response[http::field::retry_after] == "3");
    BOOST_TEST(response["retry-after-ms"] == "2500");
    const json::value error = parsed(response).at("error");
    BOOST_TEST(error.at("code").as_string() == "overloaded");
    BOOST_TEST(error.at("type").as_string() == "server_error");
    BOOST_TEST(error.at("message").as_string() == "the cluster is overloaded: 9 are waiting");
  }
  BOOST_TEST(client.get("/readyz").result_int() == 200u);  // it is ready all the same
  cluster.pipeline_is_overloaded(false);
  BOOST_TEST(client.post(chat_path, "this is not JSON").result_int() == 400u);
  client.ask(http::verb::post, chat_path, chat_body());
  cluster.answer(cluster.asked().number, "x");
  BOOST_TEST(client.response().result_int() == 200u);
}

/// Has each client ask, and the pipeline take what it asks: the numbers of the requests.
static std::vector<uint64_t> ask_each(Cluster& cluster, std::initializer_list<Client*> clients) {
  std::vector<uint64_t> numbers;
  for (Client* client : clients) {
    client->ask(http::verb::post, completions_path, R"({"model":"fake-model","prompt":"hi"})");
    numbers.push_back(cluster.asked().number);
    cluster.accept(numbers.back());
  }
  return numbers;
}

BOOST_AUTO_TEST_CASE(a_frame_of_a_step_gives_each_session_its_part_in_order) {
  Cluster cluster;
  Client one(cluster.gateway->port()), two(cluster.gateway->port());
  const std::vector<uint64_t> numbers = ask_each(cluster, {&one, &two});
  const uint64_t nobody = 7;
  cluster.step({{numbers[0], 0, 'a'}, {nobody, 0, '?', true}, {numbers[1], 0, 'x'}});
  cluster.step({{numbers[1], 1, 'y'}, {numbers[0], 1, 'b', true}});
  cluster.step({{numbers[1], 1, '!'}, {numbers[1], 2, 'z', true}});  // the first is a repeat
  for (const auto& [client, text] : {std::pair{&one, "ab"}, {&two, "xyz"}}) {
    const json::value body = parsed(client->response());
    BOOST_TEST(body.at("choices").at(0).at("text").as_string() == text);
    BOOST_TEST(body.at("choices").at(0).at("finish_reason").as_string() == "length");
  }
  BOOST_TEST(cluster.cancels.stays_empty(20ms));
}

BOOST_AUTO_TEST_CASE(a_step_that_lacks_tokens_before_it_fails_that_answer_alone) {
  Cluster cluster;
  Client one(cluster.gateway->port()), two(cluster.gateway->port());
  const std::vector<uint64_t> numbers = ask_each(cluster, {&one, &two});
  cluster.step({{numbers[0], 3, 'a'}, {numbers[1], 0, 'x', true}});
  BOOST_TEST(one.response().result_int() == 503u);
  BOOST_TEST(cluster.cancelled() == numbers[0]);
  BOOST_TEST(parsed(two.response()).at("choices").at(0).at("text").as_string() == "x");
}

BOOST_AUTO_TEST_CASE(a_step_that_cannot_be_read_is_dropped) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, completions_path, R"({"model":"fake-model","prompt":"hi"})");
  const uint64_t number = cluster.asked().number;
  cluster.accept(number);
  auto garbage = std::make_shared<schema::FrameBuffer>(24);
  std::memset(garbage->data(), 0xFF, garbage->size());
  const uint32_t header[] = {0, 2};  // one segment of two words
  std::memcpy(garbage->data(), header, sizeof header);
  actors::mail(cluster.gateway->actor(), Frame<schema::StepTokens>(garbage));
  cluster.step({{number, 0, 'x', true}});
  BOOST_TEST(client.response().result_int() == 200u);
}

}  // namespace convoy::gateway::test
