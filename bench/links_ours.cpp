// Links (actors/link/link.hpp) between two stages: an ordinary actor asks, one answers.

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <future>

#include "actors/link/link.hpp"
#include "actors/link/link_tls.hpp"
#include "actors/process/private_files.hpp"
#include "bench/links_actor.hpp"
#include "cli/runtime.hpp"

namespace convoy::bench {

namespace {

using namespace convoy::actors;

constexpr uint32_t connect_ms = 10'000;
constexpr uint32_t asking = 0, answering = 1;  // instances

enum class Over { unix_sockets, tcp, tls };

/// Of both processes, as bench/run says; the answering one makes what is in it.
std::filesystem::path tls_folder() {
  const char* const folder = std::getenv("CONVOY_BENCH_TLS");
  if (!folder) throw std::runtime_error("CONVOY_BENCH_TLS names no folder for certificates");
  return folder;
}

void make_certificate() {
  const Identity authority = make_authority();
  replace_private(tls_folder() / authority_file, authority.certificate);
  write_identity(tls_folder(), "bench", issue(authority, "bench", "bench"));
}

LinkOptions options_of(Over over) {
  LinkOptions options;
  options.cluster = "bench";
  options.secret = std::string(32, 's');
  options.unix_sockets = over == Over::unix_sockets;
  options.dev = over != Over::tls;
  if (!options.dev) {
    options.tls = std::make_shared<LinkTls>(tls_folder(), options.cluster, "bench");
    options.places = {"bench", [](const std::string&, uint32_t) { return true; }};
  }
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

template <Over over>
void serve(const std::function<void(uint16_t)>& listening) {
  cli::ActorSystemConfig config;
  caf::actor_system system(config);
  const caf::actor answerer = system.spawn(answer);
  if (over == Over::tls) make_certificate();
  Links links(system, options_of(over), stage(answering), {});
  links.publish(schema::Role::STAGE, answering, answerer);
  listening(links.listen("127.0.0.1", 0));
  links.close();
  end_and_wait(system, answerer);
}

class LinkCarrier final : public ActorCarrier {
 public:
  LinkCarrier(uint16_t port, Over over)
      : system_(config_),
        links_(system_, options_of(over), stage(asking),
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

template <Over over>
std::unique_ptr<Carrier> connect(uint16_t port) {
  return std::make_unique<LinkCarrier>(port, over);
}

}  // namespace

const Way link_way{"link", &serve<Over::unix_sockets>, &connect<Over::unix_sockets>};
const Way link_tcp_way{"link_tcp", &serve<Over::tcp>, &connect<Over::tcp>};
const Way link_tls_way{"link_tls", &serve<Over::tls>, &connect<Over::tls>};

}  // namespace convoy::bench
