#include "gateway/http_rules.hpp"

#include <algorithm>
#include <boost/algorithm/string.hpp>
#include <boost/asio/ip/address.hpp>
#include <cctype>
#include <vector>

#include "model/utf8.hpp"

namespace convoy::gateway {

namespace {

constexpr size_t request_id_bytes_max = 128;
constexpr size_t shown_bytes_max = 200;  // of what the client sent, in an error

bool is_alphanumeric(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; }

std::string shown(std::string_view text) {
  return "'" + model::replace_invalid_utf8(text.substr(0, shown_bytes_max)) + "'";
}

/// The elements of all lines of a field that is a list.
std::vector<std::string> elements_of(const HttpHeader& header, http::field name) {
  std::vector<std::string> all;
  const auto [first, last] = header.equal_range(name);
  for (auto line = first; line != last; ++line) {
    std::vector<std::string> elements;
    boost::split(elements, line->value(), boost::is_any_of(","));
    for (std::string& element : elements) {
      boost::trim_if(element, boost::is_any_of(" \t"));
      if (!element.empty()) all.push_back(std::move(element));
    }
  }
  return all;
}

/// "http://host/path" as its authority and the rest; other forms have no authority.
struct SplitTarget {
  std::optional<std::string_view> authority;
  std::string_view rest;
};
SplitTarget split_target(std::string_view target) {
  for (const std::string_view scheme : {"http://", "https://"}) {
    if (!boost::istarts_with(target, scheme)) continue;
    target.remove_prefix(scheme.size());
    const size_t end = std::min(target.find_first_of("/?#"), target.size());
    return {target.substr(0, end), target.substr(end)};
  }
  return {std::nullopt, target};
}

/// The host of "host", "host:80" or "[::1]:80", without a last dot; nothing if it is none of these.
std::optional<std::string> host_of(std::string_view authority) {
  std::string_view host = authority, port;
  const bool bracketed = authority.starts_with('[');
  if (bracketed) {
    const size_t close = authority.find(']');
    if (close == authority.npos) return std::nullopt;
    host = authority.substr(1, close - 1);
    port = authority.substr(close + 1);
  } else if (const size_t colon = authority.find(':'); colon != authority.npos) {
    host = authority.substr(0, colon);
    port = authority.substr(colon);
  }
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  if (!port.empty() && (port[0] != ':' || !std::ranges::all_of(port.substr(1), is_digit)))
    return std::nullopt;
  const auto belongs = [&](char c) {
    return is_alphanumeric(c) || c == '.' || (bracketed ? c == ':' : c == '-' || c == '_');
  };
  if (host.empty() || !std::ranges::all_of(host, belongs)) return std::nullopt;
  if (host.size() > 1 && host.ends_with('.')) host.remove_suffix(1);
  return std::string(host);
}

bool is_ours(std::string_view host, std::span<const std::string> allowed_hosts) {
  if (boost::iequals(host, "localhost")) return true;
  boost::system::error_code not_an_address;
  const auto address = boost::asio::ip::make_address(std::string(host), not_an_address);
  if (!not_an_address && address.is_loopback()) return true;
  return std::ranges::any_of(allowed_hosts,
                             [&](const std::string& allowed) { return boost::iequals(host, allowed); });
}

const std::string mend = "; if it may, add its host to gateway.allowed_hosts in cluster.conf";

std::optional<ApiError> origin_error(std::string_view origin, std::span<const std::string> allowed_hosts) {
  const size_t scheme = origin.find("://");
  const auto host = scheme == origin.npos ? std::nullopt : host_of(origin.substr(scheme + 3));
  if (host && is_ours(*host, allowed_hosts)) return std::nullopt;
  return ApiError{403,
                  "a page of the origin " + shown(origin) + " may not use this gateway" + mend,
                  {},
                  "origin_not_allowed"};
}

}  // namespace

std::optional<ApiError> framing_error(const HttpHeader& header) {
  if (!header.count(http::field::transfer_encoding)) return std::nullopt;
  const auto broken = [](const std::string& why) { return bad_request(why, {}, "invalid_framing"); };
  if (header.version() < 11) return broken("HTTP/1.0 has no Transfer-Encoding; send Content-Length");
  if (header.count(http::field::content_length))
    return broken("there are both Transfer-Encoding and Content-Length; send one of them");
  const std::vector<std::string> codings = elements_of(header, http::field::transfer_encoding);
  if (codings.empty()) return broken("Transfer-Encoding is empty");
  for (const std::string& coding : codings) {
    if (boost::iequals(coding, "chunked")) continue;
    const auto of_token = [](char c) {
      return is_alphanumeric(c) ||
             (c && std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos);
    };
    if (!std::ranges::all_of(coding, of_token))
      return broken(shown(coding) + " is no transfer coding; use chunked");
    return ApiError{501,
                    "the transfer coding " + shown(coding) + " is not known here; use chunked",
                    {},
                    "unsupported_transfer_coding"};
  }
  if (codings.size() != 1) return broken("Transfer-Encoding names chunked more than once");
  return std::nullopt;
}

std::optional<ApiError> audience_error(const HttpHeader& header, std::span<const std::string> allowed_hosts) {
  const auto hosts = header.count(http::field::host);
  if (hosts > 1 || (hosts == 0 && header.version() >= 11))
    return bad_request(hosts ? "there is more than one Host" : "HTTP/1.1 needs a Host", {}, "invalid_host");
  auto authority = split_target({header.target().data(), header.target().size()}).authority;
  if (!authority && hosts)
    authority = std::string_view(header[http::field::host].data(), header[http::field::host].size());
  if (authority) {
    const auto host = host_of(*authority);
    if (!host) return bad_request(shown(*authority) + " is not a host", {}, "invalid_host");
    if (!is_ours(*host, allowed_hosts))
      return ApiError{
          403, "the host " + shown(*host) + " may not stand for this gateway" + mend, {}, "host_not_allowed"};
  }
  const auto [first, last] = header.equal_range(http::field::origin);
  for (auto line = first; line != last; ++line)
    if (auto error = origin_error({line->value().data(), line->value().size()}, allowed_hosts)) return error;
  return std::nullopt;
}

std::string path_of(std::string_view target) {
  target = split_target(target).rest;
  target = target.substr(0, target.find_first_of("?#"));
  const auto digit = [&](size_t at) {
    const char c = at < target.size() ? target[at] : ' ';
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
  };
  std::string path;
  for (size_t i = 0; i < target.size(); ++i) {
    char c = target[i];
    if (c == '%' && digit(i + 1) >= 0 && digit(i + 2) >= 0) {  // a broken escape stays as it is
      c = static_cast<char>(digit(i + 1) * 16 + digit(i + 2));
      i += 2;
    }
    if (c != '/' || !path.ends_with('/')) path += c;
  }
  if (path.size() > 1 && path.ends_with('/')) path.pop_back();
  return path.empty() ? "/" : model::replace_invalid_utf8(path);
}

std::string_view given_request_id(const HttpHeader& header) {
  const auto value = header["x-request-id"];
  const std::string_view id(value.data(), value.size());
  const auto belongs = [](char c) {
    return is_alphanumeric(c) || (c && std::string_view("-_.:+/=~").find(c) != std::string_view::npos);
  };
  return id.size() <= request_id_bytes_max && std::ranges::all_of(id, belongs) ? id : std::string_view();
}

bool told_not_to_cache(const HttpHeader& header) {
  return std::ranges::any_of(
      elements_of(header, http::field::cache_control), [](const std::string& directive) {
        return boost::iequals(directive, "no-store") || boost::iequals(directive, "no-cache");
      });
}

}  // namespace convoy::gateway
