#include "cli/cluster_client.hpp"

#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>

#include "actors/config/plan_limits.hpp"
#include "actors/link/link.hpp"
#include "actors/node.hpp"
#include "actors/supervisor.hpp"
#include "cli/port_holder.hpp"
#include "cli/runtime.hpp"

namespace convoy::cli {

namespace json = boost::json;
using std::chrono::milliseconds;

struct ClusterClient::Impl {
  /// node: whose process the peer takes this one for; certified: whose certificate it shows.
  Impl(const actors::ClusterConfig& config, const std::string& node, const std::string& certified)
      : system(system_config), self(system) {
    identity.node = node;
    identity.role = schema::Role::CLIENT;
    identity.incarnation = actors::new_incarnation();
    identity.instance = static_cast<uint32_t>(identity.incarnation >> 32);
    identity.pid = getpid();
    actors::Links::Events events;
    events.up = [this](const actors::PeerIdentity& peer) { settle(peer); };
    events.down = [](const actors::PeerIdentity&, const std::string&) {};
    events.refused = [this](const std::string&, const std::string&) { settle(std::nullopt); };
    links = std::make_unique<actors::Links>(system, link_options(config, certified), identity, events);
    links->publish(schema::Role::CLIENT, 0, caf::actor_cast<caf::actor>(self));
  }

  void settle(std::optional<actors::PeerIdentity> peer) {
    std::lock_guard lock(mutex);
    head = std::move(peer);
    settled = true;
    changed.notify_all();
  }

  /// incarnation: of the process that is meant; none: any that shows the certificate of the head's node.
  void connect(const actors::NodeConfig& to, uint16_t port, std::optional<uint64_t> incarnation,
               uint32_t timeout_ms) {
    links->connect(to.listen_host(), port, timeout_ms);
    std::unique_lock lock(mutex);
    changed.wait_for(lock, milliseconds(timeout_ms), [&] { return settled; });
    if (!head) return;
    const bool stranger = head->role != schema::Role::NODE || head->node != to.name ||
                          (incarnation && head->incarnation != *incarnation);
    if (!stranger) node = links->remote<actors::NodeActor>(*head, schema::Role::NODE, 0);
  }

