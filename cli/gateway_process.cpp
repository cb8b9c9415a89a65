// convoy gateway: serves HTTP on a node that is not the head's, for the cluster that the head tells it of.
// The node starts it, and another one when it ends before its time; people do not.

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <mutex>
#include <optional>
#include <vector>

#include "actors/config/plan_limits.hpp"
#include "actors/link/link.hpp"
#include "actors/process/child_process.hpp"
#include "actors/process/log.hpp"
#include "cli/actor_watch.hpp"
#include "cli/commands.hpp"
#include "cli/gateway_url.hpp"
#include "cli/http_edge.hpp"
#include "cli/node_options.hpp"
#include "cli/remote_model.hpp"
#include "cli/run_dir.hpp"
#include "cli/runtime.hpp"
#include "gateway/gateway_actor.hpp"
#include "gateway/served_terms.hpp"
#include "gateway/heard_keys.hpp"
#include "model/checkpoint/checkpoint.hpp"
#include "model/error.hpp"

namespace convoy::cli {

namespace fs = std::filesystem;
using actors::ClusterConfig;

namespace {

constexpr auto terms_polled = std::chrono::milliseconds(20);

struct GatewayArguments {
  std::string config, model, node, head_host, log;
  uint64_t incarnation = 0;
  uint16_t head_port = 0;
  int32_t parent = 0;
};

class GatewayProcess {
 public:
  GatewayProcess(ClusterConfig config, const GatewayArguments& args)
      : config_(std::move(config)),
        args_(args),
        run_dir_(config_.cluster.run_dir),
        here_(config_.gateway_of(*config_.find_node(args.node))),
        lock_(gateway_lock_file(run_dir_, args.node), "the gateway of node " + args.node, args.incarnation),
        system_(system_config_) {}

  int run() {
    try {
      start();
    } catch (...) {
      stop();  // whatever runs already must not keep the process alive
      throw;
    }
    log::LogFile log(args_.log, {});  // its node rotates it
    if (gateway_) {
      tend_until_told(log, [this] {
        gateway_->look();
        tell_state();
        return true;
      });
      if (watch_.exit_code(exit_code_) == ok)
        await_drained("gateway", gateway_->drain(), config_.gateway.drain_timeout_ms);
    }
    log::info("gateway.stopping");
    stop();
    // Told to end alone, it is replaced, unless its node ends too.
    return watch_.exit_code(all_end_ ? ok : exit_code_ == ok ? unavailable : exit_code_.load());
  }

 private:
  void start() {
    raise_descriptor_limit();
    remove_node_file(run_dir_, gateway_entry(args_.node));  // of an earlier process, which was killed
    connect_links();
    const auto terms = await_terms();
    if (!terms) return;  // told to end
    auto options = gateway_options(config_, args_.node);
    static_cast<ClusterConfig::Gateway&>(options) = here_;
    // By what this machine is called: no page of another's can be.
    for (const std::string& name : reachable_names(here_.host)) options.allowed_hosts.push_back(name);
    options.keys_file = terms->asks_for_keys ? "the head's" : "";  // never opened here
    options.cache_epoch = terms->cache_epoch;
    options.frame_bytes_max = std::min(terms->frame_bytes_max, config_.link.bulk_frame_bytes_max);
    std::vector<gateway::ServedModel> served;
    for (const gateway::ModelTerms& model : terms->models)
      served.push_back(gateway::served_model(model, tokenizer(model)));
    {
      const std::lock_guard lock(mutex_);
      for (const gateway::ServedModel& model : served) digests_.push_back(model.weights_digest);
      learn_digests(*terms_);
    }
    gateway_.emplace(system_, std::move(options), gateway::ServedModels(std::move(served)), metrics_, line_,
                     terms->asks_for_keys ? keys_ : nullptr);
    watch_.hold(line_.mailroom, "gateway");
    gateway_->serve(terms->answer_key);
    url_ = gateway_url(here_, gateway_->port());
    write_node_file(run_dir_, gateway_entry(args_.node), {args_.incarnation, 0, url_, {}, 0, {}});
    tell_state();
    log::info("gateway.started", {{"node", args_.node}, {"url", url_}});
  }

