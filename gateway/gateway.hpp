#pragma once
// The edge: an HTTP/1.1 server that speaks OpenAI's API. Sessions are coroutines on the gateway's I/O
// threads; the gateway actor hands them the cluster's answers. Text exists only here: inside there are token
// ids.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "actors/messages.hpp"
#include "model/chat_template.hpp"
#include "model/tokenizer.hpp"

namespace prometheus {
class Registry;
}

namespace convoy::gateway {

struct GatewayOptions {
  std::string node;
  std::string host = "127.0.0.1";
  uint16_t port = 8080;
  int threads = 1;
  uint64_t header_bytes_max = 16 << 10;
  uint64_t body_bytes_max = 4 << 20;
  uint32_t header_timeout_ms = 10'000;  // from the connection, or the last answer, to a whole header
  uint32_t body_timeout_ms = 30'000;
  uint32_t request_timeout_ms = 600'000;  // a whole answer: the request's deadline
  uint32_t write_timeout_ms = 30'000;     // a client that does not read
  uint32_t connections_max = 1024;
  uint32_t max_tokens_default = 512;  // when the client names no limit (never beyond the context)
  uint32_t stop_strings_max = 16;
  uint32_t readiness_period_ms = 1000;  // ready is only believed that long
  bool control_tokens_in_prompts = false;
  uint64_t cache_epoch = 0;  // raised by the operator to forget all cached answers
};

/// The one model that this cluster serves.
struct ServedModel {
  std::string id;
  int64_t created = 0;  // Unix seconds
  int64_t context_tokens = 0, vocab = 0;
  std::shared_ptr<const model::Tokenizer> tokenizer;  // nullptr: only token ids are served
  const model::ChatTemplate* chat = nullptr;          // nullptr: no chat completions
  std::vector<int32_t> end_tokens;
  std::string weights_digest;
  std::string kernel_variant;  // names what shapes its bits; both only count for the answer cache
};

class Gateway {
 public:
  Gateway(caf::actor_system& system, GatewayOptions options, ServedModel model,
          std::shared_ptr<prometheus::Registry> metrics);
  ~Gateway();  // stops accepting, ends streams with an error event, joins its threads
  Gateway(const Gateway&) = delete;
  Gateway& operator=(const Gateway&) = delete;

  /// Where the cluster's answers are mailed.
  actors::GatewayActor actor() const;
  /// Starts serving. Throws InputError if the address is taken. cache_secret keys the answer cache's HMAC;
  /// requests get no cache key if it is empty.
  void serve(actors::CacheActor cache, actors::RouterActor router, std::string cache_secret);
  uint16_t port() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace convoy::gateway
