#pragma once
// ActorCarrier: an exchange run by an ordinary actor of the measuring process. Links and BASP differ in the
// handle that they give it and in the messages that they take.

#include <caf/all.hpp>
#include <stdexcept>

#include "bench/links.hpp"

namespace convoy::bench {

/// To the actor, from whoever waits for the exchange's end.
struct Begin {
  Exchange* exchange = nullptr;
};

}  // namespace convoy::bench

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::bench::Begin)

namespace convoy::bench {

class ActorCarrier : public Carrier {
 public:
  void run(Exchange& exchange) override {
    caf::scoped_actor waiting(asker_.home_system());
    waiting->send(asker_, Begin{&exchange});
    waiting->receive([](caf::ok_atom) {},
                     caf::after(exchange_timeout) >> [] { throw std::runtime_error("no answer came"); });
  }
  void wake_after(std::chrono::microseconds pause) override {
    self_->delayed_send(self_, pause, caf::tick_atom_v);
  }

 protected:
  /// The actor: what every one hears, and what comes back from the other process.
  template <class... Answers>
  void start(caf::actor_system& system, Answers... answers) {
    asker_ = system.spawn([this, answers...](caf::event_based_actor* self) -> caf::behavior {
      self_ = self;
      return {[this](Begin begin) {
                waits_ = caf::actor_cast<caf::actor>(self_->current_sender());
                exchange_ = begin.exchange;
                exchange_->begin(*this);
              },
              [this](caf::tick_atom) {
                exchange_->woken(*this);
                tell_if_ended();
              },
              answers...};
    });
  }
  void answered(Ask ask, size_t bytes) {
    exchange_->answered(*this, ask, bytes);
    tell_if_ended();
  }

  caf::event_based_actor* self_ = nullptr;
  caf::actor asker_;

 private:
  void tell_if_ended() {
    if (exchange_->has_ended()) self_->send(waits_, caf::ok_atom_v);
  }

  Exchange* exchange_ = nullptr;
  caf::actor waits_;
};

}  // namespace convoy::bench
