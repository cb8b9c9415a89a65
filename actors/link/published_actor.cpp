#include "actors/link/published_actor.hpp"

namespace convoy::actors {

PublishedActor::PublishedActor(schema::Role role, uint32_t instance, caf::actor actor)
    : role_(role), instance_(instance), actor_(std::move(actor)) {}

std::shared_ptr<PublishedActor> PublishedActor::create(schema::Role role, uint32_t instance,
                                                       caf::actor actor) {
  std::shared_ptr<PublishedActor> published(new PublishedActor(role, instance, std::move(actor)));
  // Weak, because the actor holds the functor and the published one holds the actor.
  published->actor_->attach_functor([weak = std::weak_ptr(published)](const caf::error& reason) {
    if (auto self = weak.lock()) self->ended(reason ? caf::to_string(reason) : std::string());
  });
  return published;
}

void PublishedActor::watch(const std::shared_ptr<LinkPort>& port) {
  std::unique_lock lock(mutex_);
  if (why_ended_) {
    const auto reason = *why_ended_;
    lock.unlock();
    return send_down(*port, role_, instance_, reason);
  }
  std::erase_if(watchers_, [](const auto& watcher) { return watcher.expired(); });
  watchers_.insert(port);
}

void PublishedActor::ended(const std::string& reason) {
  decltype(watchers_) watchers;
  {
    const std::lock_guard lock(mutex_);
    why_ended_ = reason;
    watchers.swap(watchers_);
  }
  for (const auto& watcher : watchers)
    if (auto port = watcher.lock()) send_down(*port, role_, instance_, reason);
}

void send_down(LinkPort& port, schema::Role role, uint32_t instance, const std::string& reason) {
  schema::FrameBuilder<schema::Down> down(16 + reason.size() / 8);
  down->setRole(role);
  down->setInstance(instance);
  down->setReason(reason);
  port.put(schema::Lane::control,
           {.type = schema::FrameTraits<schema::Down>::type_id, .bytes = std::move(down).finish().bytes()});
}

}  // namespace convoy::actors
