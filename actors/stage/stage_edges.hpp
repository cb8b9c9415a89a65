#pragma once
// StageEdges: agrees with a stage's neighbours on edges, by which hidden states go straight from one GPU to
// another of the machine (docs/decisions/0018). In each epoch the stage that sends offers one, and the next
// one answers whether its end came up. The sender is not ready before it knows, so all steps of an epoch take
// the same way. The stage actor owns it, and hands in what it hears and the time. No actor itself.

#include <chrono>
#include <functional>
#include <string>

#include "actors/messages.hpp"
#include "gpu/engine.hpp"

namespace convoy::actors {

/// Whether there may be an edge between the devices of two stages: both have edges and hand over the same, on
/// different cards of one machine.
bool edge_possible(const PeerIdentity& a, const PeerIdentity& b);

class StageEdges {
 public:
  using Clock = std::chrono::steady_clock;
  /// How the neighbours are told.
  struct Neighbours {
    std::function<void(const Frame<msg::EdgeOffer>&)> next;
    std::function<void(const StageActor& by, const Frame<msg::EdgeReply>&)> before;
  };

  /// own: what this stage's Hello says.
  StageEdges(PeerIdentity own, uint32_t timeout_ms, Neighbours neighbours);

  /// The engine is in a new epoch and has no edges; without one, neither has this. It lives until the next
  /// call.
  void begin(gpu::Engine* engine, uint64_t epoch);
  /// The next stage is linked: offers an edge, if there may be one and it was not offered in this epoch.
  void offer(const PeerIdentity& next, Clock::time_point now);
  /// By the stage before, maybe in an epoch that has not begun here.
  void offered(const Frame<msg::EdgeOffer>& offer, StageActor by);
  /// By the next stage.
  void answered(const Frame<msg::EdgeReply>& reply);
  /// Looks how far edges are: again and again while some are forming().
  void look(Clock::time_point now);

  bool forming() const;
  /// Whether it is known which way hidden states take to the next stage, and whether that is by an edge.
  bool settled() const { return to_next_ != gpu::EdgeState::forming; }
  bool to_next_is_up() const { return to_next_ == gpu::EdgeState::up; }
  /// Why it is not, if there might be one.
  const std::string& reason() const { return reason_; }

 private:
  void join();
  void look_before();
  void look_next(Clock::time_point now);
  void reply(bool up, const std::string& reason);
  void give_up(const std::string& reason);

  const PeerIdentity own_;
  const std::chrono::milliseconds timeout_;
  const Neighbours neighbours_;
  gpu::Engine* engine_ = nullptr;
  uint64_t epoch_ = 0;
  gpu::EdgeState to_next_ = gpu::EdgeState::none, from_before_ = gpu::EdgeState::none;
  bool other_end_is_up_ = false;  // the next stage's
  Clock::time_point deadline_{};
  std::string reason_;
  // The latest offer, until its epoch begins, and who made it.
  Frame<msg::EdgeOffer> offer_;
  StageActor offered_by_;
};

}  // namespace convoy::actors
