// Keys at the edge: who may ask what, before a body is read, and what tenants do not share.

#include <sys/stat.h>

#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <set>

#include "gateway/keys_file.hpp"
#include "gateway/routes.hpp"
#include "test/gateway/captured.hpp"
#include "test/gateway/fake_cluster.hpp"

namespace convoy::gateway::test {

namespace fs = std::filesystem;

namespace {

struct Keyed {
  fs::path folder = fs::temp_directory_path() / ("convoy-keyed-" + std::to_string(::getpid()));
  fs::path file = (fs::remove_all(folder), fs::create_directory(folder), folder / "keys");
  std::string user = make(KeyRole::user, "acme"), other = make(KeyRole::user, "other"),
              admin = make(KeyRole::admin, "ops"), metrics = make(KeyRole::metrics, "ops"),
              ended = make(KeyRole::admin, "acme", 1);
  Cluster cluster{options(), fake_model(), std::string(32, 's')};
  ~Keyed() { fs::remove_all(folder); }

  std::string make(KeyRole role, const std::string& tenant, int64_t until_s = 0) const {
    ApiKey key;
    key.role = role;
    key.tenant = tenant;
    key.until_s = until_s;
    return make_key(file, key);
  }
  GatewayOptions options() const {
    GatewayOptions options;
    options.keys_file = file;
    return options;
  }
  /// Status and code of an answer to a request with that key.
  std::pair<unsigned, std::string> asked(http::verb verb, const std::string& path, const std::string& key) {
    Client client(cluster.gateway->port());
    client.key = key;
    client.ask(verb, path);
    const auto response = client.response();
    if (response.result_int() < 400 || !response.body().starts_with("{\"error\""))
      return {response.result_int(), ""};
    const auto error = parsed(response).at("error");
    return {response.result_int(),
            error.at("code").is_null() ? "" : std::string(error.at("code").as_string())};
  }
  Asked asks(const std::string& key, const std::string& more) {
    clients.emplace_back(cluster.gateway->port()).key = key;
    clients.back().ask(http::verb::post, chat_path, chat_body(more));
    return cluster.asked();
  }
  std::deque<Client> clients;
};

using Answer = std::pair<unsigned, std::string>;

void is(const Answer& answer, unsigned status, const std::string& code, const std::string& what) {
  BOOST_TEST(answer.first == status, what << ": " << answer.first);
  BOOST_TEST(answer.second == code, what << ": " << answer.second);
}

std::string a_path_of(const Route& route) {
  std::string path(route.path);
  if (const size_t id = path.find("{id}"); id != path.npos) path.replace(id, 4, "fake-model");
  return path;
}

}  // namespace

BOOST_AUTO_TEST_CASE(every_route_asks_for_the_key_that_its_table_names) {
  Keyed keyed;
  size_t open = 0;
  for (const Route& route : routes()) {
    const std::string path = a_path_of(route);
    const auto verb = http::string_to_verb(route.methods.substr(0, route.methods.find(',')));
    if (route.access == Access::open) {
      ++open;
      BOOST_TEST((path == "/livez" || path == "/readyz"), path);
      BOOST_TEST(keyed.asked(verb, path, "").first != 401u);
      continue;
    }
    is(keyed.asked(verb, path, ""), 401, "missing_api_key", path);
    for (const std::string& key : {std::string("sk-other"), keyed.user + "0", keyed.ended})
      is(keyed.asked(verb, path, key), 401, "invalid_api_key", path);
    const bool for_metrics = path == "/metrics";
    BOOST_TEST((route.access == Access::metrics) == for_metrics, path);
    is(keyed.asked(verb, path, for_metrics ? keyed.user : keyed.metrics), 403, "insufficient_permissions",
       path);
    // 400: an empty body. It was read.
    for (const std::string& key : {for_metrics ? keyed.metrics : keyed.user, keyed.admin})
      BOOST_TEST(keyed.asked(verb, path, key).first == (verb == http::verb::post ? 400u : 200u), path);
  }
  BOOST_TEST(open == 2u);
}

BOOST_AUTO_TEST_CASE(what_is_not_there_asks_for_a_key_first) {
  Keyed keyed;
  is(keyed.asked(http::verb::get, "/v1/nothing", ""), 401, "missing_api_key", "no key");
  is(keyed.asked(http::verb::get, "/v1/nothing", keyed.metrics), 403, "insufficient_permissions", "metrics");
  is(keyed.asked(http::verb::get, "/v1/nothing", keyed.user), 404, "not_found", "user");
  is(keyed.asked(http::verb::delete_, "/livez", ""), 405, "method_not_allowed", "an open route");
}

BOOST_AUTO_TEST_CASE(a_refusal_is_openais_and_comes_before_the_body) {
  Keyed keyed;
  Client client(keyed.cluster.gateway->port());
  client.send(
      "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n"
      "Expect: 100-continue\r\nAuthorization: Bearer wrong\r\n\r\n");
  const auto response = client.response();  // not 100
  BOOST_TEST(response.result_int() == 401u);
  BOOST_TEST(response[http::field::www_authenticate] == "Bearer");
  BOOST_TEST(!response.keep_alive());
  const auto error = parsed(response).at("error");
  BOOST_TEST(error.at("type").as_string() == "invalid_request_error");
  BOOST_TEST(error.at("param").is_null());
  BOOST_TEST(error.at("message").is_string());
  boost::system::error_code ec;
  BOOST_TEST(client.rest(ec).empty());
}

BOOST_AUTO_TEST_CASE(a_refusal_of_head_has_no_body) {
  Keyed keyed;
  Client client(keyed.cluster.gateway->port());
  client.ask(http::verb::head, "/v1/models");
  BOOST_TEST(client.response(true).result_int() == 401u);
  boost::system::error_code ec;
  BOOST_TEST(client.rest(ec).empty());
}

BOOST_AUTO_TEST_CASE(the_header_says_bearer_once) {
  Keyed keyed;
  const auto status = [&](const std::string& header) {
    Client client(keyed.cluster.gateway->port());
    client.ask(http::verb::get, "/v1/models", {}, header);
    return client.response().result_int();
  };
  const std::string name = "Authorization: ";
  BOOST_TEST(status(name + "Bearer " + keyed.user + "\r\n") == 200u);
  BOOST_TEST(status("authorization:bearer   " + keyed.user + " \r\n") == 200u);
  for (const std::string& header :
       {name + keyed.user + "\r\n", name + "Basic " + keyed.user + "\r\n", name + "Bearer\r\n",
        name + "Bearer \r\n", name + "Bearer " + keyed.user + " x\r\n",
        name + "Bearer " + keyed.user + "\r\n" + name + "Bearer " + keyed.user + "\r\n",
        "X-Api-Key: " + keyed.user + "\r\n"})
    BOOST_TEST(status(header) == 401u, header);
}

BOOST_AUTO_TEST_CASE(a_key_that_is_revoked_is_refused_from_then_on_on_open_connections_too) {
  Keyed keyed;
  Client client(keyed.cluster.gateway->port());
  client.key = keyed.user;
  BOOST_TEST(client.get("/v1/models").result_int() == 200u);
  change_keys(keyed.file, [&](ApiKeys& keys) { keys.erase(keys.begin()); });
  const std::string fresh = keyed.make(KeyRole::user, "fresh");
  keyed.cluster.gateway->look();
  BOOST_TEST(client.get("/v1/models").result_int() == 401u);
  BOOST_TEST(keyed.asked(http::verb::get, "/v1/models", fresh).first == 200u);
  fs::remove(keyed.file);  // those that are known go on to count
  keyed.cluster.gateway->look();
  BOOST_TEST(keyed.asked(http::verb::get, "/v1/models", fresh).first == 200u);
  BOOST_TEST(keyed.asked(http::verb::get, "/v1/models", keyed.user).first == 401u);
}

BOOST_AUTO_TEST_CASE(two_tenants_share_no_cached_answer_and_no_prompt) {
  Keyed keyed;
  const std::string request = R"("seed":1)", of_bob = R"("seed":1,"user":"bob")";
  const Asked a = keyed.asks(keyed.user, request), b = keyed.asks(keyed.other, request),
              again = keyed.asks(keyed.user, request), a_bob = keyed.asks(keyed.user, of_bob),
              b_bob = keyed.asks(keyed.other, of_bob);
  BOOST_TEST(!a.cache_key.empty());
  BOOST_TEST(a.cache_key != b.cache_key);
  BOOST_TEST(a.cache_key == again.cache_key);
  BOOST_TEST(a.cache_key == a_bob.cache_key);  // within a tenant, as without keys
  BOOST_TEST(a.salt == again.salt);
  const std::set<std::string> salts{a.salt, b.salt, a_bob.salt, b_bob.salt};
  BOOST_TEST(salts.size() == 4u);
  BOOST_TEST(a.tenant == a_bob.tenant);
  BOOST_TEST(a.tenant != b.tenant);
}

BOOST_AUTO_TEST_CASE(without_keys_tenants_are_what_they_were) {
  Cluster cluster({}, fake_model(), std::string(32, 's'));
  Client client(cluster.gateway->port());
  client.key = "sk-anything";  // as SDKs send it
  client.ask(http::verb::post, chat_path, chat_body(R"("user":"bob")"));
  const Asked asked = cluster.asked();
  BOOST_TEST(asked.tenant == "user bob");
  BOOST_TEST(asked.salt == "bob");
}

BOOST_AUTO_TEST_CASE(refusals_are_counted_by_reason) {
  Keyed keyed;
  keyed.asked(http::verb::get, "/v1/models", keyed.ended);
  keyed.asked(http::verb::get, "/nothing", "");
  keyed.asked(http::verb::get, "/v1/models", keyed.metrics);
  Client client(keyed.cluster.gateway->port());
  client.key = keyed.metrics;
  const std::string text = client.get("/metrics").body();
  for (const char* labels : {R"(endpoint="models",reason="invalid_api_key",status="401"} 1)",
                             R"(endpoint="other",reason="missing_api_key",status="401"} 1)",
                             R"(endpoint="models",reason="insufficient_permissions",status="403"} 1)"})
    BOOST_TEST(text.find(labels) != text.npos, labels);
}

BOOST_AUTO_TEST_CASE(refusals_are_logged_with_the_keys_id_and_without_the_key) {
  Keyed keyed;
  const Captured captured;
  for (const std::string& key : {keyed.ended, keyed.metrics}) {
    const std::string id = " key=" + key.substr(5, 12) + " ";
    // Again, as there is a limit for such lines, which other tests used up.
    BOOST_TEST(convoy::test::comes_true([&] {
      keyed.asked(http::verb::get, "/v1/models", key);
      return captured.all().find(id) != std::string::npos;
    }));
  }
  for (const std::string& key : {keyed.ended, keyed.metrics})
    BOOST_TEST(captured.all().find(key.substr(18)) == std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_gateway_whose_keys_are_not_there_does_not_start) {
  GatewayOptions options;
  options.keys_file = "/nonexistent/keys";
  BOOST_CHECK_EXCEPTION(Cluster{options}, InputError, [](const InputError& e) {
    return std::string_view(e.what()).find("convoy key create") != std::string_view::npos;
  });
}

}  // namespace convoy::gateway::test
