// A gateway in a process of its own, whose head goes and comes.

#include <boost/algorithm/string/predicate.hpp>

#include "test/gateway/fake_cluster.hpp"

namespace {

using namespace convoy::gateway;
using namespace convoy::gateway::test;
using Refusal = convoy::schema::Rejected::Reason;

GatewayOptions waits_ms(uint32_t head_wait_ms) {
  GatewayOptions options;
  options.head_wait_ms = head_wait_ms;
  return options;
}

struct Far : Cluster {
  explicit Far(uint32_t head_wait_ms = 600'000) : Cluster(Afar{}, waits_ms(head_wait_ms)) {}

  /// An answer under way with so much text.
  Asked begin(Client& client, std::string_view text, const std::string& more = R"("stream":true)") {
    head_is_up();
    client.ask(http::verb::post, chat_path, chat_body(more));
    const Asked asked = this->asked();
    BOOST_TEST(asked.attempt == 0u);
    accept(asked.number);
    for (uint32_t i = 0; i < text.size(); ++i) tokens(asked.number, i, {static_cast<unsigned char>(text[i])});
    if (!text.empty() && more.find("stream") != more.npos)
      client.read_until("\"content\":\"" + std::string(1, text.back()));
    return asked;
  }
};

/// All text of a stream's events; fails if it does not end as a whole one.
std::string text_of_rest(const Client::Response& response) {
  std::string text;
  const auto events = events_of(response.body());
  BOOST_TEST_REQUIRE(events.back() == "[DONE]");
  for (const auto& event : events) {
    if (event == "[DONE]") continue;
    const auto value = json::parse(event);
    const auto& choices = value.at("choices").as_array();
    if (!choices.empty())
      if (const auto* content = choices[0].at("delta").as_object().if_contains("content");
          content && content->is_string())
        text += content->as_string();
  }
  return text;
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_stream_goes_on_behind_the_tokens_that_it_has) {
  Far cluster;
  Client client(cluster.gateway->port());
  cluster.head_is_up();
  client.ask(http::verb::post, chat_path, chat_body(R"("stream":true)"));
  const Asked first = cluster.asked();
  cluster.accept(first.number);
  cluster.text(first.number, 0, "ab");
  cluster.head_is_gone();
  cluster.tokens(first.number, 2, {'X'});  // of an attempt that is over
  cluster.head_is_up();
  const Asked again = cluster.asked();
  BOOST_TEST(again.number == first.number);
  BOOST_TEST(again.attempt == 1u);
  BOOST_TEST(again.generated == "ab");
  BOOST_TEST(again.prompt == first.prompt);
  BOOST_TEST(again.max_tokens == first.max_tokens);
  BOOST_TEST(again.seed == first.seed);
  BOOST_TEST((again.end_tokens == first.end_tokens));
  cluster.accept(again.number, 1);
  cluster.tokens(again.number, 1, {'Y'}, false, 0);  // late, of the attempt before
  cluster.tokens(again.number, 2, {'c'}, false, 1);
  cluster.tokens(again.number, 3, {end_token}, false, 1);
  cluster.finish(again.number, 4, Reason::STOP, false, 0, 1);
  BOOST_TEST(text_of_rest(client.response()) == "abc");
}

BOOST_AUTO_TEST_CASE(an_answer_in_one_body_has_the_tokens_of_all_attempts) {
  Far cluster;
  Client client(cluster.gateway->port());
  const Asked first = cluster.begin(client, "ab", R"("max_tokens":4)");
  cluster.head_is_gone();
  cluster.head_is_up();
  BOOST_TEST(cluster.asked().generated == "ab");
  cluster.accept(first.number, 1);
  cluster.tokens(first.number, 2, {'c'}, false, 1);
  cluster.head_is_gone();
  cluster.head_is_up();
  const Asked third = cluster.asked();
  BOOST_TEST(third.attempt == 2u);
  BOOST_TEST(third.generated == "abc");
  cluster.accept(first.number, 2);
  cluster.tokens(first.number, 3, {'d'}, false, 2);
  cluster.finish(first.number, 4, Reason::LENGTH, false, 0, 2);
  const auto body = parsed(client.response());
  BOOST_TEST(body.at("choices").at(0).at("message").at("content").as_string() == "abcd");
  BOOST_TEST(body.at("usage").at("completion_tokens").to_number<int>() == 4);
}

BOOST_AUTO_TEST_CASE(a_request_that_nobody_took_is_sent_again) {
  Far cluster;
  Client client(cluster.gateway->port());
  cluster.head_is_up();
  client.ask(http::verb::post, chat_path, chat_body());
  cluster.asked();
  cluster.head_is_gone();
  cluster.head_is_up();
  const Asked again = cluster.asked();
  BOOST_TEST(again.generated.empty());
  cluster.accept(again.number, 1);
  cluster.tokens(again.number, 0, {'a'}, false, 1);
  cluster.tokens(again.number, 1, {end_token}, false, 1);
  cluster.finish(again.number, 2, Reason::STOP, false, 0, 1);
  BOOST_TEST(client.response().result_int() == 200u);
}

BOOST_AUTO_TEST_CASE(what_comes_while_the_head_is_away_waits_for_it) {
  Far cluster;
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, chat_path, chat_body());
  BOOST_TEST(cluster.generates.stays_empty(100ms));
  cluster.head_is_up();
  const Asked asked = cluster.asked();
  cluster.accept(asked.number, asked.attempt);
  cluster.tokens(asked.number, 0, {end_token}, false, asked.attempt);
  cluster.finish(asked.number, 1, Reason::STOP, false, 0, asked.attempt);
  BOOST_TEST(client.response().result_int() == 200u);
}

BOOST_AUTO_TEST_CASE(nothing_is_asked_before_a_pipeline_takes_requests) {
  Far cluster;
  Client client(cluster.gateway->port());
  cluster.begin(client, "a");
  cluster.head_is_gone();
  cluster.head_is_up(false);
  BOOST_TEST(cluster.generates.stays_empty(100ms));
  cluster.pipeline_accepts();
  BOOST_TEST(cluster.asked().generated == "a");
}

BOOST_AUTO_TEST_CASE(a_full_pipeline_is_asked_until_it_takes_what_was_under_way) {
  Far cluster;
  Client client(cluster.gateway->port());
  const Asked first = cluster.begin(client, "a");
  cluster.head_is_gone();
  cluster.head_is_up();
  for (uint32_t attempt = 1; attempt < 4; ++attempt) {
    BOOST_TEST(cluster.asked_by_one_that_waits().attempt == attempt);
    cluster.reject(first.number, attempt % 2 ? Refusal::OVERLOADED : Refusal::NOT_READY, 1000, attempt);
  }
  const Asked last = cluster.asked_by_one_that_waits();
  cluster.accept(first.number, last.attempt);
  cluster.tokens(first.number, 1, {end_token}, false, last.attempt);
  cluster.finish(first.number, 2, Reason::STOP, false, 0, last.attempt);
  BOOST_TEST(last.generated == "a");
}

BOOST_AUTO_TEST_CASE(a_head_that_stays_away_ends_a_stream_with_an_error_and_no_clean_end) {
  Far cluster(100);
  Client client(cluster.gateway->port());
  cluster.begin(client, "a");
  cluster.head_is_gone();
  boost::system::error_code ec;
  const std::string rest = client.rest(ec);
  BOOST_TEST(rest.find("gateway.head_wait_ms") != rest.npos);
  BOOST_TEST(rest.find("[DONE]") == rest.npos);
  BOOST_TEST(!boost::ends_with(rest, "0\r\n\r\n"));
}

BOOST_AUTO_TEST_CASE(after_that_time_nobody_waits) {
  Far cluster(100);
  std::this_thread::sleep_for(150ms);
  Client client(cluster.gateway->port());
  const auto refused = client.post(chat_path, chat_body());
  BOOST_TEST(refused.result_int() == 503u);
  BOOST_TEST(refused.body().find("gateway.head_wait_ms") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(an_answer_that_lacked_its_last_message_alone_is_whole) {
  Far cluster;
  Client client(cluster.gateway->port());
  const Asked first = cluster.begin(client, "ab", R"("max_tokens":3)");
  cluster.tokens(first.number, 2, {'c'});
  cluster.head_is_gone();
  cluster.head_is_up();
  const auto body = parsed(client.response());
  BOOST_TEST(body.at("choices").at(0).at("message").at("content").as_string() == "abc");
  BOOST_TEST(body.at("choices").at(0).at("finish_reason").as_string() == "length");
  BOOST_TEST(cluster.generates.stays_empty(50ms));
}

BOOST_AUTO_TEST_CASE(it_is_ready_while_a_head_is_linked) {
  Far cluster;
  const auto readyz = [&] { return Client(cluster.gateway->port()).get("/readyz"); };
  BOOST_TEST(readyz().result_int() == 503u);
  cluster.head_is_up();
  const auto becomes = [&](unsigned status) {
    const auto end = std::chrono::steady_clock::now() + convoy::test::patience;
    while (readyz().result_int() != status) BOOST_TEST_REQUIRE((std::chrono::steady_clock::now() < end));
  };
  becomes(200);
  cluster.head_is_gone();
  becomes(503);
  BOOST_TEST(readyz().body().find("its cable is out") != std::string::npos);
  cluster.head_is_up();
  becomes(200);
}

BOOST_AUTO_TEST_CASE(before_the_head_says_which_keys_count_none_is_looked_at) {
  const auto keys = std::make_shared<HeardKeys>();
  Cluster cluster(Cluster::Afar{keys}, {});
  cluster.head_is_up();
  Client client(cluster.gateway->port());
  client.key = "cvk1_any";
  BOOST_TEST(client.post(chat_path, chat_body()).result_int() == 503u);
  BOOST_TEST(Client(cluster.gateway->port()).get("/livez").result_int() == 200u);
  keys->set(std::make_shared<const ApiKeys>());
  BOOST_TEST(Client(cluster.gateway->port()).post(chat_path, chat_body()).result_int() == 401u);
}
