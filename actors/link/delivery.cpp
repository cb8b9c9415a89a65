#include "actors/link/delivery.hpp"

#include <cassert>

namespace convoy::actors {

Delivery::~Delivery() { assert(woken_.empty()); }

void Delivery::deliver(const FrameType& type, const caf::actor& to, const caf::strong_actor_ptr& sender,
                       schema::FrameBytes bytes) {
  type.deliver(to, sender, std::move(bytes), this);
  while (!woken_.empty()) {
    caf::resumable* actor = woken_.front();
    woken_.pop_front();
    run(actor);
  }
}

void Delivery::run(caf::resumable* actor) {
  switch (actor->resume(this, messages_max)) {
    case caf::resumable::resume_later:
      return system().scheduler().enqueue(actor);  // with its reference
    case caf::resumable::done:
    case caf::resumable::awaiting_message:
    case caf::resumable::shutdown_execution_unit:
      return caf::intrusive_ptr_release(actor);
  }
}

}  // namespace convoy::actors
