#pragma once
// What the pipeline's tests share: an actor whose gateway, stages and node are mailboxes of the test.

#include <prometheus/registry.h>

#include <atomic>
#include <boost/test/unit_test.hpp>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "actors/pipeline.hpp"
#include "actors/stage/step_codec.hpp"
#include "model/error.hpp"
#include "test/patience.hpp"

namespace pipeline_rig {

using namespace convoy;
using namespace convoy::actors;
using namespace std::chrono_literals;

struct System {
  caf::actor_system_config config;
  caf::actor_system system{config};
};

/// A pipeline of two stages, or as many as a test says, whose neighbours are mailboxes that the test reads.
struct Fixture : System {
  caf::scoped_actor gateway{system}, router{system}, node{system};
  std::vector<std::unique_ptr<caf::scoped_actor>> stages;
  PipelineActor pipeline;
  std::shared_ptr<prometheus::Registry> metrics = std::make_shared<prometheus::Registry>();
  Members members;                 // if a test says so before it starts; else node1 has all stages
  std::vector<StageName> names;    // of the stages that link themselves; else node1's, in order
  std::string plan_refused;        // why another plan cannot be
  std::string not_kept;            // why members cannot be kept
  std::atomic<uint64_t> kept = 0;  // revision that was kept last
  uint64_t rebalance_steps = 1'000'000;

  void start(uint32_t step_timeout_ms = 30'000, uint32_t stage_count = 2, uint32_t failure_detection_ms = 100,
             uint32_t kv_blocks = 16, uint32_t queue = 1, uint32_t sequences = 1,
             uint32_t queue_max_ms = 30'000) {
    PipelineOptions options;
    options.name = "main";
    options.model = "m";
    options.incarnation = 77;
    options.members = members;
    if (members.list.empty())
      options.members.list = {{.node = "node1", .listen = "127.0.0.1:1", .stages = stage_count}};
    options.limits.queue = queue;
    options.limits.sequences = sequences;
    options.queue_max_ms = queue_max_ms;
    options.limits.kv_blocks = kv_blocks;
    options.limits.context_tokens = 512;
    options.limits.vocab = 100;
    options.costs.layers = 5;
    options.rebalance_steps = rebalance_steps;
    options.step_timeout_ms = step_timeout_ms;
    options.failure_detection_ms = failure_detection_ms;
    options.readiness_period_ms = 10'000;  // no canary of its own accord during a test
    PipelinePeers peers;
    peers.gateways["node1"] = caf::actor_cast<GatewayActor>(gateway);
    peers.router = caf::actor_cast<RouterActor>(router);
    peers.node = caf::actor_cast<NodeActor>(node);
    peers.drop = [](const PeerIdentity&, const std::string&) {};
    peers.refuse_plan = [this](const auto&, const auto&) {
      return plan_refused.empty() ? std::nullopt : std::optional(plan_refused);
    };
    peers.keep_members = [this](const Members& next) {
      if (!not_kept.empty()) throw InputError(not_kept, "members", "");
      kept = next.revision;
    };
    peers.metrics = metrics;
    pipeline = system.spawn(actors::pipeline, options, peers);
  }

  ~Fixture() {
    if (pipeline) caf::anon_send_exit(pipeline, caf::exit_reason::user_shutdown);
  }

  StageName name_of_stage(uint32_t index) const {
    return index < names.size() ? names[index] : StageName{"node1", index};
  }
  void link_stage(uint32_t index, uint64_t incarnation) {
    link_stage(index, incarnation, static_cast<uint16_t>(1000 + index));
  }
  /// A process that says in which epoch it is: a new one in none, an older one in one of a head before.
  void link_stage(uint32_t index, uint64_t incarnation, uint16_t listen_port, uint64_t epoch = 0) {
    if (stages.size() <= index) stages.resize(index + 1);
    stages[index] = std::make_unique<caf::scoped_actor>(system);
    PeerIdentity peer;
    const StageName name = name_of_stage(index);
    peer.node = name.node;
    peer.role = schema::Role::STAGE;
    peer.instance = name.instance;
    peer.incarnation = incarnation;
    peer.listen_host = "127.0.0.1";
    peer.listen_port = listen_port;
    peer.machine = name.node;
    // In its name, so that its report comes behind it.
    (*stages[index])->send(pipeline, StageUp{peer, caf::actor_cast<StageActor>(*stages[index])});
    report(index, msg::Health::LOADING, epoch);
  }

  /// The next message of that type; everything else that comes first is dropped.
  template <class T>
  Frame<T> next(caf::scoped_actor& mailbox) {
    Frame<T> found;
    const auto end = std::chrono::steady_clock::now() + convoy::test::patience;
    while (!found && std::chrono::steady_clock::now() < end)
      mailbox->receive(
          [&](const Frame<T>& frame) { found = frame; },
          caf::others >> [](caf::message_view&) -> caf::result<caf::message> { return caf::message{}; },
          caf::after(100ms) >> [] {});
    BOOST_REQUIRE_MESSAGE(found, "no " << schema::FrameTraits<T>::name << " came");
    return found;
  }

