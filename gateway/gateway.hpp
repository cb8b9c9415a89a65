#pragma once
// The edge: an HTTP/1.1 server that speaks OpenAI's API. Sessions are coroutines on the gateway's I/O
// threads; the gateway actor hands them the cluster's answers. Text exists only here: inside there are token
// ids.

#include <cstdint>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "actors/config/cluster_config.hpp"
#include "actors/messages.hpp"
#include "model/chat/chat_template.hpp"
#include "model/tokenizer/tokenizer.hpp"

namespace prometheus {
class Registry;
}

namespace convoy::gateway {

/// [gateway] of cluster.conf, and what the gateway knows of the rest.
struct GatewayOptions : actors::ClusterConfig::Gateway {
  std::string node;
  uint32_t readiness_period_ms =
      actors::ClusterConfig::Pipeline().readiness_period_ms;  // ready is believed that long
  uint64_t cache_epoch = actors::ClusterConfig::Cache().epoch;
  bool speculation = false;  // of requests that don't say
  uint32_t drafts_max = actors::ClusterConfig::Pipeline().drafts_max;
};

/// A text that is known later than those who use it begin: empty until then. Copies share it; any thread.
class Later {
 public:
  Later(const char* text) : Later(std::string(text)) {}
  Later(std::string text = {}) : shared_(std::make_shared<Shared>()) { set(std::move(text)); }
  void set(std::string text) {
    const std::lock_guard lock(shared_->mutex);
    shared_->text = std::move(text);
  }
  std::string get() const {
    const std::lock_guard lock(shared_->mutex);
    return shared_->text;
  }

 private:
  struct Shared {
    std::mutex mutex;
    std::string text;
  };
  std::shared_ptr<Shared> shared_;
};

/// The one model that this cluster serves.
struct ServedModel {
  std::string id;
  int64_t created = 0;  // Unix seconds
  int64_t context_tokens = 0, vocab = 0;
  std::shared_ptr<const model::Tokenizer> tokenizer;  // nullptr: only token ids are served
  std::optional<model::ChatTemplate> chat;            // nullopt: no chat completions
  std::vector<int32_t> end_tokens;
  Later weights_digest;        // no answer is kept before it is known
  std::string kernel_variant;  // names what in the configuration shapes its bits
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
  /// Once it serves: takes no more connections, and of those that are open no more requests. Ready when the
  /// last answer under way has ended and its connection is closed.
  std::future<void> drain();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace convoy::gateway
