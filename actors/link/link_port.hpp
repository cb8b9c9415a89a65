#pragma once
// The side of one link that any thread may touch: what waits to be written, credits for bulk frames, and the
// handles on the peer's actors. Handles and received bulk frames keep it alive; after close() it takes
// nothing any more.

#include <caf/all.hpp>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "actors/link/link.hpp"
#include "actors/link/link_stream.hpp"

namespace convoy::actors {

class LinkPort : public std::enable_shared_from_this<LinkPort> {
 public:
  /// What the port asks of the I/O thread. Called under the port's lock and never after close(): write and
  /// end may only post.
  struct Requests {
    std::function<void(schema::Lane)> write;             // there is something to write
    std::function<void(const std::string& reason)> end;  // the link cannot go on
    /// Sends what the connection takes at once and returns how many bytes; null: everything waits for the I/O
    /// thread, which alone encrypts.
    std::function<size_t(schema::Lane, const Outgoing&)> send_now = nullptr;
  };

  LinkPort(caf::actor_system& system, PeerIdentity peer, const LinkLimits& limits, Requests requests);

  const PeerIdentity& peer() const { return peer_; }

  /// The handle on the peer's actor (role, instance). The first one makes the peer watch that actor. Any
  /// thread.
  caf::actor handle(schema::Role role, uint32_t instance);

  /// The handle on the peer itself, whom its mail comes from: handle(peer().role, peer().instance), but
  /// nobody is watched for it alone. I/O thread, while the port is open.
  caf::strong_actor_ptr sender();

  /// Sends a frame: a small one at once from the calling thread if nothing waits before it (the I/O thread
  /// need not wake up on the way of a token), else through the queue. One that is too large, or finds the
  /// queue full, ends the link: nothing is lost silently.
  void put(schema::Lane lane, Outgoing frame);

  /// Bytes of bulk frames that nobody here holds any longer: the peer may send as many again.
  void release(uint64_t bytes);

  /// Ends the link.
  void end(const std::string& reason);

  // The rest is for the I/O thread.

  /// The next frames to write, in order; empty if there are none or if the bulk window is used up. After an
  /// empty answer Requests::write is called as soon as that changes.
  std::vector<Outgoing> take(schema::Lane lane);

  /// The peer released bulk frames. False if it never got as many.
  bool credited(uint64_t bytes);

  /// The peer says that its actor ended, or never was.
  void actor_down(schema::Role role, uint32_t instance, const std::string& reason);

  /// Takes down all handles and drops what waits.
  void close(const std::string& reason);

  bool nothing_waits() const;

 private:
  using Address = std::pair<schema::Role, uint32_t>;
  struct Held {
    caf::actor handle;
    bool watched = false;  // the peer was asked to say when the actor ends
  };
  struct Queue {
    std::deque<Outgoing> frames;
    bool writer_waits = false;
  };

  Queue& queue(schema::Lane lane) { return lane == schema::Lane::control ? control_ : bulk_; }
  static constexpr uint64_t direct_bytes_max = 64
                                               << 10;  // longer copies into the kernel are the I/O thread's
  static constexpr uint64_t credit_parts = 8;

  Held& hold_locked(schema::Role role, uint32_t instance);
  void put_locked(schema::Lane lane, Outgoing frame);
  bool send_directly(schema::Lane lane, Outgoing& frame);
  bool window_takes(uint64_t bytes) const;
  void wake_locked(schema::Lane lane);

  caf::actor_system& system_;
  const PeerIdentity peer_;
  const LinkLimits limits_;
  const Requests requests_;

  mutable std::mutex mutex_;
  bool open_ = true;
  std::string why_closed_;
  Queue control_, bulk_;
  uint64_t waiting_bytes_ = 0;      // in both queues
  uint64_t outstanding_bytes_ = 0;  // bulk, written and not credited
  uint64_t released_bytes_ = 0;     // bulk, received and released here, not yet told to the peer
  std::map<Address, Held> handles_;
};

}  // namespace convoy::actors
