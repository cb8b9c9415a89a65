// What a client sends on a connection: HTTP's grammar, the rules beside it, the target, and the body as both
// endpoints read it.

#include <boost/asio/buffer.hpp>
#include <boost/beast/http.hpp>

#include "gateway/http_rules.hpp"
#include "gateway/openai_request.hpp"
#include "gateway/routes.hpp"
#include "model/utf8.hpp"
#include "test/fuzz/target.hpp"

using namespace convoy;
using namespace convoy::fuzz;
using namespace convoy::gateway;

namespace {

constexpr uint32_t header_bytes_max = 4 << 10;
constexpr uint64_t body_bytes_max = 8 << 10;

void check(const std::optional<ApiError>& error) {
  if (!error) return;
  demand(error->status >= 400 && error->status < 600, "an error has an error's status");
  demand(!error->message.empty() && !error->code.empty(), "an error says what is wrong");
  demand(model::find_invalid_utf8(error->message) == std::string::npos, "an error's text is UTF-8");
}

void check_body(Endpoint endpoint, std::string_view body) {
  const actors::ClusterConfig::Gateway limits;
  const auto parsed = parse_request(endpoint, body, limits);
  if (const auto* error = std::get_if<ApiError>(&parsed)) {
    demand(error->status == 400 && !error->message.empty(), "a body that is refused is the client's mistake");
    return;
  }
  const auto& request = std::get<CompletionRequest>(parsed);
  demand(request.stop.size() <= limits.stop_strings_max, "stop strings are counted");
  demand(endpoint != Endpoint::chat || ChatMessages(request).size() > 0, "a chat has messages");
}

/// One request; returns the bytes it took, or 0 if no other can follow.
size_t read_one(std::string_view bytes) {
  http::request_parser<http::string_body> parser;
  parser.header_limit(header_bytes_max);
  parser.body_limit(body_bytes_max);
  size_t taken = 0;
  const auto feed = [&](auto done) {
    boost::system::error_code ec;
    while (!done() && taken < bytes.size() && !ec) {
      const size_t used = parser.put(boost::asio::buffer(bytes.substr(taken)), ec);
      if (used == 0) break;
      taken += used;
    }
    return !ec && done();
  };
  if (!feed([&] { return parser.is_header_done(); })) return 0;
  const HttpHeader& header = parser.get().base();
  const auto framing = framing_error(header), audience = audience_error(header, {});
  check(framing);
  check(audience);
  const std::string path = path_of({header.target().data(), header.target().size()});
  demand(!path.empty() && model::find_invalid_utf8(path) == path.npos, "a path is UTF-8");
  demand(path.find("//") == path.npos && (path == "/" || !path.ends_with('/')), "a path has one spelling");
  find_route(path);
  (void)told_not_to_cache(header);
  demand(given_request_id(header).size() <= 128, "an id has a limit");
  if (framing) return 0;
  const bool chunked = header.count(http::field::transfer_encoding) > 0;
  demand(!chunked || parser.chunked(), "what we take for chunks is read as chunks");
  if (!feed([&] { return parser.is_done(); })) return 0;
  for (const Endpoint endpoint : {Endpoint::chat, Endpoint::completions})
    check_body(endpoint, parser.get().body());
  return parser.keep_alive() ? taken : 0;
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view bytes = text_of(data, size);
  while (const size_t taken = read_one(bytes)) bytes.remove_prefix(taken);
  return 0;
}
