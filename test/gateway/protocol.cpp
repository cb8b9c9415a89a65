// HTTP between us and clients, proxies and browsers: where a message ends, whom it is for, how long it may
// take.

#include <boost/test/unit_test.hpp>
#include <fstream>
#include <sstream>

#include "test/gateway/fake_cluster.hpp"

namespace convoy::gateway::test {

namespace {

std::string ask(const std::string& first_line, const std::string& lines = "Host: localhost\r\n") {
  return first_line + "\r\n" + lines + "\r\n";
}

/// Everything the gateway answers to these bytes, up to the end of the connection.
std::string whole_answer(const Cluster& cluster, const std::string& bytes) {
  Client client(cluster.gateway->port());
  client.send(bytes);
  boost::system::error_code ec;
  const std::string text = client.rest(ec);
  BOOST_TEST((ec == asio::error::eof), ec.message());
  return text;
}

size_t count(const std::string& text, std::string_view part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + part.size())) ++found;
  return found;
}

/// The state of the timer of the gateway's end of a connection, as /proc/net/tcp has it: 2 is keepalive's.
std::string timer_of(uint16_t gateway_port, uint16_t client_port) {
  std::ifstream table("/proc/net/tcp");
  for (std::string line; std::getline(table, line);) {
    std::istringstream fields(line);
    std::string slot, local, remote, state, queues, timer;
    fields >> slot >> local >> remote >> state >> queues >> timer;
    const auto port_of = [](const std::string& address) {
      return std::strtoul(address.substr(address.find(':') + 1).c_str(), nullptr, 16);
    };
    if (local.find(':') != local.npos && port_of(local) == gateway_port && port_of(remote) == client_port)
      return timer.substr(0, 2);
  }
  return "none";
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_body_in_an_unknown_coding_is_never_read_as_another_request) {
  Cluster cluster;
  const std::string smuggled = ask("GET /livez HTTP/1.1");
  const auto post = [&](const std::string& lines) {
    return ask("POST /v1/completions HTTP/1.1", "Host: localhost\r\n" + lines) + smuggled;
  };
  const std::pair<std::string, const char*> cases[] = {
      {post("Transfer-Encoding: gzip\r\n"), "HTTP/1.1 501"},
      {post("Transfer-Encoding: gzip, chunked\r\n"), "HTTP/1.1 501"},
      {post("Transfer-Encoding: xchunked\r\nContent-Length: 4\r\n"), "HTTP/1.1 400"},
      {post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n"), "HTTP/1.1 400"},
      {post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n"), "HTTP/1.1 400"},
      {post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), "HTTP/1.1 400"},
      {ask("POST /v1/completions HTTP/1.0", "Transfer-Encoding: chunked\r\n") + smuggled, "HTTP/1.0 400"}};
  for (const auto& [bytes, status] : cases) {
    const std::string answer = whole_answer(cluster, bytes);
    BOOST_TEST(answer.starts_with(status), answer.substr(0, 60));
    BOOST_TEST(count(answer, "Date: ") == 1u);
    BOOST_TEST(answer.find("live") == answer.npos);
  }
}

BOOST_AUTO_TEST_CASE(requests_for_others_and_from_others_pages_are_refused) {
  GatewayOptions options;
  options.allowed_hosts = {"models.lan"};
  Cluster cluster(options);
  const auto status = [&](const std::string& lines) {
    Client client(cluster.gateway->port());
    client.send(ask("GET /v1/models HTTP/1.1", lines));
    return client.response().result_int();
  };
  BOOST_TEST(status("Host: localhost\r\n") == 200u);
  BOOST_TEST(status("Host: models.lan:80\r\n") == 200u);
  BOOST_TEST(status("Host: localhost\r\nOrigin: http://localhost:3000\r\n") == 200u);
  BOOST_TEST(status("Host: rebound.example\r\n") == 403u);
  BOOST_TEST(status("Host: localhost\r\nOrigin: https://evil.example\r\n") == 403u);
  BOOST_TEST(status("") == 400u);
  BOOST_TEST(status("Host: localhost\r\nHost: localhost\r\n") == 400u);
}

BOOST_AUTO_TEST_CASE(http_1_0_keeps_its_connection_only_if_asked) {
  Cluster cluster;
  BOOST_TEST(whole_answer(cluster, ask("GET /livez HTTP/1.0", "")).find("\"live\":true") !=
             std::string::npos);
  Client client(cluster.gateway->port());
  for (int i = 0; i < 2; ++i) {
    client.send(ask("GET /livez HTTP/1.0", "Connection: keep-alive\r\n"));
    const auto response = client.response();
    BOOST_TEST(response.version() == 10u);
    BOOST_TEST(response[http::field::connection] == "keep-alive");
  }
}

BOOST_AUTO_TEST_CASE(http_1_0_streams_until_the_connection_ends) {
  Cluster cluster;
  const std::string body = chat_body(R"("stream":true)");
  const std::string bytes =
      ask("POST /v1/chat/completions HTTP/1.0",
          "Connection: keep-alive\r\nContent-Length: " + std::to_string(body.size()) + "\r\n") +
      body;
  Client client(cluster.gateway->port());
  client.send(bytes);
  cluster.answer(cluster.asked().number, "hello");
  boost::system::error_code ec;
  const std::string answer = client.rest(ec);
  BOOST_TEST((ec == asio::error::eof));
  const size_t end = answer.find("\r\n\r\n");
  BOOST_TEST_REQUIRE(end != answer.npos);
  BOOST_TEST(answer.substr(0, end).find("chunked") == answer.npos);
  const auto events = events_of(answer.substr(end + 4));  // nothing but events
  BOOST_TEST(events.back() == "[DONE]");

  Client cut(cluster.gateway->port());  // one that is not whole does not end like one that is
  cut.send(bytes);
  const Asked asked = cluster.asked();
  cluster.text(asked.number, 0, "begin");
  cut.read_until("begin");
  cluster.finish(asked.number, 5, Reason::FAILED);
  cut.rest(ec);
  BOOST_TEST((ec == asio::error::connection_reset));
}

BOOST_AUTO_TEST_CASE(every_answer_has_a_date_and_the_requests_id) {
  GatewayOptions options;
  options.connections_max = 2;
  options.body_timeout_ms = 1000;
  Cluster cluster(options);
  Client client(cluster.gateway->port());
  const auto is_marked = [](const Client::Response& response) {
    BOOST_TEST(response[http::field::date].ends_with(" GMT"));
    BOOST_TEST(response["x-request-id"].starts_with("req-"));
  };
  is_marked(client.get("/livez"));
  is_marked(client.get("/nowhere"));
  is_marked(client.post(chat_path, "not json"));
  client.ask(http::verb::get, "/livez", {}, "X-Request-Id: mine-1\r\n");
  BOOST_TEST(client.response()["x-request-id"] == "mine-1");
  client.ask(http::verb::post, chat_path, chat_body(R"("stream":true)"), "X-Request-Id: mine-2\r\n");
  cluster.answer(cluster.asked().number, "hello");
  const auto stream = client.response();
  BOOST_TEST(stream["x-request-id"] == "mine-2");
  BOOST_TEST(stream["x-accel-buffering"] == "no");
  BOOST_TEST(!stream[http::field::date].empty());
  is_marked(client.get("/livez"));  // the last one's is not kept
  Client slow(cluster.gateway->port());
  slow.send("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n");
  is_marked(slow.response());
  Client third(cluster.gateway->port()), fourth(cluster.gateway->port());
  is_marked(third.get("/livez"));
  is_marked(fourth.response());
}

BOOST_AUTO_TEST_CASE(targets_lead_to_the_same_however_they_are_written) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  for (const char* target : {"/v1/models/", "//v1//models", "/models", "http://localhost/v1/models?x"})
    BOOST_TEST(client.get(target).body().find("\"list\"") != std::string::npos, target);
  client.ask(http::verb::post, "/chat/completions/", chat_body());
  cluster.answer(cluster.asked().number, "hello");
  BOOST_TEST(client.response().result_int() == 200u);
  for (const char* target : {"/%ff%00%0a", "/v1/models/%ff"}) {
    const auto response = client.get(target);
    BOOST_TEST(response.result_int() == 404u);
    json::error_code ec;
    json::parse(response.body(), ec);
    BOOST_TEST(!ec, target);
  }
}

