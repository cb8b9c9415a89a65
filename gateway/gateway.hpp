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
#include "gateway/api_keys.hpp"
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
  uint64_t frame_bytes_max = ~uint64_t{0};  // that the cluster takes, of one request
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

/// A model that this cluster serves.
struct ServedModel {
  std::string id;
  std::vector<std::string> aliases = {};
  int64_t created = 0;  // Unix seconds
  int64_t context_tokens = 0, vocab = 0;
  std::shared_ptr<const model::Tokenizer> tokenizer;  // nullptr: only token ids are served
  std::optional<model::ChatTemplate> chat;            // nullopt: no chat completions
  std::vector<int32_t> end_tokens;
  Later weights_digest;        // no answer is kept before it is known
  std::string kernel_variant;  // names what in the configuration shapes its bits
};

/// All of them, the default first. Immutable, and not empty.
class ServedModels {
 public:
  ServedModels(ServedModel only) : ServedModels(std::vector<ServedModel>{std::move(only)}) {}
  explicit ServedModels(std::vector<ServedModel> list);

  /// By id or alias; the first as "default" too, if none is called so. Null: there is none.
  const ServedModel* find(std::string_view name) const;
  const std::vector<ServedModel>& list() const { return *list_; }
  std::vector<std::string> ids() const;

 private:
  std::shared_ptr<const std::vector<ServedModel>> list_;  // sessions refer to its elements
};

struct Line;
class HeardKeys;

class Gateway {
 public:
  /// In the head's process. Throws InputError if files of keys or certificates are named, and are no good.
  Gateway(caf::actor_system& system, GatewayOptions options, const ServedModels& models,
          std::shared_ptr<prometheus::Registry> metrics);
  /// In a process of its own: through that line. keys: as the head says; null: nobody is asked for one.
  /// Throws InputError as well.
  Gateway(caf::actor_system& system, GatewayOptions options, const ServedModels& models,
          std::shared_ptr<prometheus::Registry> metrics, Line line, std::shared_ptr<HeardKeys> keys);
  ~Gateway();  // stops accepting, ends streams with an error event, joins its threads
  Gateway(const Gateway&) = delete;
  Gateway& operator=(const Gateway&) = delete;

  /// Where the cluster's answers are mailed.
  actors::GatewayActor actor() const;
  /// Starts serving. Throws InputError if the address is taken. answer_key: answer_key_of()'s; requests get
  /// no cache key if it is empty.
  void serve(actors::CacheActor cache, actors::RouterActor router, std::string answer_key);
  /// The same in a process of its own, whose line says where requests go.
  void serve(std::string answer_key);
  uint16_t port() const;
  uint32_t connections() const;       // open now
  std::string why_not_ready() const;  // empty: it is
  /// That count now, of our own file; null: nobody is asked for one, or the head says.
  std::shared_ptr<const std::vector<ApiKey>> keys() const;
  /// Takes changes of the files of keys and certificates. Once a second or so, one thread at a time.
  void look();
  /// Once it serves: takes no more connections, and of those that are open no more requests. Ready when the
  /// last answer under way has ended and its connection is closed.
  std::future<void> drain();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace convoy::gateway
