// What goes wrong while an answer is made: clients that leave, clusters that fail, time that runs out.

#include <linux/filter.h>
#include <sys/socket.h>

#include <boost/test/unit_test.hpp>
#include <set>

#include "test/gateway/fake_cluster.hpp"

namespace convoy::gateway::test {

namespace {

const std::string streamed = chat_body(R"("stream":true)");

/// The stream's last part: an error event, then a reset, and nothing that looks like an end.
void is_cut(Client& client, std::string_view code) {
  boost::system::error_code ec;
  const std::string rest = client.rest(ec);
  BOOST_TEST((ec == asio::error::connection_reset));
  BOOST_TEST(rest.find("data: {\"error\":") != std::string::npos);
  BOOST_TEST(rest.find(code) != std::string::npos);
  BOOST_TEST(rest.find("[DONE]") == std::string::npos);
  BOOST_TEST(rest.find("\r\n0\r\n") == std::string::npos);
}

void is_refused(Client& client, unsigned status, std::string_view code) {
  const auto response = client.response();
  BOOST_TEST(response.result_int() == status);
  BOOST_TEST(parsed(response).at("error").at("code").as_string() == code);
}

/// As if the client's machine had lost its power: whatever comes for it is dropped, and nothing acknowledged.
void cut_off(Client& client) {
  sock_filter drop[] = {BPF_STMT(BPF_RET | BPF_K, 0)};
  const sock_fprog program{1, drop};
  BOOST_TEST_REQUIRE(setsockopt(client.socket().native_handle(), SOL_SOCKET, SO_ATTACH_FILTER, &program,
                                sizeof program) == 0);
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_client_that_vanishes_in_mid_stream_cancels_its_work) {
  Cluster cluster;
  for (const bool abrupt : {true, false}) {
    Client client(cluster.gateway->port());
    client.ask(http::verb::post, chat_path, streamed);
    const Asked asked = cluster.asked();
    cluster.accept(asked.number);
    cluster.text(asked.number, 0, "begin");
    client.read_until("begin");
    if (abrupt)
      client.vanish();
    else
      client.close();
    BOOST_TEST(cluster.cancelled() == asked.number);
  }
}

BOOST_AUTO_TEST_CASE(a_client_that_vanishes_before_the_first_token_cancels_its_work) {
  Cluster cluster;
  for (const std::string& body : {streamed, chat_body()}) {
    Client client(cluster.gateway->port());
    client.ask(http::verb::post, chat_path, body);
    const Asked asked = cluster.asked();
    client.vanish();
    BOOST_TEST(cluster.cancelled() == asked.number);
  }
}

BOOST_AUTO_TEST_CASE(a_cancel_that_overtook_its_request_is_sent_again) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, chat_path, streamed);
  const Asked gone = cluster.asked();
  client.vanish();
  BOOST_TEST(cluster.cancelled() == gone.number);
  cluster.accept(gone.number);  // the cache had still looked it up
  BOOST_TEST(cluster.cancelled() == gone.number);

  Client waiting(cluster.gateway->port());
  waiting.ask(http::verb::post, chat_path, chat_body());
  cluster.answer(cluster.asked().number, "whole");
  BOOST_TEST(waiting.response().result_int() == 200u);
  BOOST_TEST(cluster.cancels.stays_empty(50ms));
}

BOOST_AUTO_TEST_CASE(a_failure_in_mid_stream_is_never_a_clean_end) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, chat_path, streamed);
  const Asked asked = cluster.asked();
  cluster.accept(asked.number);
  cluster.text(asked.number, 0, "begin");
  client.read_until("begin");
  cluster.finish(asked.number, 5, Reason::FAILED);
  is_cut(client, "generation_failed");
}

BOOST_AUTO_TEST_CASE(missing_tokens_are_a_failure_too) {
  Cluster cluster;
  {
    Client gap(cluster.gateway->port());
    gap.ask(http::verb::post, chat_path, streamed);
    const Asked asked = cluster.asked();
    cluster.text(asked.number, 0, "abc");
    gap.read_until("abc");
    cluster.text(asked.number, 4, "e");
    is_cut(gap, "generation_failed");
    BOOST_TEST(cluster.cancelled() == asked.number);
  }
  Client count(cluster.gateway->port());
  count.ask(http::verb::post, chat_path, chat_body());
  const Asked asked = cluster.asked();
  cluster.text(asked.number, 0, "abc");
  cluster.finish(asked.number, 4);
  is_refused(count, 503, "generation_failed");
}

