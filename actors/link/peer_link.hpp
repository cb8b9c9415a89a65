#pragma once
// PeerLink: one link that is up, on the I/O thread: reads and writes both connections, keeps the lease,
// watches local actors for the peer. Made by Links after the handshake; ends itself once and tells its owner
// why.

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <set>
#include <string>

#include "actors/link/link_connection.hpp"
#include "actors/link/link_metrics.hpp"
#include "actors/link/link_port.hpp"
#include "actors/link/published_actor.hpp"
#include "actors/link/remote_handle.hpp"

namespace convoy::actors {

class PeerLink : public std::enable_shared_from_this<PeerLink> {
 public:
  struct Owner {
    virtual ~Owner() = default;
    /// Null if there is none.
    virtual std::shared_ptr<PublishedActor> published(schema::Role role, uint32_t instance) = 0;
    /// Mails the frame to a local actor, which sees the peer's own handle as its sender.
    virtual void deliver(const FrameType& type, const caf::actor& to, const caf::strong_actor_ptr& sender,
                         schema::FrameBytes bytes) = 0;
    virtual LinkMetrics& metrics() = 0;
    /// Another machine's list of certificates that count no more.
    virtual void revocations(const std::string& list) = 0;
    /// The node at the other end asks for another certificate.
    virtual void renew(PeerLink& link, const std::string& request) = 0;
    /// The head sent one.
    virtual void renewed(PeerLink& link, const std::string& certificate) = 0;
    /// Once; all handles are down already.
    virtual void ended(PeerLink& link, const std::string& reason) = 0;
  };

  static std::shared_ptr<PeerLink> create(Owner& owner, asio::io_context& io, caf::actor_system& system,
                                          const LinkLimits& limits, PeerIdentity peer, bool of_heads_node,
                                          LinkConnection control, LinkConnection bulk);
  void start();
  void end(const std::string& reason);
  const std::shared_ptr<LinkPort>& port() const { return port_; }
  const PeerIdentity& peer() const { return port_->peer(); }
  /// Of its certificate; empty if there is none.
  const std::string& peer_serial() const { return peer_serial_; }
  void say_revocations(const std::string& list);

 private:
  using Clock = std::chrono::steady_clock;
  struct LaneIo {
    LinkConnection connection;
    asio::steady_timer wake;  // cancelled when there may be something to write
  };

  PeerLink(Owner& owner, asio::io_context& io, const LinkLimits& limits, bool of_heads_node,
           LinkConnection control, LinkConnection bulk);
  LaneIo& io(schema::Lane lane) { return lane == schema::Lane::control ? control_ : bulk_; }
  template <class Coroutine>
  void run(Coroutine coroutine);
  asio::awaitable<void> read(schema::Lane lane);
  asio::awaitable<void> write(schema::Lane lane);
  asio::awaitable<void> send_leases();
  asio::awaitable<void> watch_lease();
  asio::awaitable<void> hear_last_words();
  void receive(schema::Lane lane, Incoming in);
  void receive_link_frame(const wire::Header& header, schema::FrameBytes bytes);
  schema::FrameBytes own(schema::Lane lane, std::unique_ptr<schema::FrameBuffer> buffer);

  Owner& owner_;
  const LinkLimits limits_;
  asio::io_context& io_;
  LaneIo control_, bulk_;
  asio::steady_timer lease_out_, lease_in_;
  const std::string peer_serial_;
  const bool of_heads_node_;  // may_send()
  std::shared_ptr<LinkPort> port_;
  Clock::time_point renew_after_{};
  Clock::time_point last_heard_ = Clock::now();  // on the control connection
  // Control frames that an actor here still holds; shared with them, because they may outlive the link.
  const std::shared_ptr<std::atomic<uint64_t>> inbox_bytes_ = std::make_shared<std::atomic<uint64_t>>(0);
  bool over_ = false;
  caf::strong_actor_ptr sender_;      // of all mail from the peer: port_->sender()
  std::set<uint16_t> unknown_types_;  // logged once each
};

/// "stage 1 on node-a (pid 7)", for logs and reasons.
std::string describe(const PeerIdentity& peer);

}  // namespace convoy::actors
