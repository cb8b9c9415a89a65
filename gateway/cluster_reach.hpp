#pragma once
// ClusterReach: the cache and the router that a gateway's requests go to. Set once in the head's own process;
// in a process of its own, whenever a head is linked, and none between. Any thread.

#include <mutex>
#include <string>

#include "actors/messages.hpp"

namespace convoy::gateway {

class ClusterReach {
 public:
  void set(actors::CacheActor cache, actors::RouterActor router) {
    const std::lock_guard lock(mutex_);
    cache_ = std::move(cache);
    router_ = std::move(router);
  }
  void clear() { set({}, {}); }

  /// Whether there is somebody to ask.
  bool ask(actors::Frame<schema::Generate> generate) const {
    const auto cache = held(cache_);
    if (cache) actors::mail(cache, std::move(generate));
    return static_cast<bool>(cache);
  }
  void keep(actors::Frame<schema::Store> answer) const {
    if (const auto cache = held(cache_)) actors::mail(cache, std::move(answer));
  }
  /// Tells that pipeline, through the router, that nobody waits for this request of that node any more; all
  /// of them if it is not known who accepted it.
  void cancel(const std::string& node, uint64_t request, const std::string& pipeline) const {
    const auto router = held(router_);
    if (!router) return;
    schema::FrameBuilder<schema::Cancel> cancel;
    cancel->setPipeline(pipeline);
    cancel->initReplyTo().setNode(node);
    cancel->getReplyTo().setRequest(request);
    actors::mail(router, std::move(cancel).finish());
  }

 private:
  template <class Handle>
  Handle held(const Handle& handle) const {
    const std::lock_guard lock(mutex_);
    return handle;
  }

  mutable std::mutex mutex_;
  actors::CacheActor cache_;
  actors::RouterActor router_;
};

}  // namespace convoy::gateway
