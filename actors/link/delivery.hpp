#pragma once
// Delivery: runs the actors that received mail wakes, on the thread that received it.

#include <caf/all.hpp>
#include <deque>

#include "actors/link/remote_handle.hpp"

namespace convoy::actors {

/// The execution unit of a link's I/O thread. A cooperatively scheduled actor that mail finds idle runs here
/// at once: handing it to the scheduler would wake another thread, and a wake-up costs tens of microseconds
/// on the way of every token. Detached actors (stages) keep their own threads. What an actor does here delays
/// the link, so one that has more than `messages_max` messages goes on in the scheduler.
class Delivery final : public caf::execution_unit {
 public:
  explicit Delivery(caf::actor_system& system) : caf::execution_unit(&system) {}
  ~Delivery() override;

  /// Mails the frame, then runs who woke by it. Throws nothing: actors handle their own exceptions.
  void deliver(const FrameType& type, const caf::actor& to, const caf::strong_actor_ptr& sender,
               schema::FrameBytes bytes);

  void exec_later(caf::resumable* actor) override { woken_.push_back(actor); }

 private:
  static constexpr size_t messages_max = 16;
  void run(caf::resumable* actor);

  std::deque<caf::resumable*> woken_;  // each holds a reference
};

}  // namespace convoy::actors
