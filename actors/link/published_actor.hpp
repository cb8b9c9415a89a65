#pragma once
// PublishedActor: a local actor that peers may write to and watch. Made by Links::publish(); links add
// themselves as watchers from the I/O thread, the actor's end is reported from whichever thread ends it.

#include <caf/all.hpp>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>

#include "actors/link/link_port.hpp"

namespace convoy::actors {

class PublishedActor : public std::enable_shared_from_this<PublishedActor> {
 public:
  static std::shared_ptr<PublishedActor> create(schema::Role role, uint32_t instance, caf::actor actor);

  const caf::actor& actor() const { return actor_; }

  /// Sends Down through that port when the actor ends, or now if it has ended.
  void watch(const std::shared_ptr<LinkPort>& port);

 private:
  PublishedActor(schema::Role role, uint32_t instance, caf::actor actor);
  void ended(const std::string& reason);

  const schema::Role role_;
  const uint32_t instance_;
  const caf::actor actor_;
  std::mutex mutex_;
  std::optional<std::string> why_ended_;
  std::set<std::weak_ptr<LinkPort>, std::owner_less<>> watchers_;
};

/// Tells the peer that (role, instance) ended, or never was. An empty reason is a normal end.
void send_down(LinkPort& port, schema::Role role, uint32_t instance, const std::string& reason);

}  // namespace convoy::actors
