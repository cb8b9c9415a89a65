// The edge as an HTTP server: routes, limits, errors, ends of connections.

#include <boost/test/unit_test.hpp>

#include "test/gateway/fake_cluster.hpp"

namespace convoy::gateway::test {

namespace {

void is_error(const Client::Response& response, unsigned status, std::string_view code) {
  BOOST_TEST(response.result_int() == status);
  BOOST_TEST(response[http::field::content_type] == "application/json");
  const json::value body = parsed(response);
  const json::object& error = body.at("error").as_object();
  BOOST_TEST(error.at("message").is_string());
  BOOST_TEST(error.at("type").is_string());
  BOOST_TEST(error.contains("param"));
  if (code.empty())
    BOOST_TEST(error.at("code").is_null());
  else
    BOOST_TEST(error.at("code").as_string() == code);
}

bool ends(Client& client) {
  boost::system::error_code ec;
  client.rest(ec);
  return ec == asio::error::eof || ec == asio::error::connection_reset;
}

}  // namespace

BOOST_AUTO_TEST_CASE(models_and_liveness_are_served_and_keep_the_connection) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  const auto models = parsed(client.get("/v1/models"));
  BOOST_TEST(models.at("object").as_string() == "list");
  BOOST_TEST(models.at("data").at(0).at("id").as_string() == "fake-model");
  BOOST_TEST(models.at("data").at(0).at("max_model_len").to_number<int>() == 1000);
  const auto model = parsed(client.get("/v1/models/fake%2Dmodel?x=1"));
  BOOST_TEST(model.at("object").as_string() == "model");
  BOOST_TEST(model.at("created").as_int64() == 1700000000);
  is_error(client.get("/v1/models/other"), 404, "model_not_found");
  BOOST_TEST(client.get("/livez").result_int() == 200u);
}

BOOST_AUTO_TEST_CASE(wrong_paths_and_methods_are_openai_errors) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  is_error(client.get("/v1/nothing"), 404, "not_found");
  const auto wrong = client.get("/v1/chat/completions");
  is_error(wrong, 405, "method_not_allowed");
  BOOST_TEST(wrong[http::field::allow] == "POST");
  is_error(client.post("/readyz", "{}"), 405, "method_not_allowed");
  client.ask(http::verb::head, "/v1/models");
  const auto head = client.response(true);
  BOOST_TEST(head.result_int() == 200u);
  BOOST_TEST(head.body().empty());
  BOOST_TEST(client.get("/livez").result_int() == 200u);  // nothing of a body was sent after HEAD
}

BOOST_AUTO_TEST_CASE(ready_is_believed_for_one_period_only) {
  GatewayOptions options;
  options.readiness_period_ms = 300;
  Cluster cluster(options);
  Client client(cluster.gateway->port());
  const auto ready = [&] { return client.get("/readyz"); };
  BOOST_TEST(ready().result_int() == 503u);
  const auto is_heard = [&](bool is_ready, unsigned status, const std::string& text) {
    cluster.pipeline_says(is_ready, text.c_str());  // again and again, since this machine may be slow
    const auto response = ready();
    return response.result_int() == status && response.body().find(text) != std::string::npos &&
           parsed(response).at("ready").as_bool() == is_ready;
  };
  BOOST_TEST_REQUIRE(convoy::test::comes_true([&] { return is_heard(false, 503, "stage 1 is loading"); }));
  BOOST_TEST_REQUIRE(convoy::test::comes_true([&] { return is_heard(true, 200, ""); }));
  std::this_thread::sleep_for(350ms);
  const auto stale = ready();
  BOOST_TEST(stale.result_int() == 503u);
  BOOST_TEST(parsed(stale).at("reason").is_string());
}

BOOST_AUTO_TEST_CASE(requests_that_follow_each_other_in_one_write_are_answered_in_order) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  const std::string body = chat_body();
  const std::string post = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: " +
                           std::to_string(body.size()) + "\r\n\r\n" + body;
  client.send(post + "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n" + post);
  cluster.answer(cluster.asked().number, "one");
  BOOST_TEST(client.response().body().find("one") != std::string::npos);
  BOOST_TEST(client.response().body().find("live") != std::string::npos);
  cluster.answer(cluster.asked().number, "two");
  BOOST_TEST(client.response().body().find("two") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_body_of_20_megabytes_is_413) {
  Cluster cluster;
  {
    Client client(cluster.gateway->port());
    client.ask(http::verb::post, "/v1/chat/completions", std::string(20 << 20, 'x'));
    is_error(client.response(), 413, "body_too_large");
    BOOST_TEST(ends(client));
  }
  Client chunked(cluster.gateway->port());
  chunked.send(
      "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: "
      "chunked\r\n\r\n1400000\r\n" +
      std::string(20 << 20, 'x'));
  is_error(chunked.response(), 413, "body_too_large");
}

