#pragma once
// Both sides of a link in one process: what the tests of handshakes, limits and flow use.

#include <boost/test/unit_test.hpp>

#include "link_rig.hpp"

namespace rig {

/// One process's side: links, an echo published as stage 1, and what happened.
struct Side {
  explicit Side(caf::actor_system& system, LinkOptions options = options_of(), std::string node = "here",
                uint64_t incarnation = 1)
      : echo_actor(system.spawn(echo, [this] { return ReplyActor{replies}; })),
        replies(system.spawn(recorder, record)),
        links(system, counted(std::move(options), metrics), identity(node, Role::NODE, 0, incarnation),
              {.up = [this](const PeerIdentity& peer) { up.set(peer); },
               .down = [this](const PeerIdentity&, const std::string& reason) { down.set(reason); },
               .refused = [this](const std::string&, const std::string& reason) { refused.set(reason); }}) {
    links.publish(Role::STAGE, 1, caf::actor_cast<caf::actor>(echo_actor));
    links.publish(Role::PIPELINE, 0, caf::actor_cast<caf::actor>(replies));
  }
  ~Side() {
    // Before the handle that the echo may be answering to.
    end_and_wait(echo_actor->home_system(), echo_actor, replies);
  }

  static LinkOptions counted(LinkOptions options, const std::shared_ptr<prometheus::Registry>& metrics) {
    options.metrics = metrics;
    return options;
  }
  /// Frames of peers that were dropped for that reason.
  double dropped(const std::string& reason) const {
    for (const auto& family : metrics->Collect())
      if (family.name == "convoy_link_frames_dropped_total")
        for (const auto& metric : family.metric)
          if (metric.label.at(0).value == reason) return metric.counter.value;
    return -1;
  }

  Slot<PeerIdentity> up;
  Slot<std::string> down, refused;
  std::shared_ptr<prometheus::Registry> metrics = std::make_shared<prometheus::Registry>();
  std::shared_ptr<Record> record = std::make_shared<Record>();
  EchoActor echo_actor;
  ReplyActor replies;
  Links links;
};

struct Fixture {
  caf::actor_system_config config;
  caf::actor_system system{config};
};

/// A port that a process used which is gone.
inline uint16_t free_port(caf::actor_system& system) {
  return Side(system, options_of(), "gone", 999).links.listen("127.0.0.1", 0);
}

inline bool contains(const std::optional<std::string>& text, const std::string& part) {
  BOOST_TEST_INFO("text: " << text.value_or("(nothing)"));
  return text && text->find(part) != std::string::npos;
}

inline LinkOptions patient() {
  LinkOptions options = options_of();
  options.limits.lease_ms = 2 * patience_ms;  // raw peers send no leases
  return options;
}

/// A link still works: somebody decent connects and gets an answer.
inline void check_alive(caf::actor_system& system, uint16_t port) {
  Side decent(system, options_of(), "decent", 1000 + port);
  decent.links.connect("127.0.0.1", port, patience_ms);
  const auto peer = decent.up.wait();
  BOOST_REQUIRE(peer);
  const auto stage = decent.links.remote<EchoActor>(*peer, Role::STAGE, 1);
  caf::scoped_actor self(system);
  self->monitor(stage);
  mail(stage, die());
  bool down = false;
  self->receive([&](const caf::down_msg&) { down = true; }, caf::after(patience) >> [] {});
  BOOST_CHECK(down);
}

}  // namespace rig
