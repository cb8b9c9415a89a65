#pragma once
// The answer cache's key: requests with the same key get the same answer. Called by a completion for each
// prompt whose answer may be kept; pure, any thread.

#include <boost/json.hpp>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace convoy::gateway {

/// What shapes an answer besides the request.
struct KeyContext {
  std::string weights_digest, tokenizer_digest, template_id, endpoint;
  std::string kernel_variant;  // settings and every stage's gpu::DeviceFacts::variant: what shapes bits
  uint64_t cache_epoch = 0;    // raised by the operator to forget all answers
  std::vector<int32_t> end_tokens;
};

/// What the cluster's secret gives for the next function's key.
std::string answer_key_of(const std::string& secret);
/// HMAC-SHA-256, 32 raw bytes, over tenant, context and canonical_request. key: answer_key_of()'s.
std::string answer_key(const std::string& key, std::string_view tenant, const KeyContext& context,
                       const boost::json::object& request);

/// The request as bytes that are equal exactly when everything in it is equal but the order of an object's
/// keys, the spelling of numbers (1, 1.0, 1e0) and the fields that only shape when and how answers come, and
/// how many (stream, stream_options, user, priority, speculation, n, best_of). Text is taken byte for byte. A
/// field that is new to us counts, so that it can cost a hit but never a wrong answer. The depth of the
/// request is bounded by its parser.
std::string canonical_request(const boost::json::object& request);

}  // namespace convoy::gateway
