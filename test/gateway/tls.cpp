// HTTPS: what it offers and refuses, who is told what, and that a broken answer never ends as a whole one
// does.

#include <openssl/ssl.h>

#include <boost/test/unit_test.hpp>

#include "gateway/https.hpp"
#include "test/gateway/fake_cluster.hpp"

namespace convoy::gateway::test {

namespace {

namespace ssl = asio::ssl;

struct Secured {
  TestCertificate files{"convoy-tls-"};
  Cluster cluster;
  explicit Secured(GatewayOptions options = {}) : cluster(named(std::move(options))) {}
  uint16_t port() const { return cluster.gateway->port(); }
  Client plain() const { return {port(), Client::Plain{}}; }
  GatewayOptions named(GatewayOptions options) const {
    options.tls_certificate = files.certificate;
    options.tls_key = files.key;
    return options;
  }
};

/// Why there is no handshake; empty: there is one.
std::string handshake(Client& client, ssl::context context) {
  try {
    client.encrypt(std::move(context));
    return {};
  } catch (const boost::system::system_error& e) {
    return e.code().message();
  }
}

std::string offering(const Secured& gateway, int version, const char* ciphers = nullptr) {
  ssl::context context = gateway.files.trusting();
  SSL_CTX* const native = context.native_handle();
  SSL_CTX_set_security_level(native, 0);
  SSL_CTX_set_min_proto_version(native, version);
  SSL_CTX_set_max_proto_version(native, version);
  if (ciphers) BOOST_TEST_REQUIRE(SSL_CTX_set_cipher_list(native, ciphers) == 1);
  Client client = gateway.plain();
  return handshake(client, std::move(context));
}

std::string body_of(Client& client) { return client.get("/livez").body(); }

}  // namespace

BOOST_AUTO_TEST_CASE(it_speaks_tls_1_2_and_1_3_and_nothing_older) {
  Secured gateway;
  BOOST_TEST(offering(gateway, TLS1_3_VERSION) == "");
  BOOST_TEST(offering(gateway, TLS1_2_VERSION) == "");
  for (const int old : {TLS1_1_VERSION, TLS1_VERSION}) BOOST_TEST(offering(gateway, old) != "");
}

BOOST_AUTO_TEST_CASE(it_takes_ciphers_with_forward_secrecy_and_authentication_alone) {
  Secured gateway;
  for (const char* good :
       {"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"})
    BOOST_TEST(offering(gateway, TLS1_2_VERSION, good) == "", good);
  for (const char* bad : {"ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES128-SHA256", "AES128-GCM-SHA256",
                          "DHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-CCM8"})
    BOOST_TEST(offering(gateway, TLS1_2_VERSION, bad) != "", bad);
}

BOOST_AUTO_TEST_CASE(the_protocol_is_http_1_1_for_those_who_ask) {
  Secured gateway;
  const auto chosen = [&](std::string_view offered) -> std::string {
    ssl::context context = gateway.files.trusting();
    SSL_CTX_set_alpn_protos(context.native_handle(), reinterpret_cast<const unsigned char*>(offered.data()),
                            static_cast<unsigned>(offered.size()));
    Client client = gateway.plain();
    try {
      const unsigned char* name = nullptr;
      unsigned size = 0;
      SSL_get0_alpn_selected(client.encrypt(std::move(context)).native_handle(), &name, &size);
      return {reinterpret_cast<const char*>(name), size};
    } catch (const boost::system::system_error& e) {
      return e.code().message();
    }
  };
  BOOST_TEST(chosen("\x02h2\x08http/1.1") == "http/1.1");
  BOOST_TEST(chosen("\x08http/1.1") == "http/1.1");
  BOOST_TEST(chosen("\x02h2").find("no application protocol") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(it_is_asked_and_answers_as_without) {
  Secured gateway;
  Client client = gateway.plain();
  client.encrypt(gateway.files.trusting());
  BOOST_TEST(body_of(client) == "{\"live\":true}");
  client.ask(http::verb::post, chat_path, chat_body(R"("stream":true)"));
  gateway.cluster.answer(gateway.cluster.asked().number, "hello");
  BOOST_TEST(events_of(client.response().body()).back() == "[DONE]");
  client.ask(http::verb::post, chat_path, chat_body({}, std::string(500, 'x')));
  gateway.cluster.answer(gateway.cluster.asked().number, std::string(400, 'y'));
  BOOST_TEST(client.response().body().find(std::string(400, 'y')) != std::string::npos);
}

BOOST_AUTO_TEST_CASE(new_files_count_from_the_next_connection_on_and_bad_ones_do_not) {
  Secured gateway;
  Client before = gateway.plain();
  before.encrypt(gateway.files.trusting());
  BOOST_TEST(body_of(before) != "");
  gateway.files.issue({"other.example"});
  gateway.cluster.gateway->look();
  BOOST_TEST(body_of(before) != "");
  const auto reached_as = [&](const std::string& host) {
    Client client = gateway.plain();
    return handshake(client, gateway.files.trusting(host));
  };
  BOOST_TEST(reached_as("other.example") == "");
  BOOST_TEST(reached_as("127.0.0.1") != "");
  actors::replace_private(gateway.files.key, "no key");
  gateway.cluster.gateway->look();
  BOOST_TEST(reached_as("other.example") == "");
  gateway.files.issue({"127.0.0.1"});
  gateway.cluster.gateway->look();
  BOOST_TEST(reached_as("127.0.0.1") == "");
}

BOOST_AUTO_TEST_CASE(a_client_that_speaks_plain_http_is_told) {
  Secured gateway;
  Client client = gateway.plain();
  const auto response = client.get("/livez");
  BOOST_TEST(response.result_int() == 400u);
  BOOST_TEST(parsed(response).at("error").at("code").as_string() == "https_required");
  boost::system::error_code ec;
  client.rest(ec);
  BOOST_TEST(ec == asio::error::eof);
}

BOOST_AUTO_TEST_CASE(what_is_no_tls_is_closed) {
  Secured gateway;
  Client client = gateway.plain();
  client.send(std::string(64, '\x16'));
  boost::system::error_code ec;
  client.rest(ec);
  BOOST_TEST(ec == asio::error::eof);
}

BOOST_AUTO_TEST_CASE(
    a_client_that_is_silent_in_the_handshake_is_let_go_and_counts_as_a_connection_until_then) {
  GatewayOptions options;
  options.header_timeout_ms = 300;
  options.connections_max = 1;
  Secured gateway(options);
  const auto began = std::chrono::steady_clock::now();
  Client silent = gateway.plain();
  BOOST_TEST(convoy::test::comes_true([&] {  // until it was accepted
    Client other = gateway.plain();
    if (handshake(other, gateway.files.trusting()) != "") return false;
    return other.get("/livez").result_int() == 503;
  }));
  boost::system::error_code ec;
  BOOST_TEST(silent.rest(ec).empty());
  BOOST_TEST((std::chrono::steady_clock::now() - began >= 300ms));
  BOOST_TEST(convoy::test::comes_true([&] {
    Client other = gateway.plain();
    return handshake(other, gateway.files.trusting()) == "" && other.get("/livez").result_int() == 200;
  }));
}

BOOST_AUTO_TEST_CASE(the_end_of_an_answer_is_tlss_own_and_that_of_a_broken_one_is_a_reset) {
  Secured gateway;
  {
    Client client = gateway.plain();
    client.encrypt(gateway.files.trusting());
    client.ask(http::verb::get, "/livez", {}, "Connection: close\r\n");
    BOOST_TEST(client.response().result_int() == 200u);
    boost::system::error_code ec;
    client.rest(ec);
    BOOST_TEST(ec == asio::error::eof);  // close_notify: without it Asio says that the stream is truncated
  }
  for (const std::string version : {"1.0", "1.1"}) {  // 1.0: nothing but the end says that it is whole
    Client client = gateway.plain();
    client.encrypt(gateway.files.trusting());
    const std::string body = chat_body(R"("stream":true)");
    client.send("POST " + chat_path + " HTTP/" + version +
                "\r\nHost: localhost\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body);
    const auto number = gateway.cluster.asked().number;
    gateway.cluster.accept(number);
    gateway.cluster.text(number, 0, "so far");
    client.read_until("so far");
    gateway.cluster.finish(number, 6, Reason::FAILED);
    boost::system::error_code ec;
    const std::string text = client.rest(ec);
    BOOST_TEST(text.find("generation_failed") != std::string::npos, text);
    BOOST_TEST(text.find("[DONE]") == std::string::npos);
    BOOST_TEST((ec == asio::error::connection_reset), ec.message());
  }
}

BOOST_AUTO_TEST_CASE(one_connection_too_many_is_told_so_in_tls) {
  GatewayOptions options;
  options.connections_max = 1;
  Secured gateway(options);
  Client first = gateway.plain();
  first.encrypt(gateway.files.trusting());
  BOOST_TEST(body_of(first) != "");
  Client second = gateway.plain();
  second.encrypt(gateway.files.trusting());
  BOOST_TEST(second.response().result_int() == 503u);
}

BOOST_AUTO_TEST_CASE(files_that_are_no_good_are_named_at_the_start) {
  const TestCertificate files("convoy-tls-files-"), others("convoy-tls-others-");
  const auto refused = [](const std::filesystem::path& certificate, const std::filesystem::path& key) {
    try {
      open_certificate(certificate, key);
      return std::string();
    } catch (const InputError& e) {
      return std::string(e.what());
    }
  };
  BOOST_TEST(refused(files.certificate, files.key) == "");
  BOOST_TEST(refused("/nonexistent.pem", files.key).starts_with("/nonexistent.pem: cannot be read"));
  BOOST_TEST(refused(files.certificate, "/nonexistent.key").starts_with("/nonexistent.key: cannot be read"));
  BOOST_TEST(refused(files.key, files.key).find("is no certificate") != std::string::npos);
  BOOST_TEST(refused(files.certificate, others.key).find("is no key of that certificate") !=
             std::string::npos);
  std::filesystem::permissions(files.key, std::filesystem::perms::all);
  BOOST_TEST(refused(files.certificate, files.key).find("chmod 600") != std::string::npos);
  BOOST_TEST(open_certificate("", "") == nullptr);
  std::filesystem::create_symlink(others.key, files.key.string() + ".link");  // as renewers leave them
  BOOST_TEST(refused(others.certificate, files.key.string() + ".link") == "");
}

}  // namespace convoy::gateway::test