  /// Every callback posts to an actor, or ends the process; none blocks the links' thread.
  void connect_links() {
    gateway::HeadSays says;
    says.terms = [this](const auto& frame) { return hear_terms(frame); };
    says.keys = [this](const auto& frame) { hear_keys(frame); };
    says.shut_down = [this] {
      all_end_ = true;
      kill(getpid(), SIGTERM);
    };
    line_ = gateway::open_line(system_, args_.node,
                               std::chrono::milliseconds(config_.pipeline.readiness_period_ms), {}, says);
    actors::PeerIdentity self;
    self.node = args_.node;
    self.role = schema::Role::GATEWAY;
    self.incarnation = args_.incarnation;
    self.pid = getpid();
    self.settings = actors::settings_of(config_);
    actors::Links::Events events;
    events.up = [this](const actors::PeerIdentity& head) {
      caf::anon_send(line_.mailroom,
                     gateway::HeadUp{links_->remote<actors::CacheActor>(head, schema::Role::CACHE, 0),
                                     links_->remote<actors::RouterActor>(head, schema::Role::ROUTER, 0)});
      const std::lock_guard lock(mutex_);
      head_ = links_->remote<actors::NodeActor>(head, schema::Role::NODE, 0);
    };
    events.down = [this](const actors::PeerIdentity&, const std::string& reason) {
      log::warn("gateway.head_lost", {{"reason", reason}});
      caf::anon_send(line_.mailroom, gateway::HeadAway{"the head is away: " + reason});
      connect();
    };
    events.refused = [this](const std::string& address, const std::string& reason) {
      // Nobody comes, or one that this process does not fit: the next one reads all anew.
      end("head_unreachable", address + ": " + reason);
    };
    auto options = link_options(config_, args_.node);
    options.metrics = metrics_;
    links_ = std::make_unique<actors::Links>(system_, std::move(options), self, events);
    links_->publish(schema::Role::GATEWAY, 0, caf::actor_cast<caf::actor>(line_.mailroom));
    connect();
  }

  void connect() { links_->connect(args_.head_host, args_.head_port, config_.link.head_timeout_ms); }

  /// So that the node starts another one.
  void end(const char* what, const std::string& why) {
    log::warn(std::string("gateway.") + what, {{"reason", why}});
    exit_code_ = unavailable;
    kill(getpid(), SIGTERM);
  }

  /// By the gateway actor. Whether requests may go to the head that says so.
  bool hear_terms(const actors::Frame<schema::GatewayTerms>& frame) {
    try {
      auto terms = gateway::decode(frame);
      const std::lock_guard lock(mutex_);
      if (terms_ && !gateway::go_on(*terms_, terms)) {
        end("terms_changed", "the head serves another model, or by other settings");
        return false;
      }
      const bool known = gateway::all_digests_known(terms);
      if (terms_ && gateway::all_digests_known(*terms_) && !known) return false;  // maybe another one's
      if (known) learn_digests(terms);
      terms_ = std::move(terms);
      return true;
    } catch (const InputError& e) {
      end("terms_refused", e.what());
    }
    return false;
  }

  /// Of the models that are served already, in their order. Under mutex_.
  void learn_digests(const gateway::GatewayTerms& terms) {
    for (size_t i = 0; i < digests_.size(); ++i) digests_[i].set(terms.models[i].digest);
  }

  void hear_keys(const actors::Frame<schema::GatewayKeys>& frame) {
    try {
      const std::string lines = schema::Reading(frame)->getLines();
      keys_->set(std::make_shared<const gateway::ApiKeys>(gateway::read_keys(lines, "the head")));
      log::info("gateway.keys_heard");
    } catch (const InputError& e) {  // those that were known go on counting
      log::warn("gateway.keys_refused", {{"reason", e.what()}});
    }
  }