  ActorSystemConfig system_config;
  caf::actor_system system;
  caf::scoped_actor self;
  actors::PeerIdentity identity;
  std::unique_ptr<actors::Links> links;
  actors::NodeActor node;
  std::mutex mutex;  // guards the next three, which the links' thread sets
  std::condition_variable changed;
  bool settled = false;
  std::optional<actors::PeerIdentity> head;
};

ClusterClient::ClusterClient(const actors::ClusterConfig& config, const Holder& head, uint32_t timeout_ms)
    : impl_(std::make_unique<Impl>(config, "cli-" + std::to_string(getpid()), config.head().name)) {
  const auto file = read_node_file(config.cluster.run_dir, head_entry, head);
  if (!file || file->link_port == 0) return;  // it does not listen yet
  impl_->connect(config.head(), file->link_port, head.incarnation, timeout_ms);
}

ClusterClient::ClusterClient(const actors::ClusterConfig& config, const std::string& node,
                             uint32_t timeout_ms)
    : impl_(std::make_unique<Impl>(config, node, node)) {
  impl_->connect(config.head(), config.head().listen_port(), std::nullopt, timeout_ms);
}

ClusterClient::~ClusterClient() {
  impl_->node = nullptr;
  impl_->links.reset();
}

bool ClusterClient::connected() const { return static_cast<bool>(impl_->node); }

std::optional<json::object> ClusterClient::status(uint32_t timeout_ms) {
  if (!connected()) return std::nullopt;
  schema::FrameBuilder<schema::StatusQuery> query;
  query->setClient(impl_->identity.instance);
  actors::mail(impl_->node, std::move(query).finish());
  std::optional<json::object> answer;
  impl_->self->receive(
      [&](const actors::Frame<schema::Status>& frame) {
        answer = json::parse(schema::Reading(frame)->getJson().cStr()).as_object();
      },
      caf::after(milliseconds(timeout_ms)) >> [] {});
  return answer;
}

std::optional<std::string> ClusterClient::change_members(schema::MemberCommand::Kind kind,
                                                         const actors::NodeConfig& node,
                                                         uint32_t timeout_ms) {
  if (!connected()) return std::nullopt;
  schema::FrameBuilder<schema::MemberCommand> command;
  command->setClient(impl_->identity.instance);
  command->setKind(kind);
  command->setNode(node.name);
  command->setListen(node.listen);
  command->setStages(node.stages);
  command->setPipeline(node.pipeline);
  actors::mail(impl_->node, std::move(command).finish());
  std::optional<std::string> refused;
  impl_->self->receive(
      [&](const actors::Frame<schema::MemberReply>& frame) {
        refused = schema::Reading(frame)->getRefused().cStr();
      },
      caf::after(milliseconds(timeout_ms)) >> [] {});
  return refused;
}

void ClusterClient::shut_down() {
  if (connected()) actors::mail(impl_->node, schema::FrameBuilder<schema::Shutdown>().finish());
}

std::vector<std::optional<Holder>> node_holders(const actors::ClusterConfig& config) {
  std::vector<std::optional<Holder>> holders;
  for (const auto& n : config.cluster.nodes)
    holders.push_back(ProcessLock::holder(node_lock_file(config.cluster.run_dir, n.name)));
  return holders;
}

std::string listen_key(const actors::ClusterConfig& config, const std::string& node) {
  const auto& nodes = config.cluster.nodes;
  const auto found = std::find_if(nodes.begin(), nodes.end(), [&](const auto& n) { return n.name == node; });
  return "cluster.nodes[" + std::to_string(found - nodes.begin()) + "].listen";
}

namespace {

/// Why the head does not answer.
std::string why_no_answer(const actors::ClusterConfig& config, const std::optional<Holder>& head,
                          const std::optional<NodeFile>& file) {
  const actors::NodeConfig& node = config.head();
  if (const auto here = nodes_here(config); !has_head(here, config))
    return "the head, node " + node.name + ", is on another machine (" + node.listen + ")" +
           (here.empty() || config.cluster.dev ? "; ask there" : " and does not answer");
  if (head && file) return "the head node's process lives but does not answer";
  if (head) return "the head node is starting";
  const auto other = port_holder(node.listen_host(), node.listen_port());
  if (!other) return "the cluster is not running";
  return "the cluster is not running; " +
         port_held_text(*other, node.listen_port(), listen_key(config, node.name));
}

/// What can be said without the head: which processes hold their locks, and that nothing is ready.
json::object offline_status(const actors::ClusterConfig& config) {
  const std::filesystem::path run_dir = config.cluster.run_dir;
  json::array nodes;
  std::string gateway_url, reason;
  const auto holders = node_holders(config);
  for (size_t i = 0; i < holders.size(); ++i) {
    const auto& n = config.cluster.nodes[i];
    const bool is_head = n.name == config.head().name;
    const auto holder = is_head ? ProcessLock::holder(head_lock_file(run_dir)) : holders[i];
    const auto file = holder ? read_node_file(run_dir, is_head ? head_entry : n.name, *holder) : std::nullopt;
    if (is_head) {
      reason = why_no_answer(config, holders[i], file);
      if (file) gateway_url = file->gateway_url;
    }
    nodes.push_back({{"name", n.name},
                     {"pid", holders[i] ? holders[i]->pid : 0},
                     {"health", !holders[i] ? "down"
                                : file      ? "hung"
                                            : "loading"}});
  }
  json::array pipelines;
  for (const actors::PipelineConfig& pipeline : config.cluster.pipelines)
    pipelines.push_back(
        {{"name", pipeline.name}, {"model", pipeline.model}, {"ready", false}, {"reason", reason}});
  return {{"ready", false},
          {"model", config.cluster.models.front().id},
          {"gateway", {{"url", gateway_url}, {"pid", 0}}},
          {"redis", {{"address", ""}, {"pid", 0}, {"state", "unknown"}}},
          {"nodes", nodes},
          {"pipelines", pipelines},
          {"stages", json::array()},
          {"reason", reason}};
}

}  // namespace

json::object cluster_status(const actors::ClusterConfig& config, uint32_t timeout_ms) {
  const auto here = nodes_here(config);
  std::optional<ClusterClient> client;
  if (const auto head = ProcessLock::holder(head_lock_file(config.cluster.run_dir)))
    client.emplace(config, *head, timeout_ms);
  else if (!config.cluster.dev && !here.empty() && !has_head(here, config))
    client.emplace(config, here.front().name, timeout_ms);
  if (client)
    if (auto status = client->status(timeout_ms)) return *status;
  return offline_status(config);
}

}  // namespace convoy::cli