  /// As the process of that stage would: its handle is the sender.
  template <class T>
  void mail_from(uint32_t stage, Frame<T> frame) {
    (*stages.at(stage))->send(pipeline, std::move(frame));
  }

  /// The request that the next step gives tokens to.
  uint64_t answered() { return answered(gateway); }
  uint64_t answered(caf::scoped_actor& by) {
    const auto frame = next<msg::StepTokens>(by);
    const msg::Reading step(frame);
    BOOST_REQUIRE_EQUAL(step->getAnswers().size(), 1u);
    return step->getAnswers()[0].getRequest();
  }

  void report(uint32_t instance, msg::Health health, uint64_t epoch, uint32_t oldest_age_ms = 0) {
    mail_from(instance, report_frame(name_of_stage(instance).instance, health, epoch, oldest_age_ms));
  }
  static Frame<msg::StageReport> report_frame(uint32_t instance, msg::Health health, uint64_t epoch,
                                              uint32_t oldest_age_ms = 0, const char* pipeline = "") {
    msg::FrameBuilder<msg::StageReport> frame;
    frame->setPipeline(pipeline);
    frame->setKvBlocks(20 - 8 * instance);
    frame->setInstance(instance);
    frame->setEpoch(epoch);
    frame->setHealth(health);
    frame->setOldestStepAgeMs(oldest_age_ms);
    return std::move(frame).finish();
  }

  /// Plans go to the first stage, which passes them on.
  gpu::StepPlan next_plan() {
    const auto frame = next<msg::StepPlan>(*stages[0]);
    return decode(*msg::Reading(frame));
  }

  /// Answers a plan as the last stage would.
  void answer(const gpu::StepPlan& plan, int32_t id, gpu::RowFault fault = gpu::RowFault::none) {
    mail_from(1, encode(result_of(plan, id, fault)));
  }
  static gpu::StepResult result_of(const gpu::StepPlan& plan, int32_t id,
                                   gpu::RowFault fault = gpu::RowFault::none) {
    gpu::StepResult result{plan.epoch, plan.step, {}};
    for (const auto& s : plan.sequences)
      if (s.sampled_rows) result.sequences.push_back({s.slot, {{id, -0.5f, {}, fault}}});
    return result;
  }

  /// Two stages, loaded, and a canary that came through.
  void bring_up(uint64_t epoch = 1) {
    for (uint32_t i = 0; i < 2; ++i)
      BOOST_REQUIRE_EQUAL(msg::Reading(next<msg::Assign>(*stages[i]))->getEpoch(), epoch);
    for (uint32_t i = 0; i < 2; ++i) report(i, msg::Health::READY, epoch);
    const auto canary = next_plan();
    BOOST_REQUIRE_EQUAL(canary.rows(), 1);
    answer(canary, 3);
    for (;;)
      if (msg::Reading(next<msg::PipelineState>(gateway))->getReady()) return;
  }

  void ask(uint64_t number, uint32_t max_tokens = 5, const char* tenant = "", uint8_t priority = 5,
           const char* node = "node1") {
    msg::FrameBuilder<msg::Generate> frame;
    frame->initReplyTo().setNode(node);
    frame->getReplyTo().setRequest(number);
    frame->initTokens(3).set(0, 7);
    frame->setMaxTokens(max_tokens);
    frame->setAttempt(1);
    frame->setTenant(tenant);
    frame->setPriority(priority);
    mail(pipeline, std::move(frame).finish());
  }
  /// Once more, by a session that has tokens of the answer already.
  void ask_on(uint64_t number, const std::vector<int32_t>& generated, uint32_t max_tokens) {
    msg::FrameBuilder<msg::Generate> frame;
    frame->initReplyTo().setNode("node1");
    frame->getReplyTo().setRequest(number);
    frame->initTokens(3).set(0, 7);
    frame->setMaxTokens(max_tokens);
    frame->setAttempt(2);
    auto to = frame->initGenerated(static_cast<unsigned>(generated.size()));
    for (unsigned i = 0; i < to.size(); ++i) to.set(i, generated[i]);
    mail(pipeline, std::move(frame).finish());
  }

  /// A counter: without labels, or of a cause.
  double counted(const std::string& name, const std::string& cause = "") const {
    for (const auto& family : metrics->Collect())
      for (const auto& metric : family.metric)
        if (family.name == name && (cause.empty() || metric.label.at(0).value == cause))
          return metric.counter.value;
    BOOST_FAIL("there is no " << name);
    return 0;
  }
};

}  // namespace pipeline_rig