  std::optional<gateway::GatewayTerms> await_terms() {
    for (;;) {
      {
        const std::lock_guard lock(mutex_);
        if (terms_) return terms_;
      }
      const int signal = await_signal(terms_polled);
      if (signal == SIGTERM || signal == SIGINT) return std::nullopt;
    }
  }

  /// From the model's files, or what the head says of them.
  std::shared_ptr<const model::Tokenizer> tokenizer(const gateway::ModelTerms& terms) {
    if (terms.tokenizer.empty()) return nullptr;
    const auto here = std::ranges::find(config_.cluster.models, terms.id, &actors::ModelConfig::id);
    if (here != config_.cluster.models.end() && model::Checkpoint::is_there(here->path))
      return model::Checkpoint::open(here->path)->tokenizer();
    return RemoteModel(system_, config_, args_.node, terms.pipeline, args_.head_host, args_.head_port)
        .await_model()
        ->tokenizer();
  }

  /// For `convoy status`.
  void tell_state() {
    const std::string why_not = gateway_->why_not_ready();
    schema::FrameBuilder<schema::GatewayState> state;
    state->setUrl(url_);
    state->setReady(why_not.empty());
    state->setReason(why_not);
    state->setConnections(gateway_->connections());
    const std::lock_guard lock(mutex_);
    if (head_) actors::mail(head_, std::move(state).finish());
  }

  /// From the edge inwards.
  void stop() {
    watch_.let_go();
    gateway_.reset();
    if (links_) links_->close();  // their events use the pointer
    links_.reset();
    // Of a gateway that never was; else it has ended.
    caf::anon_send(line_.mailroom, gateway::Retire{});
    line_ = {};
    remove_node_file(run_dir_, gateway_entry(args_.node));
  }

  const ClusterConfig config_;
  const GatewayArguments args_;
  const fs::path run_dir_;
  const ClusterConfig::Gateway here_;
  const ProcessLock lock_;
  ActorWatch watch_;
  std::atomic<int> exit_code_ = ok;
  std::atomic<bool> all_end_ = false;  // the whole cluster is to end
  std::mutex mutex_;                   // guards the next three
  std::optional<gateway::GatewayTerms> terms_;
  std::vector<gateway::Later> digests_;  // texts that the gateway's models share
  actors::NodeActor head_;
  const std::shared_ptr<gateway::HeardKeys> keys_ = std::make_shared<gateway::HeardKeys>();
  std::string url_;
  ActorSystemConfig system_config_;
  caf::actor_system system_;
  const std::shared_ptr<prometheus::Registry> metrics_ = std::make_shared<prometheus::Registry>();
  gateway::Line line_;
  std::unique_ptr<actors::Links> links_;
  std::optional<gateway::Gateway> gateway_;
};

int run_gateway(const GatewayArguments& args) {
  actors::die_with_parent(args.parent);
  block_signals();
  auto config = actors::load_cluster_config(args.config);
  if (!args.model.empty()) actors::replace_model(config, args.model);
  const auto* const node = config.find_node(args.node);
  if (!node || !config.has_own_gateway(*node))
    throw InputError("node \"" + args.node + "\" has no gateway of its own", config.file.string(),
                     "give it roles = [\"gateway\"]");
  log::configure(config.log.level, config.log.json, "gateway");
  umask(077);
  return GatewayProcess(config, args).run();
}

}  // namespace

void add_gateway(CLI::App& app, int& exit_code) {
  auto args = std::make_shared<GatewayArguments>();
  auto* command = app.add_subcommand("gateway", "Runs a node's gateway (started by its node)");
  command->group("");
  command->add_option("--config", args->config)->required();
  command->add_option("--model", args->model);
  command->add_option("--node", args->node)->required();
  command->add_option("--incarnation", args->incarnation)->required();
  command->add_option("--head-host", args->head_host)->required();
  command->add_option("--head-port", args->head_port)->required();
  command->add_option("--parent", args->parent)->required();
  command->add_option("--log", args->log);
  command->callback([args, &exit_code] { exit_code = run_gateway(*args); });
}

}  // namespace convoy::cli
