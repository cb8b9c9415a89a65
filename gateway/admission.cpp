#include "gateway/admission.hpp"

#include <algorithm>
#include <boost/algorithm/string/predicate.hpp>

namespace convoy::gateway {

namespace {

/// The word behind "Bearer"; empty: there is none, or more than one.
std::string_view shown_key(const HttpHeader& header) {
  constexpr std::string_view scheme = "Bearer ";
  if (header.count(http::field::authorization) != 1) return {};
  const auto value = header[http::field::authorization];
  std::string_view text(value.data(), value.size());
  if (!boost::istarts_with(text, scheme)) return {};
  text.remove_prefix(scheme.size());
  text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
  return text;
}

bool opens(KeyRole role, Access access) {
  return role == KeyRole::admin || role == (access == Access::metrics ? KeyRole::metrics : KeyRole::user);
}

}  // namespace

Admission admit(const ApiKeys& keys, const HttpHeader& header, Access access, int64_t now_s) {
  Admission admission;
  if (access == Access::open) return admission;
  const std::string_view shown = shown_key(header);
  const ApiKey* const key = find_key(keys, shown);
  if (key) admission.caller = {key->tenant, key->id};
  if (shown.empty())
    admission.refused = ApiError{
        401, "this gateway asks for a key: send one as `Authorization: Bearer KEY`", {}, "missing_api_key"};
  else if (!key || key->has_ended(now_s))
    admission.refused = ApiError{401, "the API key is not known, or counts no more", {}, "invalid_api_key"};
  else if (!opens(key->role, access))
    admission.refused =
        ApiError{403,
                 "a key of the role " + std::string(name_of(key->role)) +
                     " does not open this; ask for one of the role " + std::string(name_of(access)),
                 {},
                 "insufficient_permissions"};
  return admission;
}

}  // namespace convoy::gateway
