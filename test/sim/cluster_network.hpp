#pragma once
// Network: links between simulated processes, in place of sockets. A SimLinks is one process's
// actors::Links: the same calls and events. Ports and handles are production's (LinkPort, RemoteHandle,
// PublishedActor), so that what is put, watched and taken down is as it is there; PeerLink, the handshake and
// the bytes are modelled. What is promised is what real links promise, and no more:
//  - frames of one direction of one lane come in order, or not at all; control and bulk are two connections,
//    so between them there is no order;
//  - a link is up once and down once at each end, not at the same moment; down comes behind all control
//  frames
//    that came before the other end closed, or they are lost with a connection that is reset, or with
//    silence;
//  - silence for lease_ms ends an end; a process that stood still reads first what came meanwhile;
//  - frames of a link that is over are dropped, those of one that is going down may come after another
//    process's;
//  - of two processes that connect to each other one link comes; there is none as long as one end of the
//    last is up.
// Not modelled: credits and limits of queues, which are never reached here, and the handshake's contents.

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "actors/link/link.hpp"
#include "actors/link/link_port.hpp"
#include "actors/link/published_actor.hpp"
#include "test/sim/cluster_process.hpp"

namespace sim {

class SimLinks;
class SimLink;

struct NetworkOptions {
  convoy::actors::LinkLimits limits;
  double latency_us = 100;  // on average
};

class Network {
 public:
  /// What a test looks at, or spoils: a frame that arrives. Says how often it is delivered: once.
  using Inspect =
      std::function<unsigned(const Process& from, const Process& to, convoy::actors::Outgoing& frame)>;

  Network(Timeline& timeline, Random& random, NetworkOptions options);

  /// Frames from one to the other come no earlier, those on the way included.
  void hold(const Process& from, const Process& to, Timeline::Time until);
  /// The same between these nodes and all others, in both directions, of processes to come too.
  void part(std::set<std::string> nodes, Timeline::Time until);
  /// Until when nothing goes from one node to the other; a time that is over: it goes.
  Timeline::Time parted_until(const std::string& from, const std::string& to) const;
  /// Whether they have a link that is up at a's end.
  bool linked(const Process& a, const Process& b) const { return link_between(a, b) != nullptr; }
  /// Resets its connections.
  void cut(const Process& a, const Process& b);

  uint64_t reordered() const { return reordered_; }
  uint64_t stale() const { return stale_; }

  Inspect inspect;

 private:
  friend SimLinks;
  friend SimLink;
  std::shared_ptr<SimLink> link_between(const Process& a, const Process& b) const;
  Timeline::Duration latency();
  Timeline::Time held_until(const Process& from, const Process& to) const;

  Timeline& timeline_;
  Random& random_;
  const NetworkOptions options_;
  std::vector<SimLinks*> hosts_;
  std::map<std::pair<uint64_t, uint64_t>, Timeline::Time> held_;  // by incarnations
  struct Parted {
    std::set<std::string> nodes;
    Timeline::Time until;
  };
  std::vector<Parted> parted_;
  uint64_t reordered_ = 0;  // frames that others overtook which left other processes later
  uint64_t stale_ = 0;      // frames that came while a later process had taken their sender's place
};

class SimLinks {
 public:
  using Events = convoy::actors::Links::Events;
  SimLinks(Network& network, Process& process, Events events);
  SimLinks(const SimLinks&) = delete;
  SimLinks& operator=(const SimLinks&) = delete;

  void listen() { listening_ = true; }
  void connect(const std::string& host, uint16_t port, uint32_t give_up_ms);
  void publish(convoy::schema::Role role, uint32_t instance, caf::actor actor);
  template <class Handle>
  Handle remote(const convoy::actors::PeerIdentity& peer, convoy::schema::Role role, uint32_t instance) {
    return caf::actor_cast<Handle>(remote_handle(peer, role, instance));
  }
  void drop(const convoy::actors::PeerIdentity& peer, const std::string& reason);

  /// Its process ends: what it wrote still arrives. It stays as long as its network.
  void die();

 private:
  friend Network;
  friend SimLink;
  using Address = std::pair<convoy::schema::Role, uint32_t>;
  caf::actor remote_handle(const convoy::actors::PeerIdentity& peer, convoy::schema::Role role,
                           uint32_t instance);
  void attempt(const std::string& address, uint16_t port, Timeline::Time give_up, Timeline::Duration pause);
  std::optional<std::string> open(uint16_t port);
  std::shared_ptr<SimLink> link_to(const convoy::actors::PeerIdentity& peer) const;

  Network& network_;
  Process& process_;
  const Events events_;
  bool listening_ = false;
  std::map<Address, std::shared_ptr<convoy::actors::PublishedActor>> published_;
  std::vector<std::shared_ptr<SimLink>> links_;  // whose end here is up
  Timeline::Time newest_sent_{};                 // of the frames that came
};

}  // namespace sim
