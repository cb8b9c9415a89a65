#pragma once
// ApiError: what the client is told when a request cannot be served, in OpenAI's terms. A value; any thread.

#include <cstdint>
#include <string>
#include <string_view>

namespace convoy::gateway {

struct ApiError {
  unsigned status = 500;  // HTTP
  std::string message;
  std::string param;            // the request's field; empty: null
  std::string code;             // empty: null
  uint32_t retry_after_ms = 0;  // 0: no Retry-After header

  /// One word for metrics and logs.
  std::string reason() const { return code.empty() ? status >= 500 ? "internal" : "invalid_request" : code; }

  /// OpenAI's `type`, which follows from the status.
  std::string_view type() const {
    if (status == 429) return "rate_limit_error";
    return status >= 500 ? "server_error" : "invalid_request_error";
  }
};

inline ApiError bad_request(std::string message, std::string param, std::string code = {}) {
  return {400, std::move(message), std::move(param), std::move(code)};
}

inline constexpr const char* overloaded_code = "overloaded";
inline ApiError overloaded(const std::string& why, uint32_t retry_after_ms) {
  return {503, "the cluster is overloaded: " + why, {}, overloaded_code, retry_after_ms};
}

/// The cluster failed in mid-answer.
inline ApiError broken_answer(const std::string& why) {
  return {503, "the answer could not be completed: " + why, {}, "generation_failed", 1000};
}

}  // namespace convoy::gateway
