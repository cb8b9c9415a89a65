// What a request must keep beside HTTP's grammar, and where its target leads.

#include "gateway/http_rules.hpp"

#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "gateway/routes.hpp"
#include "model/utf8.hpp"

namespace convoy::gateway::test {

namespace {

using Lines = std::vector<std::pair<std::string, std::string>>;

HttpHeader header(const Lines& lines, unsigned version = 11, const std::string& target = "/livez") {
  HttpHeader h;
  h.version(version);
  h.method(http::verb::post);
  h.target(target);
  for (const auto& [name, value] : lines) h.insert(name, value);
  return h;
}

unsigned framing(const Lines& lines, unsigned version = 11) {
  const auto error = framing_error(header(lines, version));
  if (error) BOOST_TEST(!error->code.empty());
  return error ? error->status : 200;
}

unsigned audience(const Lines& lines, unsigned version = 11, const std::string& target = "/livez",
                  const std::vector<std::string>& allowed = {}) {
  const auto error = audience_error(header(lines, version, target), allowed);
  if (error && error->status == 403)
    BOOST_TEST(error->message.find("gateway.allowed_hosts") != std::string::npos);
  return error ? error->status : 200;
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_body_is_framed_by_its_length_or_by_chunks_and_by_nothing_else) {
  BOOST_TEST(framing({}) == 200u);
  BOOST_TEST(framing({{"Content-Length", "5"}}) == 200u);
  for (const char* value : {"chunked", "Chunked", " chunked\t", "chunked,", ", chunked"})
    BOOST_TEST(framing({{"Transfer-Encoding", value}}) == 200u, value);
  for (const char* value : {"gzip", "gzip, chunked", "chunked, gzip", "identity", "xchunked", "chunked2"})
    BOOST_TEST(framing({{"Transfer-Encoding", value}}) == 501u, value);
  for (const char* value : {"", ",", "chunked, chunked", "chunked;x=1",
                            "\x0b"
                            "chunked",
                            "chu nked", "\"chunked\"", "\xff"})
    BOOST_TEST(framing({{"Transfer-Encoding", value}}) == 400u, value);
  BOOST_TEST(framing({{"Transfer-Encoding", "chunked"}, {"Transfer-Encoding", "chunked"}}) == 400u);
  BOOST_TEST(framing({{"Transfer-Encoding", "chunked"}, {"Transfer-Encoding", "gzip"}}) == 501u);
  BOOST_TEST(framing({{"Transfer-Encoding", "chunked"}, {"Content-Length", "5"}}) == 400u);
  BOOST_TEST(framing({{"Transfer-Encoding", "gzip"}, {"Content-Length", "5"}}) == 400u);
  BOOST_TEST(framing({{"Transfer-Encoding", "chunked"}}, 10) == 400u);
}

BOOST_AUTO_TEST_CASE(a_request_names_one_host_which_is_ours) {
  for (const char* host : {"localhost", "LOCALHOST:8080", "localhost.", "127.0.0.1", "127.0.0.1:80",
                           "127.1.2.3", "[::1]", "[::1]:8080", "localhost:"})
    BOOST_TEST(audience({{"Host", host}}) == 200u, host);
  for (const char* host : {"evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "192.0.2.1",
                           "[2001:db8::1]:80", "10.0.0.1:8080"})
    BOOST_TEST(audience({{"Host", host}}) == 403u, host);
  for (const char* host :
       {"", "a b", "user@localhost", "localhost:8x", "[::1", "[::1]x", "::1", "localhost/", "\xff"})
    BOOST_TEST(audience({{"Host", host}}) == 400u, host);
  BOOST_TEST(audience({}) == 400u);
  BOOST_TEST(audience({}, 10) == 200u);
  BOOST_TEST(audience({{"Host", "localhost"}, {"Host", "localhost"}}) == 400u);
  BOOST_TEST(audience({{"Host", "localhost"}, {"Host", "localhost"}}, 10) == 400u);
  BOOST_TEST(audience({{"Host", "Proxy.Lan:8080"}}, 11, "/", {"proxy.lan"}) == 200u);
}

BOOST_AUTO_TEST_CASE(an_absolute_target_names_the_host_instead) {
  BOOST_TEST(audience({{"Host", "evil.example"}}, 11, "http://localhost:8080/livez") == 200u);
  BOOST_TEST(audience({{"Host", "localhost"}}, 11, "http://evil.example/livez") == 403u);
  BOOST_TEST(audience({{"Host", "localhost"}}, 11, "http://localhost@evil.example/livez") == 400u);
  BOOST_TEST(audience({}, 11, "http://localhost/livez") == 400u);
}

BOOST_AUTO_TEST_CASE(a_page_of_another_site_may_not_ask) {
  for (const char* origin :
       {"http://localhost:3000", "https://127.0.0.1", "http://[::1]:5173", "http://app.lan"})
    BOOST_TEST(audience({{"Host", "localhost"}, {"Origin", origin}}, 11, "/", {"app.lan"}) == 200u, origin);
  for (const char* origin : {"https://evil.example", "null", "", "http://localhost.evil.example", "localhost",
                             "http://evil.example:8080", "file://"})
    BOOST_TEST(audience({{"Host", "localhost"}, {"Origin", origin}}) == 403u, origin);
}

BOOST_AUTO_TEST_CASE(a_target_is_a_path_however_it_is_written) {
  const std::pair<const char*, const char*> cases[] = {{"/livez", "/livez"},
                                                       {"/livez?x=1", "/livez"},
                                                       {"/livez/", "/livez"},
                                                       {"//livez///", "/livez"},
                                                       {"/", "/"},
                                                       {"", "/"},
                                                       {"/%6Civez", "/livez"},
                                                       {"/%6", "/%6"},
                                                       {"/%zz%", "/%zz%"},
                                                       {"/a%2Fb", "/a/b"},
                                                       {"/a%2F/b", "/a/b"},
                                                       {"http://localhost:1/livez/", "/livez"},
                                                       {"HTTPS://localhost", "/"},
                                                       {"http://h?x", "/"},
                                                       {"/http://x", "/http:/x"},
                                                       {"*", "*"},
                                                       {"/livez#part", "/livez"},
                                                       {"/?/livez", "/"}};
  for (const auto& [target, path] : cases) BOOST_TEST(path_of(target) == path, target);
  BOOST_TEST(model::find_invalid_utf8(path_of("/%ff%C3\xc3x")) == std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_request_id_is_taken_if_it_can_be_shown) {
  for (const char* id : {"abc-123", "req_1.2:3/4+5=", "A"})
    BOOST_TEST(given_request_id(header({{"X-Request-Id", id}})) == id);
  for (const std::string& id : {std::string(129, 'x'), std::string("a b"), std::string("a\"b"),
                                std::string("\xc3\xa9"), std::string("a,b"), std::string("<b>")})
    BOOST_TEST(given_request_id(header({{"X-Request-Id", id}})).empty());
}

BOOST_AUTO_TEST_CASE(every_line_of_cache_control_counts) {
  BOOST_TEST(!told_not_to_cache(header({})));
  BOOST_TEST(!told_not_to_cache(header({{"Cache-Control", "max-age=0"}})));
  BOOST_TEST(told_not_to_cache(header({{"Cache-Control", "max-age=0, No-Store"}})));
  BOOST_TEST(told_not_to_cache(header({{"Cache-Control", "max-age=0"}, {"Cache-Control", "no-cache"}})));
}

BOOST_AUTO_TEST_CASE(routes_are_found_with_and_without_their_version) {
  const auto leads_to = [](const char* path, Route::Action action, std::string_view id = {}) {
    const Destination to = find_route(path);
    return to.route && to.route->action == action && to.id == id;
  };
  using Action = Route::Action;
  BOOST_TEST(leads_to("/v1/chat/completions", Action::chat));
  BOOST_TEST(leads_to("/chat/completions", Action::chat));
  BOOST_TEST(leads_to("/completions", Action::completions));
  BOOST_TEST(leads_to("/models", Action::models));
  BOOST_TEST(leads_to("/models/org/name", Action::model, "org/name"));
  BOOST_TEST(leads_to("/v1/models/org/name", Action::model, "org/name"));
  for (const char* path : {"/", "/v1", "/v1/livez", "/v2/models", "/v1/modelsx", "/v1/v1/models", "livez"})
    BOOST_TEST(!find_route(path).route, path);
  const Route* models = find_route("/v1/models").route;
  BOOST_TEST((models->allows("GET") && models->allows("HEAD")));
  for (const char* method : {"POST", "GE", "GET, HEAD", "", "get"})
    BOOST_TEST(!models->allows(method), method);
}

BOOST_AUTO_TEST_CASE(the_document_lists_the_routes) {
  const char* folder = std::getenv("CONVOY_SOURCE_DIR");
  std::ifstream file(std::string(folder ? folder : ".") + "/docs/http-api.md");
  std::vector<std::string> written;
  bool in_table = false;
  for (std::string line; std::getline(file, line);) {
    if (in_table && line.empty()) break;
    if (in_table && !line.starts_with("|---")) written.push_back(line);
    if (line.starts_with("| endpoint |")) in_table = true;
  }
  std::vector<std::string> expected;
  for (const Route& route : routes())
    expected.push_back("| `" + std::string(route.methods.substr(0, route.methods.find(','))) + " " +
                       std::string(route.path) + "` | " + std::string(name_of(route.access)) + " | " +
                       std::string(route.help) + " |");
  BOOST_TEST(written == expected, boost::test_tools::per_element());
}

}  // namespace convoy::gateway::test
