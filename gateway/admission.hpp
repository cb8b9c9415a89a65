#pragma once
// Who may ask what: the key in a request's header against what its route asks for. Called by sessions before
// a body is read; pure, any thread.

#include <cstdint>
#include <optional>
#include <string>

#include "gateway/api_error.hpp"
#include "gateway/api_keys.hpp"
#include "gateway/http_rules.hpp"
#include "gateway/routes.hpp"

namespace convoy::gateway {

/// Who asks, as far as a key says it; all empty where no keys are asked for.
struct Caller {
  std::string tenant;
  std::string key_id;
};

struct Admission {
  Caller caller;  // of a key that is known, even if it does not open this
  std::optional<ApiError> refused;
};

/// 401 or 403, or nothing. Where a key is asked for, all are looked at, whatever was shown.
Admission admit(const ApiKeys& keys, const HttpHeader& header, Access access, int64_t now_s);

}  // namespace convoy::gateway