BOOST_AUTO_TEST_CASE(a_connection_rests_between_requests_for_longer_than_a_header_may_take) {
  GatewayOptions options;
  options.header_timeout_ms = 500;
  Cluster cluster(options);
  Client client(cluster.gateway->port());
  BOOST_TEST(client.get("/livez").result_int() == 200u);
  std::this_thread::sleep_for(800ms);
  BOOST_TEST(client.get("/livez").result_int() == 200u);

  options.keepalive_timeout_ms = 50;
  Cluster impatient(options);
  Client resting(impatient.gateway->port());
  BOOST_TEST(resting.get("/livez").result_int() == 200u);
  boost::system::error_code ec;
  BOOST_TEST(resting.rest(ec).empty());
  BOOST_TEST((ec == asio::error::eof));
}

BOOST_AUTO_TEST_CASE(a_client_that_ends_its_side_while_it_is_answered_is_let_go) {
  Cluster cluster;  // where a connection may rest for longer than this test is patient
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, chat_path, R"({"model":"another","messages":[]})");
  client.socket().shutdown(asio::ip::tcp::socket::shutdown_send);
  BOOST_TEST(client.response().result_int() / 100 == 4u);
  boost::system::error_code ec;
  BOOST_TEST(client.rest(ec).empty());
  BOOST_TEST((ec == asio::error::eof || ec == asio::ssl::error::stream_truncated));
}