BOOST_AUTO_TEST_CASE(a_header_that_is_too_large_is_431) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  client.send("GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + std::string(40 << 10, 'x') + "\r\n\r\n");
  is_error(client.response(), 431, "header_too_large");
  BOOST_TEST(ends(client));
}

BOOST_AUTO_TEST_CASE(what_is_not_http_is_400) {
  Cluster cluster;
  for (const char* text :
       {"nonsense\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "\x16\x03\x01\x02\x00\x01\xfc\r\n\r\n",
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n"}) {
    Client client(cluster.gateway->port());
    client.send(text);
    is_error(client.response(), 400, "invalid_http");
    BOOST_TEST(ends(client));
  }
}

BOOST_AUTO_TEST_CASE(slow_headers_and_bodies_are_408_and_idle_connections_just_end) {
  GatewayOptions options;
  options.header_timeout_ms = 200;
  options.body_timeout_ms = 200;
  Cluster cluster(options);
  Client header(cluster.gateway->port()), body(cluster.gateway->port()), idle(cluster.gateway->port());
  header.send("GET /livez HTTP/1.1\r\nHost: localhost\r\nX: ");
  body.send("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{");
  is_error(header.response(), 408, "request_timeout");
  is_error(body.response(), 408, "request_timeout");
  boost::system::error_code ec;
  BOOST_TEST(idle.rest(ec).empty());
  BOOST_TEST((ec == asio::error::eof));
}

BOOST_AUTO_TEST_CASE(a_client_that_expects_100_continue_gets_it_before_its_body) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  const std::string body = "not json";
  client.send(
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: "
      "8\r\n\r\n");
  BOOST_TEST(client.read_until("\r\n\r\n").starts_with("HTTP/1.1 100"));
  client.send(body);
  is_error(client.response(), 400, "");
}

BOOST_AUTO_TEST_CASE(connections_beyond_the_limit_are_refused_with_503) {
  GatewayOptions options;
  options.connections_max = 2;
  Cluster cluster(options);
  Client one(cluster.gateway->port());
  BOOST_TEST(one.get("/livez").result_int() == 200u);
  Client two(cluster.gateway->port());
  BOOST_TEST(two.get("/livez").result_int() == 200u);
  Client three(cluster.gateway->port());
  is_error(three.response(), 503, "too_many_connections");
  BOOST_TEST(ends(three));
  two.close();
  // The place is free again.
  BOOST_TEST(convoy::test::comes_true(
      [&] { return Client(cluster.gateway->port()).get("/livez").result_int() == 200; }));
}

BOOST_AUTO_TEST_CASE(metrics_count_requests_by_endpoint_and_status) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  client.get("/v1/made-up");
  client.get("/livez");
  const auto metrics = client.get("/metrics");
  BOOST_TEST(metrics[http::field::content_type].starts_with("text/plain"));
  BOOST_TEST(
      metrics.body().find(R"(convoy_gateway_requests_total{endpoint="livez",reason="ok",status="200"} 1)") !=
      std::string::npos);
  BOOST_TEST(
      metrics.body().find(
          R"(convoy_gateway_requests_total{endpoint="other",reason="invalid_request",status="404"} 1)") !=
      std::string::npos);
  BOOST_TEST(metrics.body().find("convoy_gateway_connections 1") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(only_loopback_addresses_are_served) {
  caf::actor_system_config config;
  caf::actor_system system{config};
  for (const char* host : {"0.0.0.0", "192.0.2.1", "::", "example"}) {
    GatewayOptions options;
    options.host = host;
    Gateway gateway(system, options, fake_model(), std::make_shared<prometheus::Registry>());
    BOOST_CHECK_EXCEPTION(gateway.serve({}, {}, ""), InputError, [](const InputError& e) {
      return e.where() == "gateway.host" && !e.mend().empty();
    });
  }
}

BOOST_AUTO_TEST_CASE(a_port_in_use_is_an_error_that_names_it) {
  Cluster cluster;
  GatewayOptions options;
  options.port = cluster.gateway->port();
  Gateway second(cluster.system, options, fake_model(), std::make_shared<prometheus::Registry>());
  BOOST_CHECK_EXCEPTION(second.serve(cluster.cache, cluster.router, ""), InputError,
                        [&](const InputError& e) {
                          return e.where() == "gateway.port" &&
                                 e.problem().find(std::to_string(options.port)) != std::string::npos;
                        });
}

}  // namespace convoy::gateway::test
