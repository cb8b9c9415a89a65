#pragma once
// Links: how this process talks to others. Each link is two connections to one peer process: control (small
// frames, leases, tokens, plans) and bulk (hidden states); Unix-domain ones if the peer is on this machine,
// else TCP, encrypted unless under dev. One I/O thread owns all sockets; any thread may call the functions
// here. A remote handle is an ordinary CAF handle (actor_proxy) whose mail becomes frames: send, monitor and
// down mean the same near and far. When a link's lease ends its handles go down and are silent from then on.

#include <prometheus/registry.h>
#include <pthread.h>

#include <caf/all.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "actors/config/cluster_config.hpp"
#include "actors/link/link_roles.hpp"
#include "actors/messages.hpp"

namespace convoy::actors {

class LinkTls;
struct Outgoing;

/// [link] of cluster.conf, and what else limits a link.
struct LinkLimits : ClusterConfig::Link {
  // Silence of that length ends the link.
  uint32_t lease_ms = ClusterConfig::Pipeline().failure_detection_ms;
};

struct LinkOptions {
  std::string cluster;
  std::string secret;  // load_or_create_secret's: who does not know it is told nothing, and gets no link
  bool dev = true;  // plaintext; only loopback addresses are then accepted, for listening and for connecting
  std::shared_ptr<LinkTls> tls;  // without dev: of all TCP connections, where it takes the secret's place
  Places places;                 // without dev: what the certificate of a node is good for
  bool unix_sockets = true;      // beside TCP; without, or to a peer without, TCP is all there is
  /// The head's, without dev: what is said to a machine without a certificate, which said that (Enrolment).
  /// Called on a thread of its own. Null: such a machine is told nothing.
  std::function<std::vector<Outgoing>(const std::string& connection_key, const schema::FrameBytes& said,
                                      const schema::FrameBytes& proof)>
      enrol;
  /// The head's, as well: another certificate for that node, as PEM, or nothing. On the same thread.
  std::function<std::string(const std::string& node, const std::string& request)> renew;
  LinkLimits limits;
  std::shared_ptr<prometheus::Registry> metrics;  // of the process, if it has any
};

class Links {
 public:
  /// What happens to links. Called on the I/O thread, in order: up once, down once. Must not block.
  struct Events {
    std::function<void(const PeerIdentity&)> up;
    std::function<void(const PeerIdentity&, const std::string& reason)> down;
    std::function<void(const std::string& address, const std::string& reason)>
        refused;  // a connect() gave up
  };

  Links(caf::actor_system& system, LinkOptions options, PeerIdentity self, Events events);
  ~Links();  // close()
  Links(const Links&) = delete;
  Links& operator=(const Links&) = delete;

  /// Ends all links, whose handles go down, and the I/O thread: nothing is an event any more afterwards, and
  /// no connection is made. Events that use this object through an owner's pointer need it to be called
  /// before that pointer is reset. Not from an event.
  void close();

  /// Accepts links, over a Unix-domain socket named after the address too; port 0 takes a free one. Returns
  /// the port, which later Hellos carry.
  /// Throws InputError if the address is not loopback under dev, or is taken.
  uint16_t listen(const std::string& host, uint16_t port);

  /// Connects in the background, over the Unix-domain socket if one is there, and keeps trying for give_up_ms
  /// (then Events::refused). Whether they connect to us meanwhile or we to them: one link comes of it.
  void connect(const std::string& host, uint16_t port, uint32_t give_up_ms);

  /// Frames addressed to (role, instance) of this process go to that actor. Mail before publish() is dropped
  /// and logged.
  void publish(schema::Role role, uint32_t instance, caf::actor actor);

  /// A handle on the actor (role, instance) of a linked peer. Down at once if no such link is up.
  template <class Handle>
  Handle remote(const PeerIdentity& peer, schema::Role role, uint32_t instance) {
    return caf::actor_cast<Handle>(remote_handle(peer, role, instance));
  }

  /// What a head's stages of that pipeline must compute with: nothing yet if the digest is empty, then they
  /// are told to try again. From the first call on stages of other pipelines are refused.
  void set_model(const std::string& pipeline, const std::string& digest);

  /// Ends the link to that peer (same incarnation only), as if its lease had ended.
  void drop(const PeerIdentity& peer, const std::string& reason);

  const PeerIdentity& self() const;
  pthread_t io_thread() const;  // runs as long as the links are not closed

 private:
  caf::actor remote_handle(const PeerIdentity& peer, schema::Role role, uint32_t instance);
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace convoy::actors