BOOST_AUTO_TEST_CASE(a_client_that_reads_slowly_but_steadily_gets_all_of_it) {
  GatewayOptions options;
  options.write_timeout_ms = 2000;
  Cluster cluster(options, fake_model(20'000'000));
  Client client(cluster.gateway->port(), 16'384);
  client.ask(http::verb::post, chat_path, chat_body(R"("max_tokens":10000000)"));
  const Asked asked = cluster.asked();
  const std::vector<int32_t> many(1'000'000, piece_token);  // 6 MB, in one write
  cluster.tokens(asked.number, 0, many);
  cluster.finish(asked.number, 1'000'000, Reason::LENGTH);
  std::vector<char> piece(64 << 10);
  boost::system::error_code ec;
  size_t bytes = 0;
  const auto begin = std::chrono::steady_clock::now();
  while (bytes < many.size() * 6 && !ec) {
    bytes += client.socket().read_some(asio::buffer(piece), ec);
    if (std::chrono::steady_clock::now() - begin < 5s) std::this_thread::sleep_for(20ms);
  }
  BOOST_TEST(!ec, "after " << bytes << " bytes: " << ec.message());
  BOOST_TEST((std::chrono::steady_clock::now() - begin > 4s));  // or it was not slow
}

BOOST_AUTO_TEST_CASE(the_system_looks_after_clients_that_are_silent) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  BOOST_TEST(client.get("/livez").result_int() == 200u);
  const uint16_t port = client.socket().local_endpoint().port();
  // Before that, the timer of an acknowledgement may run.
  BOOST_TEST(convoy::test::comes_true([&] { return timer_of(cluster.gateway->port(), port) == "02"; }));
}

BOOST_AUTO_TEST_CASE(the_gateway_can_be_called_localhost) {
  GatewayOptions options;
  options.host = "localhost";
  Cluster cluster(options);
  BOOST_TEST(Client(cluster.gateway->port()).get("/livez").result_int() == 200u);
}

BOOST_AUTO_TEST_CASE(no_store_in_any_line_goes_past_the_cache) {
  Cluster cluster({}, fake_model(), std::string(32, 's'));
  Client client(cluster.gateway->port());
  const std::string body = chat_body(R"("temperature":0)");
  client.ask(http::verb::post, chat_path, body, "Cache-Control: max-age=0\r\nCache-Control: no-store\r\n");
  const Asked asked = cluster.asked();
  BOOST_TEST(asked.cache_key.empty());
  cluster.answer(asked.number, "hello");
  BOOST_TEST(client.response()["x-cache"] == "bypass");
}

}  // namespace convoy::gateway::test
