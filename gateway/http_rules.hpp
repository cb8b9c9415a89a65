#pragma once
// What a request must keep beside HTTP's grammar, which Beast checks: how its body is framed, and whom it is
// for. Called by connections and sessions for each request, and by their fuzz target; pure, any thread.

#include <boost/beast/http.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "gateway/api_error.hpp"

namespace convoy::gateway {

namespace http = boost::beast::http;

using HttpHeader = http::request_header<http::fields>;

/// Why it cannot be known where the body ends: 400, or 501 for a coding other than chunked. The connection
/// must be closed, or the body would be read as the next request (smuggling).
std::optional<ApiError> framing_error(const HttpHeader& header);

/// Why it is not for us: a Host (or an absolute target) that is not ours, or an Origin of another site, whose
/// page makes the user's browser ask. Loopback's names are always ours. allowed_hosts: further ones.
std::optional<ApiError> audience_error(const HttpHeader& header, std::span<const std::string> allowed_hosts);

/// The path of a target, also of an absolute one: %XX decoded, without its query, runs of / as one, none at
/// the end. UTF-8, whatever the bytes: it is shown in errors.
std::string path_of(std::string_view target);

/// The client's own x-request-id, if it can be shown in a header and a log line; else empty.
std::string_view given_request_id(const HttpHeader& header);

/// Whether any Cache-Control line says no-store or no-cache.
bool told_not_to_cache(const HttpHeader& header);

}  // namespace convoy::gateway