BOOST_AUTO_TEST_CASE(a_failure_before_the_first_byte_is_an_ordinary_error) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, chat_path, streamed);
  cluster.finish(cluster.asked().number, 0, Reason::FAILED);
  is_refused(client, 503, "generation_failed");
  client.ask(http::verb::post, chat_path, chat_body());
  const Asked asked = cluster.asked();
  cluster.accept(asked.number);
  cluster.text(asked.number, 0, "begin");
  cluster.finish(asked.number, 5, Reason::FAILED);
  is_refused(client, 503, "generation_failed");
}

BOOST_AUTO_TEST_CASE(refusals_of_the_cluster_tell_when_to_come_again) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, chat_path, streamed);
  cluster.reject(cluster.asked().number, schema::Rejected::Reason::OVERLOADED, 2500);
  const auto overloaded = client.response();
  BOOST_TEST(overloaded.result_int() == 503u);
  BOOST_TEST(overloaded[http::field::retry_after] == "3");
  BOOST_TEST(overloaded["retry-after-ms"] == "2500");
  client.ask(http::verb::post, chat_path, chat_body());
  cluster.reject(cluster.asked().number, schema::Rejected::Reason::NOT_READY, 0);
  is_refused(client, 503, "not_ready");
  client.ask(http::verb::post, chat_path, chat_body());
  cluster.reject(cluster.asked().number, schema::Rejected::Reason::INVALID, 0);
  BOOST_TEST(client.response().result_int() == 400u);
}

