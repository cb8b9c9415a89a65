#include "actors/stage/stage.hpp"

#include <map>
#include <stdexcept>

#include "actors/process/log.hpp"
#include "actors/stage/load_rate.hpp"
#include "actors/stage/stage_edges.hpp"
#include "actors/stage/stage_fetch.hpp"
#include "actors/stage/stage_reporter.hpp"
#include "actors/stage/step_codec.hpp"
#include "actors/stage/step_runner.hpp"
#include "actors/stage_name.hpp"
#include "model/out_of_memory.hpp"

namespace convoy::actors {

// How long a step that is in flight is waited for before messages are looked at: one may bring a step that
// the device has room for, or it could only be queued.
constexpr std::chrono::microseconds wait_with_room{100}, wait_when_full{1000};
// Between two looks at edges that form: some hundred milliseconds, all in all.
constexpr std::chrono::milliseconds edges_pause{2};

/// The state and decisions of one stage actor. Runs only inside its actor.
struct StageData {
  StageActor::stateful_pointer<StageStateHolder> self;
  StageOptions options;
  std::shared_ptr<const model::Checkpoint> checkpoint;
  StageLinks links;
  std::shared_ptr<StepClock> clock;
  StageReporter reporter;
  PipelineActor pipeline{};
  StageActor next{};

  std::unique_ptr<StepRunner> steps{};
  StageEdges edges{options.own,
                   options.edge_timeout_ms,
                   {[this](const auto& offer) {
                      if (next) self->send(next, offer);
                    },
                    [this](const StageActor& before, const auto& reply) { self->send(before, reply); }}};
  StageFetch fetch{links.fetcher ? StageFetch::Ask([this](model::LayerRange layers) {
    self->send(links.fetcher, FetchLayers{self, layers});
  })
                                 : nullptr};
  model::LayerRange range{};  // of the steps
  gpu::EngineLimits limits{};
  StageStatus status{};
  StageName next_name{};
  uint64_t next_incarnation = 0;
  uint16_t next_port = 0;   // 0: a stage alone has no next one
  std::string next_host{};  // empty: it connects to us
  std::map<StageName, PeerIdentity> linked_stages{};
  bool looking = false;           // StepsInFlight is in the mailbox
  bool looking_at_edges = false;  // EdgesForming will be

  bool loaded() const { return steps && status.loaded_permille == 1000; }

  /// Works and says what went wrong: a stage that failed is replaced, it does not go on.
  template <class Work>
  void guarded(Work work) {
    try {
      return work();
    } catch (const std::exception& e) {
      status.reason = reason_of(e);
    } catch (const kj::Exception& e) {
      status.reason = e.getDescription().cStr();
    }
    clock->stop();
    log::error("stage.failed",
               {{"stage", options.instance}, {"epoch", status.epoch}, {"reason", status.reason}});
    status.health = msg::Health::DOWN;
    self->send(reporter, status);
  }

  void assign(const Frame<msg::Assign>& frame) {
    const msg::Reading read(frame);
    const msg::Assign::Reader& a = *read;
    if (!options.pipeline.empty() && a.getPipeline() != options.pipeline.c_str())
      return log::warn_limited(
          "stage.of_another_pipeline",
          {{"stage", options.instance}, {"pipeline", a.getPipeline().cStr()}, {"ours", options.pipeline}});
    if (a.getEpoch() <= status.epoch) return;
    status = {.epoch = a.getEpoch(), .lacks_model = fetch.lacks_model(), .fetched = fetch.fetched()};
    self->send(reporter, status);
    edges.begin(nullptr, status.epoch);
    follow(a);
    if (fetch.assigned(frame, layers_of(a), steps && range == layers_of(a))) load(a);
  }

  void prepare(const Frame<msg::Prepare>& frame) {
    const msg::Reading p(frame);
    fetch.prepare({p->getFirstLayer(), p->getLastLayer()});
  }

  void heard(const FetchReport& report) {
    const auto orders = fetch.heard(report);
    status.fetched = fetch.fetched();
    status.fetch_progress = report.progress;
    if (status.health != msg::Health::DOWN) status.reason = report.text;
    self->send(reporter, status);
    if (!orders) return;
    load(*msg::Reading(*orders));
    fetch.go_on();
  }

