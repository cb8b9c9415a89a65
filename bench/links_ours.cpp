// Links (actors/link/link.hpp) between two stages: an ordinary actor asks, one answers.

#include <unistd.h>

#include <future>

#include "actors/link/link.hpp"
#include "bench/links_actor.hpp"
#include "cli/runtime.hpp"

namespace convoy::bench {

namespace {

using namespace convoy::actors;

constexpr uint32_t connect_ms = 10'000;
constexpr uint32_t asking = 0, answering = 1;  // instances

LinkOptions options_of(bool unix_sockets) {
  LinkOptions options;
  options.cluster = "bench";
  options.secret = std::string(32, 's');
  options.unix_sockets = unix_sockets;
  return options;
}

PeerIdentity stage(uint32_t instance) {
  return {.node = "bench",
          .role = schema::Role::STAGE,
          .instance = instance,
          .incarnation = static_cast<uint64_t>(getpid()),
          .pid = getpid()};
}

Ask ask_of(const Frame<msg::StepResult>& frame) {
  const schema::Reading result(frame);
  return Ask{result->getEpoch()};
}
Ask ask_of(const Frame<msg::Activations>& frame) {
  const schema::Reading hidden(frame);
  return Ask{hidden->getPlan().getEpoch()};
}

caf::behavior answer(caf::event_based_actor* self) {
  const auto asker = [self] { return caf::actor_cast<caf::actor>(self->current_sender()); };
  return {[self, asker](const Frame<msg::StepResult>& frame) { self->send(asker(), frame); },
          [self, asker, small = Frame<msg::StepResult>(small_message(Ask::take).bytes)](
              const Frame<msg::Activations>& frame) {
            if (ask_of(frame) == Ask::take)
              self->send(asker(), small);
            else
              self->send(asker(), frame);
          }};
}

template <bool unix_sockets>
void serve(const std::function<void(uint16_t)>& listening) {
  cli::ActorSystemConfig config;
  caf::actor_system system(config);
  const caf::actor answerer = system.spawn(answer);
  Links links(system, options_of(unix_sockets), stage(answering), {});
  links.publish(schema::Role::STAGE, answering, answerer);
  listening(links.listen("127.0.0.1", 0));
  links.close();
  end_and_wait(system, answerer);
}

class LinkCarrier final : public ActorCarrier {
 public:
  LinkCarrier(uint16_t port, bool unix_sockets)
      : system_(config_),
        links_(system_, options_of(unix_sockets), stage(asking),
               {.up = [this](const PeerIdentity& peer) { up_.set_value(peer); },
                .down = [](const PeerIdentity&, const std::string&) {},
                .refused =
                    [this](const std::string&, const std::string& reason) {
                      up_.set_exception(std::make_exception_ptr(std::runtime_error(reason)));
                    }}) {
    start(
        system_,
        [this](const Frame<msg::StepResult>& frame) { answered(ask_of(frame), frame.bytes()->size()); },
        [this](const Frame<msg::Activations>& frame) { answered(ask_of(frame), frame.bytes()->size()); });
    links_.publish(schema::Role::STAGE, asking, asker_);
    links_.connect("127.0.0.1", port, connect_ms);
    answerer_ = links_.remote<caf::actor>(up_.get_future().get(), schema::Role::STAGE, answering);
  }
  ~LinkCarrier() override {
    links_.close();
    end_and_wait(system_, asker_);
  }
  void send(const Message& message) override {
    if (message.lane == schema::Lane::control)
      self_->send(answerer_, Frame<msg::StepResult>(message.bytes));
    else
      self_->send(answerer_, Frame<msg::Activations>(message.bytes));
  }

 private:
  cli::ActorSystemConfig config_;
  caf::actor_system system_;
  std::promise<PeerIdentity> up_;
  Links links_;
  caf::actor answerer_;
};

template <bool unix_sockets>
std::unique_ptr<Carrier> connect(uint16_t port) {
  return std::make_unique<LinkCarrier>(port, unix_sockets);
}

}  // namespace

const Way link_way{"link", &serve<true>, &connect<true>};
const Way link_tcp_way{"link_tcp", &serve<false>, &connect<false>};

}  // namespace convoy::bench
