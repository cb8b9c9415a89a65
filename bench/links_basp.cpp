// CAF's own network layer: the same two actors, whose frames it serialises onto its one connection.

#include <caf/io/all.hpp>

#include "bench/links_actor.hpp"
#include "cli/runtime.hpp"

namespace convoy::bench {

namespace {

/// A frame as BASP takes it.
struct Parcel {
  Ask ask = Ask::echo;
  schema::FrameBytes bytes;
};

caf::error inspect(caf::serializer& to, const Parcel& parcel) {
  auto ask = static_cast<uint64_t>(parcel.ask);
  uint64_t size = parcel.bytes->size();
  if (auto error = to(ask, size)) return error;
  return to.apply_raw(size, const_cast<std::byte*>(parcel.bytes->data()));
}

caf::error inspect(caf::deserializer& from, Parcel& parcel) {
  uint64_t ask = 0, size = 0;
  if (auto error = from(ask, size)) return error;
  auto bytes = std::make_shared<schema::FrameBuffer>(size);
  if (auto error = from.apply_raw(size, bytes->data())) return error;
  parcel = {Ask{ask}, std::move(bytes)};
  return caf::none;
}

std::string to_string(const Parcel& parcel) { return std::to_string(parcel.bytes->size()) + " bytes"; }

/// As CAF comes.
struct PlainConfig : caf::actor_system_config {
  PlainConfig() {
    load<caf::io::middleman>();
    add_message_type<Parcel>("parcel");
  }
};

/// As fast as we got it: our scheduler, and no hand-over to threads that deserialise.
struct TunedConfig : cli::ActorSystemConfig {
  TunedConfig() {
    load<caf::io::middleman>();
    add_message_type<Parcel>("parcel");
    set("middleman.workers", size_t{0});
  }
};

template <class T>
T value_of(caf::actor_system& system, caf::expected<T> result) {
  if (!result) throw std::runtime_error(system.render(result.error()));
  return std::move(*result);
}

caf::behavior answer(caf::event_based_actor*) {
  return {[small = small_message(Ask::take).bytes](const Parcel& parcel) {
    return parcel.ask == Ask::take ? Parcel{Ask::take, small} : parcel;
  }};
}

template <class Config>
void serve(const std::function<void(uint16_t)>& listening) {
  Config config;
  caf::actor_system system(config);
  const caf::actor answerer = system.spawn(answer);
  listening(value_of(system, system.middleman().publish(answerer, 0, "127.0.0.1")));
  caf::anon_send_exit(answerer, caf::exit_reason::user_shutdown);
}

template <class Config>
class BaspCarrier final : public ActorCarrier {
 public:
  explicit BaspCarrier(uint16_t port)
      : system_(config_), answerer_(value_of(system_, system_.middleman().remote_actor("127.0.0.1", port))) {
    start(system_, [this](const Parcel& parcel) { answered(parcel.ask, parcel.bytes->size()); });
  }
  ~BaspCarrier() override { caf::anon_send_exit(asker_, caf::exit_reason::user_shutdown); }
  void send(const Message& message) override { self_->send(answerer_, Parcel{message.ask, message.bytes}); }

 private:
  Config config_;
  caf::actor_system system_;
  caf::actor answerer_;
};

template <class Config>
std::unique_ptr<Carrier> connect(uint16_t port) {
  return std::make_unique<BaspCarrier<Config>>(port);
}

}  // namespace

const Way basp_way{"basp", &serve<PlainConfig>, &connect<PlainConfig>};
const Way basp_tuned_way{"basp_tuned", &serve<TunedConfig>, &connect<TunedConfig>};

}  // namespace convoy::bench