  static model::LayerRange layers_of(const msg::Assign::Reader& a) {
    return {a.getFirstLayer(), a.getLastLayer()};
  }

  void load(const msg::Assign::Reader& a) {
    load(layers_of(a),
         {.kv_blocks = a.getKvBlocks(),
          .slots = a.getSlots(),
          .context_tokens = options.context_tokens,
          .rows_per_step = options.rows_per_step,
          .kv_type = options.kv_type,
          .deterministic = options.deterministic,
          .sharers = options.sharers,
          .second_tier = options.second_tier},
         a.getKvBlocksBefore());
    steps->expect(a.getStepsInFlight());
    log::info("stage.loaded", {{"pipeline", a.getPipeline().cStr()},
                               {"stage", options.instance},
                               {"position", a.getPosition()},
                               {"first", range.first},
                               {"last", range.last},
                               {"epoch", status.epoch}});
    edges.begin(&steps->engine(), status.epoch);
    tell();
  }

  /// Whom this stage hands on to. One that it has is kept, if it is the same process.
  void follow(const msg::Assign::Reader& a) {
    const StageName name{a.getNextNode(), a.getNextInstance()};
    next_host = a.getNextHost();
    if (next && name == next_name && a.getNextPort() == next_port) return;
    next = nullptr;
    next_port = a.getNextPort();
    next_name = name;
    if (const auto linked = linked_stages.find(next_name); linked != linked_stages.end())
      meet(linked->second);
    connect();
  }

  /// Keeps the weights if nothing changed: a new epoch, be it of another head, only forgets the sequences.
  void load(model::LayerRange wanted, const gpu::EngineLimits& wanted_limits, uint32_t kv_blocks_before) {
    if (steps && range.first == wanted.first && range.last == wanted.last && limits == wanted_limits) {
      steps->reset();
    } else {
      steps.reset();
      LoadRate rate;
      gpu::EngineLimits with_before = wanted_limits;  // which is no reason to load again
      with_before.kv_blocks_before = kv_blocks_before;
      auto engine = std::make_unique<gpu::Engine>(
          options.device, checkpoint, wanted, with_before, [this, &rate](uint64_t bytes, uint64_t total) {
            status.loaded_permille = static_cast<uint32_t>(999 * bytes / total);
            self->send(reporter, status);
            if (rate.at(bytes, total, self->clock().now()))
              log::info("stage.loading", {{"stage", options.instance},
                                          {"bytes", bytes},
                                          {"of", total},
                                          {"gb_per_s", rate.bytes_per_s() / 1e9},
                                          {"left_s", rate.seconds_left()}});
          });
      log::info("stage.weights", {{"stage", options.instance},
                                  {"bytes", rate.total()},
                                  {"took_s", rate.seconds()},
                                  {"gb_per_s", rate.bytes_per_s() / 1e9}});
      engine->bind_thread(links.threads);
      if (engine->kv_pool())
        log::info("stage.kv_blocks", {{"stage", options.instance}, {"fit", engine->kv_pool()->text()}});
      if (engine->kv_places() > 0)
        log::info("stage.kv_tier", {{"stage", options.instance},
                                    {"blocks", engine->kv_places()},
                                    {"host_bytes", options.second_tier.host_bytes},
                                    {"disk_bytes", options.second_tier.disk_bytes},
                                    {"folder", options.second_tier.disk_dir.string()}});
      steps = std::make_unique<StepRunner>(std::move(engine), clock);
      range = wanted;
      limits = wanted_limits;
    }
    status.loaded_permille = 1000;
    status.kv_blocks = steps->engine().kv_blocks();
    status.kv_places = steps->engine().kv_places();
  }

  /// Ready means loaded, linked to the next stage, and agreed with it on the way of hidden states.
  void tell() {
    if (!loaded() || status.health == msg::Health::DOWN) return;
    const bool linked = next_port == 0 || next;
    if (next) {
      const PeerIdentity& peer = linked_stages.at(next_name);
      edges.offer(peer, self->clock().now());
      steps->hand_over_as(edges.to_next_is_up() ? gpu::HiddenForm::edge : common_form(peer));
    }
    look_at_edges_later();
    status.health = linked && edges.settled() ? msg::Health::READY : msg::Health::LOADING;
    status.reason = !linked           ? "connecting to the next stage"
                    : edges.settled() ? ""
                                      : "bringing up the edge to the next stage";
    self->send(reporter, status);
  }

