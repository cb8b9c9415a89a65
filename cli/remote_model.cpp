#include "cli/remote_model.hpp"

#include <unistd.h>

#include <csignal>

#include "actors/pipeline_name.hpp"
#include "actors/process/log.hpp"
#include "actors/supervisor.hpp"
#include "cli/commands.hpp"
#include "cli/runtime.hpp"

namespace convoy::cli {

namespace {
constexpr std::chrono::milliseconds look_at_signals{50};
}

RemoteModel::RemoteModel(caf::actor_system& system, const actors::ClusterConfig& config,
                         const std::string& node, const std::string& pipeline, const std::string& head_host,
                         uint16_t head_port)
    : system_(system) {
  actors::PeerIdentity self;
  self.node = node;
  self.role = schema::Role::CLIENT;
  self.incarnation = actors::new_incarnation();
  self.instance = static_cast<uint32_t>(self.incarnation >> 32);
  self.pid = getpid();

  actors::FetcherOptions options{
      std::make_shared<actors::WeightStore>(config.store.dir, config.store.bytes_max),
      {.part_bytes = config.store.part_bytes,
       .parts_in_flight = config.store.parts_in_flight,
       .attempts_max = config.store.attempts_max},
      config.store.silence_ms};
  actors::FetcherLinks reach;
  reach.server = [this, instance = actors::pipeline_instance(pipeline)](const actors::PeerIdentity& head) {
    return links_->remote<actors::WeightServerActor>(head, schema::Role::WEIGHTS, instance);
  };
  reach.drop = [this](const actors::PeerIdentity& head, const std::string& reason) {
    links_->drop(head, reason);
  };
  fetcher_ = system.spawn<caf::detached>(actors::weight_fetcher, options, reach, found_);

  // As long as this process lives: what it lacks, nobody else has. Whether it is to live, its stage's link
  // says.
  const auto connect = [this, head_host, head_port, timeout_ms = config.link.head_timeout_ms] {
    links_->connect(head_host, head_port, timeout_ms);
  };
  actors::Links::Events events;
  events.up = [this](const actors::PeerIdentity& peer) { caf::anon_send(fetcher_, actors::PeerUp{peer}); };
  events.down = [this, connect](const actors::PeerIdentity& peer, const std::string& reason) {
    caf::anon_send(fetcher_, actors::PeerDown{peer, reason});
    connect();
  };
  events.refused = [connect](const std::string& address, const std::string& reason) {
    log::warn_limited("weights.head_unreachable", {{"address", address}, {"reason", reason}});
    connect();
  };
  links_ = std::make_unique<actors::Links>(system, link_options(config, node), self, events);
  links_->publish(schema::Role::CLIENT, self.instance, caf::actor_cast<caf::actor>(fetcher_));
  connect();
}

RemoteModel::~RemoteModel() {
  links_->close();  // their events use the fetcher
  actors::end_and_wait(system_, fetcher_);
}

std::shared_ptr<const model::Checkpoint> RemoteModel::await_model() {
  auto found = found_->get_future();
  while (found.wait_for(std::chrono::seconds(0)) != std::future_status::ready)
    if (const int signal = await_signal(look_at_signals); signal == SIGTERM || signal == SIGINT) _exit(ok);
  return found.get();
}

}  // namespace convoy::cli
