#pragma once
// The bodies of POST /v1/chat/completions and /v1/completions: JSON to a validated request. Pure; any thread.
// A known field of a wrong type, out of range, or asking for what we don't do is an error that names it;
// unknown fields are ignored. null means absent, as OpenAI has it.

#include <boost/json.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "actors/config/cluster_config.hpp"
#include "actors/schedule/tenants.hpp"
#include "gateway/api_error.hpp"
#include "model/chat/chat_template.hpp"
#include "model/sampling.hpp"

namespace convoy::gateway {

enum class Endpoint { chat, completions };

constexpr size_t json_depth_max = 64;           // a deeper body would cost stack
constexpr size_t stop_string_bytes_max = 4096;  // that much text of a stream may be held back
constexpr uint32_t chat_top_logprobs_max = 20;
constexpr uint32_t completion_logprobs_max = 5;
constexpr size_t user_bytes_max = 512;

using PromptInput = std::variant<std::string, std::vector<int32_t>>;  // text, or token ids

struct CompletionRequest {
  Endpoint endpoint = Endpoint::chat;
  // As it came, in memory of its own: a chat's messages stand in it, and the cache's key is made of it.
  std::optional<boost::json::object> body;
  std::string model;
  std::vector<PromptInput> prompts;  // completions
  model::Sampling sampling;          // end_tokens are the model's: not set here
  bool seeded = false;               // the client gave a seed
  std::optional<uint32_t> max_tokens;
  std::string max_tokens_field;  // which one named it, for errors
  std::vector<std::string> stop;
  bool ignore_eos = false;
  bool stream = false, include_usage = false, return_token_ids = false;
  std::string user;      // empty: not said
  uint32_t choices = 1;  // to each prompt
  uint8_t priority = actors::priority_default;
  std::optional<bool> speculation;

  /// A chat is one prompt.
  size_t prompt_count() const { return endpoint == Endpoint::chat ? 1 : prompts.size(); }
  /// The same request again has the same answer.
  bool deterministic() const { return seeded || sampling.temperature == 0; }
  /// Of that answer to each prompt: what would give it alone.
  uint64_t seed_of(uint32_t choice) const { return sampling.seed + choice; }
};

/// Of a chat that parse_request() let through, whose body outlives it: one is copied when it is read.
class ChatMessages final : public model::LateMessages {
 public:
  explicit ChatMessages(const CompletionRequest& request) : list_(request.body->at("messages").get_array()) {}
  size_t size() const override { return list_.size(); }
  const model::Message& read(size_t index) override;

 private:
  const boost::json::array& list_;
  model::Message last_;
};

/// limits: stop_strings_max, prompts_max, choices_max.
std::variant<CompletionRequest, ApiError> parse_request(Endpoint endpoint, std::string_view body,
                                                        const actors::ClusterConfig::Gateway& limits);

/// As a request that has no other prompt spells it.
boost::json::value prompt_value(const PromptInput& prompt);

}  // namespace convoy::gateway