BOOST_AUTO_TEST_CASE(messages_of_another_attempt_are_ignored) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, chat_path, chat_body());
  const Asked asked = cluster.asked();
  cluster.tokens(asked.number, 0, Cluster::ids("wrong"), false, 1);
  cluster.answer(asked.number, "right");
  BOOST_TEST(client.response().body().find("\"right\"") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(an_answer_beyond_its_deadline_is_cut_and_cancelled) {
  GatewayOptions options;
  options.request_timeout_ms = 1500;
  Cluster cluster(options);
  Client waiting(cluster.gateway->port()), streaming(cluster.gateway->port());
  waiting.ask(http::verb::post, chat_path, chat_body());
  const Asked first = cluster.asked();
  is_refused(waiting, 504, "timeout");
  BOOST_TEST(cluster.cancelled() == first.number);
  streaming.ask(http::verb::post, chat_path, streamed);
  const Asked second = cluster.asked();
  cluster.text(second.number, 0, "begin");
  streaming.read_until("begin");
  is_cut(streaming, "timeout");
  BOOST_TEST(cluster.cancelled() == second.number);
}

BOOST_AUTO_TEST_CASE(a_client_that_does_not_read_is_given_up) {
  GatewayOptions options;
  options.write_timeout_ms = 300;
  Cluster cluster(options, fake_model(20'000'000));
  Client client(cluster.gateway->port(), 4096);
  client.ask(http::verb::post, chat_path, chat_body(R"("stream":true,"max_tokens":10000000)"));
  const Asked asked = cluster.asked();
  const std::vector<int32_t> many(500'000,
                                  piece_token);  // 3 MB of text: more than the buffers between us take
  for (uint32_t i = 0; i < 3; ++i) cluster.tokens(asked.number, i * 500'000, many);
  BOOST_TEST(cluster.cancelled() == asked.number);
}

// Without a word from the client the system would go on for a quarter of an hour, or for two hours while
// nothing is under way.
BOOST_AUTO_TEST_CASE(
    a_client_whose_machine_is_gone_is_noticed_while_tokens_are_under_way_and_while_none_are) {
  GatewayOptions options;
  options.write_timeout_ms = 1000;
  Cluster cluster(options);
  Client waits(cluster.gateway->port()), is_written_to(cluster.gateway->port());
  std::set<uint64_t> asked;
  for (Client* client : {&waits, &is_written_to}) {
    client->ask(http::verb::post, chat_path, streamed);
    const uint64_t number = cluster.asked().number;
    asked.insert(number);
    cluster.accept(number);
    cluster.text(number, 0, "begin");
    client->read_until("begin");
    cut_off(*client);
    if (client == &is_written_to) cluster.text(number, 5, "more");
  }
  for (int i = 0; i < 2; ++i) BOOST_TEST(asked.erase(cluster.cancelled()) == 1u);
}

BOOST_AUTO_TEST_CASE(when_the_router_dies_open_and_later_requests_fail_at_once) {
  Cluster cluster;
  Client open(cluster.gateway->port());
  open.ask(http::verb::post, chat_path, streamed);
  const Asked asked = cluster.asked();
  cluster.text(asked.number, 0, "begin");
  open.read_until("begin");
  caf::anon_send_exit(cluster.router, caf::exit_reason::kill);
  is_cut(open, "not_ready");
  Client later(cluster.gateway->port());
  later.ask(http::verb::post, chat_path, chat_body());
  is_refused(later, 503, "not_ready");
}

BOOST_AUTO_TEST_CASE(shutting_down_ends_streams_with_an_error_and_idle_connections_cleanly) {
  Cluster cluster;
  Client idle(cluster.gateway->port()), client(cluster.gateway->port());
  BOOST_TEST(idle.get("/livez").result_int() == 200u);
  client.ask(http::verb::post, chat_path, streamed);
  const Asked asked = cluster.asked();
  cluster.text(asked.number, 0, "begin");
  client.read_until("begin");
  cluster.gateway.reset();
  is_cut(client, "shutting_down");
  boost::system::error_code ec;
  BOOST_TEST(idle.rest(ec).empty());
  BOOST_TEST((ec == asio::error::eof));
  BOOST_TEST(cluster.cancelled() == asked.number);
}

BOOST_AUTO_TEST_CASE(draining_ends_idle_connections_at_once_and_others_behind_their_answer) {
  Cluster cluster;
  Client idle(cluster.gateway->port()), streaming(cluster.gateway->port()), waiting(cluster.gateway->port());
  BOOST_TEST(idle.get("/livez").result_int() == 200u);
  streaming.ask(http::verb::post, chat_path, streamed);
  const Asked stream = cluster.asked();
  cluster.accept(stream.number);
  cluster.text(stream.number, 0, "begin");
  streaming.read_until("begin");
  waiting.ask(http::verb::post, chat_path, chat_body());
  const Asked body = cluster.asked();

  const auto drained = cluster.gateway->drain();
  boost::system::error_code ec;
  BOOST_TEST(idle.rest(ec).empty());
  BOOST_TEST((ec == asio::error::eof));
  BOOST_CHECK_THROW(Client(cluster.gateway->port()), boost::system::system_error);
  BOOST_TEST((drained.wait_for(0ms) == std::future_status::timeout));

  cluster.text(stream.number, 5, "end");
  cluster.finish(stream.number, 8, Reason::LENGTH);
  BOOST_TEST(streaming.rest(ec).find("[DONE]") != std::string::npos);
  BOOST_TEST((ec == asio::error::eof));
  BOOST_TEST((drained.wait_for(0ms) == std::future_status::timeout));

  cluster.answer(body.number, "whole");
  const auto response = waiting.response();
  BOOST_TEST(response.result_int() == 200u);
  BOOST_TEST(!response.keep_alive());
  waiting.close();
  BOOST_TEST((drained.wait_for(convoy::test::patience) == std::future_status::ready));
}

BOOST_AUTO_TEST_CASE(what_is_not_drained_is_cut) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, chat_path, streamed);
  const Asked asked = cluster.asked();
  cluster.text(asked.number, 0, "begin");
  client.read_until("begin");
  const auto drained = cluster.gateway->drain();
  cluster.gateway.reset();
  is_cut(client, "shutting_down");
  BOOST_TEST(cluster.cancelled() == asked.number);
}

BOOST_AUTO_TEST_CASE(late_mail_for_finished_requests_harms_nobody) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, chat_path, chat_body());
  const Asked asked = cluster.asked();
  cluster.answer(asked.number, "one");
  client.response();
  cluster.text(asked.number, 0, "late");
  cluster.finish(asked.number, 4);
  cluster.tokens(12345, 0, {1, 2, 3});
  BOOST_TEST(client.get("/livez").result_int() == 200u);
}

}  // namespace convoy::gateway::test