  /// What this stage's device and the next one's say, if it is the same.
  gpu::HiddenForm common_form(const PeerIdentity& peer) const {
    const gpu::HiddenForm own = steps->engine().hidden_form();
    return decode(peer.hidden_form) == own ? own : gpu::HiddenForm::f32;
  }

  void look_at_edges_later() {
    if (looking_at_edges || !edges.forming()) return;
    looking_at_edges = true;
    self->delayed_send(self, edges_pause, EdgesForming{});
  }

  void look_at_edges() {
    looking_at_edges = false;
    if (!loaded() || status.health == msg::Health::DOWN) return;
    const bool settled = edges.settled();
    edges.look(self->clock().now());
    edges_changed(settled);
  }

  void answered(const Frame<msg::EdgeReply>& reply) {
    const bool settled = edges.settled();
    edges.answered(reply);
    edges_changed(settled);
  }

  void edges_changed(bool were_settled) {
    look_at_edges_later();
    if (were_settled || !edges.settled()) return;
    const char* const way = edges.to_next_is_up() ? "NCCL" : "frames";
    log::info("stage.edge", {{"stage", options.instance}, {"way", way}, {"reason", edges.reason()}});
    tell();
  }

  void offered(const Frame<msg::EdgeOffer>& offer) {
    edges.offered(offer, caf::actor_cast<StageActor>(self->current_sender()));
    look_at_edges_later();
  }

  void peer_up(const PeerUp& up) {
    if (up.peer.role == schema::Role::NODE) {
      pipeline = links.pipeline(up.peer);
      self->send(reporter, up);
    } else {
      linked_stages[stage_name(up.peer)] = up.peer;
      meet(up.peer);
      tell();
    }
  }

  /// The next stage may just have died. Then the pipeline will name another; until then only this one will
  /// do.
  void refused(const PeerRefused& by) {
    if (by.address != next_host + ":" + std::to_string(next_port)) return;
    log::warn_limited("stage.next_refused", {{"stage", options.instance}, {"reason", by.reason}});
    self->delayed_send(self, std::chrono::milliseconds(options.report_ms), caf::tick_atom_v);
  }

  void connect() {
    if (!next && !next_host.empty()) links.connect(next_host, next_port);
  }

  /// On this machine.
  bool next_is_here() const { return next && linked_stages.at(next_name).node == options.node; }

  void meet(const PeerIdentity& peer) {
    if (stage_name(peer) != next_name || peer.listen_port != next_port) return;
    next = links.next_stage(peer);
    next_incarnation = peer.incarnation;
    self->monitor(next);
  }

  /// Without the next stage no step can leave. The pipeline hears of it and raises the epoch, which connects
  /// again.
  void next_down(const caf::down_msg& down) {
    if (!next || next.address() != down.source) return;
    log::warn("stage.next_lost", {{"stage", options.instance}});
    next = nullptr;
    // Whoever took its place may have been linked before its end was heard.
    if (const auto linked = linked_stages.find(next_name);
        linked != linked_stages.end() && linked->second.incarnation == next_incarnation)
      linked_stages.erase(linked);
    connect();  // only the connection may have ended; while loading nobody raises the epoch for that
    tell();
  }

  /// Whether what comes belongs to what this stage is now. Throws if the stage cannot run steps.
  bool current(uint64_t epoch, bool for_first) const {
    if (epoch != status.epoch || status.health == msg::Health::DOWN) return false;
    if (!loaded()) throw std::runtime_error("a step came before any layers were loaded");
    if (steps->engine().first() != for_first)
      throw std::runtime_error(for_first ? "only the first stage takes plans and sampled tokens"
                                         : "the first stage takes no hidden states");
    return true;
  }

  void plan(const Frame<msg::StepPlan>& frame) {
    const msg::Reading plan(frame);
    if (!current(plan->getEpoch(), true)) return;
    steps->add(decode(*plan));
    advance();
  }

