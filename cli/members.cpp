// convoy drain, undrain, add-node, remove: which nodes the cluster has. Each asks the head of this machine
// and waits until what it asked for is so.

#include <chrono>
#include <optional>
#include <thread>

#include "cli/cluster_client.hpp"
#include "cli/commands.hpp"
#include "cli/unavailable.hpp"
#include "model/error.hpp"

namespace convoy::cli {

namespace json = boost::json;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

namespace {

constexpr auto poll_status = milliseconds(50);
constexpr uint32_t answer_ms = 5000;

struct MemberArguments {
  std::string config = "cluster.conf", node, listen, pipeline;
  uint32_t stages = 1, timeout_ms = 600'000;
};

/// What the status says of a node.
struct NodeStatus {
  std::string state;  // empty: there is none of that name
  std::string health, reason;
};

NodeStatus node_status(const json::object& status, const std::string& name) {
  for (const json::value& n : status.at("nodes").as_array())
    if (json::value_to<std::string>(n.at("name")) == name && n.as_object().contains("state"))
      return {json::value_to<std::string>(n.at("state")), json::value_to<std::string>(n.at("health")),
              json::value_to<std::string>(n.at("reason"))};
  return {};
}

std::string pipeline_of(const json::object& status, const std::string& node) {
  for (const json::value& n : status.at("nodes").as_array())
    if (json::value_to<std::string>(n.at("name")) == node)
      return json::value_to<std::string>(n.at("pipeline"));
  return {};
}

/// Of the pipeline that the node is of, which has none any more if it is forgotten.
std::string stages_text(const json::object& status, const std::string& node) {
  std::string text;
  const std::string pipeline = pipeline_of(status, node);
  for (const json::value& s : status.at("stages").as_array())
    if (pipeline.empty() || json::value_to<std::string>(s.at("pipeline")) == pipeline)
      text += (text.empty() ? "" : ", ") + json::serialize(s.at("first_layer")) + "-" +
              json::serialize(s.at("last_layer")) + " on " + json::value_to<std::string>(s.at("node"));
  return text;
}

/// Whether what the command asked for is so, and serves.
bool is_done(schema::MemberCommand::Kind kind, const json::object& status, const std::string& node) {
  const std::string state = node_status(status, node).state;
  if (kind == schema::MemberCommand::Kind::REMOVE) return state.empty();
  return state == (kind == schema::MemberCommand::Kind::DRAIN ? "drained" : "serving") &&
         status.at("ready").as_bool();
}

class MemberChange {
 public:
  MemberChange(const MemberArguments& args, schema::MemberCommand::Kind kind)
      : args_(args), kind_(kind), config_(actors::load_cluster_config(args.config)) {}

  int run() {
    const auto began = Clock::now();
    connect();
    const auto refused = client_->change_members(
        kind_, {args_.node, args_.listen, {}, args_.stages, args_.pipeline}, answer_ms);
    if (!refused) throw Unavailable("the head does not answer");
    if (!refused->empty()) throw CheckFailed(*refused);
    for (;;) {
      const auto status = client_->status(answer_ms);
      if (!status) throw Unavailable("the head does not answer any more; `convoy status` tells more");
      if (is_done(kind_, *status, args_.node)) return say_done(*status, Clock::now() - began);
      if (Clock::now() - began > milliseconds(args_.timeout_ms)) return say_later(*status);
      std::this_thread::sleep_for(poll_status);
    }
  }

 private:
  void connect() {
    const auto head = ProcessLock::holder(head_lock_file(config_.cluster.run_dir));
    if (!head)
      throw Unavailable("no head runs on this machine, which alone can do that: node " + config_.head().name +
                        " at " + config_.head().listen);
    client_.emplace(config_, *head, answer_ms);
    if (!client_->connected()) throw Unavailable("the head does not answer; try again");
  }

  int say_done(const json::object& status, Clock::duration took) const {
    const double seconds = std::chrono::duration<double>(took).count();
    const char* const what = kind_ == schema::MemberCommand::Kind::DRAIN    ? "is drained"
                             : kind_ == schema::MemberCommand::Kind::REMOVE ? "is forgotten"
                                                                            : "serves";
    std::printf("node %s %s (%.1f s); layers %s\n", args_.node.c_str(), what, seconds,
                stages_text(status, args_.node).c_str());
    if (kind_ == schema::MemberCommand::Kind::DRAIN && args_.node != config_.head().name)
      std::printf("`convoy down` may be said on its machine\n");
    return ok;
  }

  int say_later(const json::object& status) const {
    const NodeStatus node = node_status(status, args_.node);
    const std::string why = !node.reason.empty()      ? node.reason
                            : node.health == "down"   ? "its process is not linked"
                            : node.state != "joining" ? json::value_to<std::string>(status.at("reason"))
                                                      : "its stages are not there yet; its log says why";
    std::fprintf(stderr, "convoy: node %s is %s after %u ms, and goes on: %s\n", args_.node.c_str(),
                 node.state.c_str(), args_.timeout_ms, why.c_str());
    return failed;
  }

  const MemberArguments args_;
  const schema::MemberCommand::Kind kind_;
  const actors::ClusterConfig config_;
  std::optional<ClusterClient> client_;
};

void add_command(CLI::App& app, int& exit_code, const char* name, const char* help,
                 schema::MemberCommand::Kind kind) {
  auto args = std::make_shared<MemberArguments>();
  auto* command = app.add_subcommand(name, help);
  command->add_option("node", args->node, "the node's name")->required();
  command->add_option("--config", args->config, "cluster configuration")->capture_default_str();
  if (kind == schema::MemberCommand::Kind::ADD) {
    command->add_option("--listen", args->listen, "HOST:PORT where it listens")->required();
    command->add_option("--stages", args->stages, "stage processes that it runs")->capture_default_str();
    command->add_option("--pipeline", args->pipeline,
                        "which pipeline they serve; the first if it is not given");
  }
  command->add_option("--timeout-ms", args->timeout_ms, "how long to wait for the end of it")
      ->capture_default_str();
  command->callback([args, kind, &exit_code] { exit_code = MemberChange(*args, kind).run(); });
}

}  // namespace

void add_members(CLI::App& app, int& exit_code) {
  add_command(app, exit_code, "drain", "Moves a node's layers to the others; then it may be stopped",
              schema::MemberCommand::Kind::DRAIN);
  add_command(app, exit_code, "undrain", "Takes a node back that was drained, or removed",
              schema::MemberCommand::Kind::UNDRAIN);
  add_command(app, exit_code, "add-node", "Makes a node of another configuration file a member",
              schema::MemberCommand::Kind::ADD);
  add_command(app, exit_code, "remove", "Forgets a node that is gone", schema::MemberCommand::Kind::REMOVE);
}

}  // namespace convoy::cli