  void sampled(const Frame<msg::StepResult>& frame) {
    const gpu::StepResult result = decode(frame);
    if (!current(result.epoch, true)) return;
    steps->feed_back(result);
    advance();
  }

  void activations(const Frame<msg::Activations>& frame) {
    gpu::StepPlan step = decode(msg::Reading(frame)->getPlan());
    if (!current(step.epoch, false)) return;
    // One before it was lost with a link, which the stage before has heard of: the pipeline raises the epoch.
    if (step.step != steps->steps())
      return log::warn_limited("stage.step_missing", {{"stage", options.instance},
                                                      {"epoch", step.epoch},
                                                      {"step", step.step},
                                                      {"missing", steps->steps()}});
    steps->add(std::move(step), frame);
    advance();
  }

  /// Begins what can begin and passes on what is done: all of it, on a device that computes in submit().
  /// Steps that are still in flight then are looked after between messages.
  void advance(std::chrono::microseconds wait = {}) {
    submit();
    while (const auto done = steps->next_done(wait)) {
      pass_on(*done);
      submit();
      wait = {};
    }
    if (looking || !steps->any_in_flight()) return;
    looking = true;
    self->send(self, StepsInFlight{});
  }

  void submit() {
    for (const auto& frame : steps->submit(next_is_here()))
      if (next) self->send(next, frame);
  }

  /// A message that comes meanwhile waits for a short time, so that this thread alone calls the device, and
  /// no other has to wake for a step that is done.
  void look() {
    looking = false;
    if (steps && status.health != msg::Health::DOWN)
      advance(steps->has_room() ? wait_with_room : wait_when_full);
  }

  void pass_on(const StepRunner::Done& done) {
    if (done.hidden) {
      if (next) self->send(next, done.hidden);
      return;
    }
    if (!steps->engine().last()) return;  // by an edge
    const Frame<msg::StepResult> result = encode(done.result);
    if (next && !done.result.sequences.empty()) self->send(next, result);  // it may be waiting for it
    self->send(pipeline, result);
  }
};

StageStateHolder::StageStateHolder() = default;
StageStateHolder::~StageStateHolder() = default;

StageActor::behavior_type stage(StageActor::stateful_pointer<StageStateHolder> self, StageOptions options,
                                std::shared_ptr<const model::Checkpoint> checkpoint, StageLinks links) {
  const auto clock = std::make_shared<StepClock>(self->clock());
  const auto reporter = self->spawn<caf::linked>(stage_reporter, options.instance, options.pipeline,
                                                 options.report_ms, clock, links.pipeline);
  self->state.data =
      std::make_unique<StageData>(self, options, std::move(checkpoint), std::move(links), clock, reporter);
  StageData* data = self->state.data.get();
  data->status.lacks_model = data->fetch.lacks_model();
  self->send(reporter, data->status);  // before the pipeline hears the first time
  self->set_down_handler([data](caf::down_msg& down) { data->next_down(down); });
  return {
      [data](const Frame<msg::Assign>& frame) { data->guarded([&] { data->assign(frame); }); },
      [data](const Frame<msg::Prepare>& frame) { data->guarded([&] { data->prepare(frame); }); },
      [data](const FetchReport& report) { data->guarded([&] { data->heard(report); }); },
      [data](const Frame<msg::StepPlan>& frame) { data->guarded([&] { data->plan(frame); }); },
      [data](const Frame<msg::Activations>& frame) { data->guarded([&] { data->activations(frame); }); },
      [data](const Frame<msg::StepResult>& frame) { data->guarded([&] { data->sampled(frame); }); },
      [data](const Frame<msg::EdgeOffer>& frame) { data->guarded([&] { data->offered(frame); }); },
      [data](const Frame<msg::EdgeReply>& frame) { data->guarded([&] { data->answered(frame); }); },
      [data](StepsInFlight) { data->guarded([&] { data->look(); }); },
      [data](EdgesForming) { data->guarded([&] { data->look_at_edges(); }); },
      [data](const PeerUp& up) { data->guarded([&] { data->peer_up(up); }); },
      [data](const PeerRefused& by) { data->refused(by); },
      [data](caf::tick_atom) { data->connect(); },
  };
}

}  // namespace convoy::actors
