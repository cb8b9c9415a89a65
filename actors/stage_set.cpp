#include "actors/stage_set.hpp"

#include <algorithm>
#include <cassert>
#include <set>
#include <utility>

namespace convoy::actors {

using schema::Health;
using std::chrono::milliseconds;

StageSet::StageSet(const StageSetOptions& options, const std::vector<StageName>& plan, Time now)
    : options_(options) {
  replan(plan, now);
  layers_move_ = false;
}

std::optional<uint32_t> StageSet::find(const StageName& name) const {
  const auto found = std::ranges::find(all_, name, &Stage::name);
  if (found == all_.end()) return std::nullopt;
  return static_cast<uint32_t>(found - all_.begin());
}

uint32_t StageSet::heard_of(const std::string& node) const {
  return static_cast<uint32_t>(
      std::ranges::count_if(all_, [&](const Stage& s) { return s.heard && s.name.node == node; }));
}

bool StageSet::replan(const std::vector<StageName>& plan, Time now) {
  assert(!plan.empty());
  std::vector<Stage> before = std::exchange(all_, {});
  for (const StageName& name : plan) {
    const auto known = std::ranges::find(before, name, &Stage::name);
    if (known == before.end()) {
      all_.push_back({.name = name, .missing_since = now, .asked = now});
      continue;
    }
    all_.push_back(std::move(*known));
    before.erase(known);
  }
  planned_ = all_.size();
  for (Stage& stage : before)
    if (stage.linked) all_.push_back(std::move(stage));
  layers_move_ = true;
  phase_ = Phase::gathering;
  passed_ = false;
  return std::ranges::all_of(stages(), &Stage::heard);
}

void StageSet::join(const PeerIdentity& peer, Time now) {
  const StageName name = stage_name(peer);
  auto index = find(name);
  if (!index) {
    index = static_cast<uint32_t>(all_.size());
    all_.push_back({.name = name});
  }
  Stage& stage = all_[*index];
  const uint32_t restarts = stage.peer.incarnation != 0 ? stage.restarts + 1 : 0;
  stage = {.name = name,
           .peer = peer,
           .linked = true,
           .health = Health::LOADING,
           .reason = "",
           .restarts = restarts,
           .missing_since = now};
}

uint64_t StageSet::raise(Time now) {
  phase_ = Phase::loading;
  loading_since_ = now;
  passed_ = false;
  canary_fault_.clear();
  for (Stage& stage : planned()) {
    stage.health = Health::LOADING;
    stage.step_age_ms = 0;
    stage.fetch_progress = 0;
    epoch_ = std::max(epoch_, stage.epoch);
  }
  return ++epoch_;
}

StageSet::Consequence StageSet::report(uint32_t index, const Report& report, Time now) {
  Stage& stage = all_.at(index);
  if (!stage.linked) return Consequence::none;
  stage.epoch = report.epoch;
  stage.lacks_model = report.lacks_model;
  stage.fetched = report.fetched;
  if (index >= planned_) return report_beside(stage, report);
  if (report.fetch_progress > stage.fetch_progress) {  // further than ever in this epoch: it does not hang
    stage.fetch_progress = report.fetch_progress;
    loading_since_ = now;
  }
  stage.heard = true;
  if (report.kv_blocks > 0) stage.kv_blocks = report.kv_blocks;  // a stage that loads does not know yet
  if (phase_ == Phase::gathering) {
    epoch_ = std::max(epoch_, report.epoch);
    const bool lost = report.health == Health::DOWN && report.epoch == epoch_;
    if (!lost && std::ranges::all_of(stages(), &Stage::heard)) return Consequence::raise;
  }
  stage.step_age_ms = report.step_age_ms;  // be the step of an epoch that is over
  if (report.epoch != epoch_) return Consequence::none;
  const bool slow = report.step_age_ms > options_.step_timeout_ms / slow_share;
  const bool changed = stage.health != report.health || stage.slow != slow;
  stage.slow = slow;
  stage.health = report.health;
  stage.reason = report.reason;
  if (slow) stage.reason = "slow: it has computed a step for " + std::to_string(report.step_age_ms) + " ms";
  stage.loaded_permille = report.loaded_permille;
  stage.cost = report.cost;
  stage.kv_places = report.kv_places;
  measure_bubble(stage, report);
  if (report.step_age_ms > 0) quiet_since_ = now;
  if (stage.health == Health::DOWN) return Consequence::lost;
  if (phase_ == Phase::serving && stage.health == Health::LOADING) return Consequence::raise;
  if (phase_ == Phase::loading &&
      std::ranges::all_of(stages(), [](const Stage& s) { return s.health == Health::READY; })) {
    phase_ = Phase::serving;
    layers_move_ = false;
    last_pass_ = now;
    return Consequence::serve;
  }
  return changed || phase_ == Phase::loading ? Consequence::changed : Consequence::none;
}

StageSet::Consequence StageSet::report_beside(Stage& stage, const Report& report) const {
  stage.health = report.health;
  stage.reason = report.reason;
  if (report.health == Health::DOWN) return Consequence::lost;
  return std::exchange(stage.heard, true) ? Consequence::none : Consequence::arrived;
}

void StageSet::measure_bubble(Stage& stage, const Report& report) {
  // Another process, or the first report of this one.
  const bool begins =
      stage.clock_us == 0 || report.clock_us < stage.clock_us || report.busy_us < stage.busy_us;
  const uint64_t time_us = report.clock_us - stage.clock_us;
  if (!begins && time_us < bubble_time_us) return;
  if (begins)
    stage.bubble_ratio = 0;
  else
    stage.bubble_ratio = std::clamp(
        1 - static_cast<float>(report.busy_us - stage.busy_us) / static_cast<float>(time_us), 0.0f, 1.0f);
  stage.busy_us = report.busy_us;
  stage.clock_us = report.clock_us;
}

void StageSet::lose(uint32_t index, Health health, const std::string& reason, Time now) {
  if (index >= planned_) return void(all_.erase(all_.begin() + index));
  Stage& stage = all_.at(index);
  stage.linked = stage.heard = false;
  stage.health = health;
  stage.reason = reason;
  stage.step_age_ms = 0;
  stage.slow = false;
  stage.clock_us = 0;
  stage.missing_since = stage.asked = now;
  phase_ = Phase::gathering;
  passed_ = false;
}

bool StageSet::committed(Time now) {
  canary_fault_.clear();  // a canary that failed in this step says so anew
  last_pass_ = quiet_since_ = now;
  return !std::exchange(passed_, true);
}

void StageSet::canary_failed(const std::string& why) {
  passed_ = false;
  canary_fault_ = why;
}

StageSet::Due StageSet::due(Time now, bool in_flight) const {
  Due due;
  if (phase_ == Phase::gathering) {
    for (uint32_t i = 0; i < planned_; ++i) {
      const Stage& stage = all_[i];
      if (stage.heard) continue;
      const auto missing = now - stage.missing_since;
      // Its thread may be in a step of the head before, or load for that.
      if (stage.linked && missing > milliseconds(options_.step_timeout_ms))
        due.lost.push_back(
            {i, StageLoss::hung, "linked itself, and reported nothing within pipeline.step_timeout_ms"});
      else if (!stage.linked && missing > milliseconds(options_.load_timeout_ms))
        due.replacements.push_back({i, 0, "did not link itself within pipeline.load_timeout_ms"});
      else if (!stage.linked && stage.peer.incarnation != 0 &&
               now - stage.asked > milliseconds(options_.ask_again_ms))
        due.replacements.push_back({i, stage.peer.incarnation, stage.reason});
    }
  }
  if (phase_ == Phase::loading && now - loading_since_ > milliseconds(options_.load_timeout_ms)) {
    for (uint32_t i = 0; i < planned_; ++i)
      if (all_[i].health != Health::READY)
        due.lost.push_back({i, StageLoss::late, "did not finish loading within pipeline.load_timeout_ms"});
  }
  if (phase_ == Phase::gathering || !due.lost.empty()) return due;
  // While others load, a stage may still compute a step of the epoch before: it does not hear of the new one.
  const auto oldest = std::ranges::max_element(stages(), {}, &Stage::step_age_ms);
  if (oldest->step_age_ms > options_.step_timeout_ms && (in_flight || phase_ == Phase::loading))
    due.lost.push_back({static_cast<uint32_t>(oldest - stages().begin()), StageLoss::hung,
                        "computes a step longer than pipeline.step_timeout_ms"});
  if (phase_ != Phase::serving) return due;
  if (in_flight && due.lost.empty() &&
      now - quiet_since_ > milliseconds(options_.step_timeout_ms))  // it has fallen between the stages
    due.lost.push_back({static_cast<uint32_t>(planned_) - 1, StageLoss::hung,
                        "no stage has computed the step in flight for pipeline.step_timeout_ms"});
  due.canary = !in_flight && now - last_pass_ > canary_interval();
  return due;
}

void StageSet::asked(uint32_t index, Time now) {
  Stage& stage = all_.at(index);
  stage.asked = now;
  if (now - stage.missing_since > milliseconds(options_.load_timeout_ms)) stage.missing_since = now;
}

bool StageSet::ready(Time now, bool in_flight) const {
  if (phase_ != Phase::serving || !passed_) return false;
  // A step under way is a sign of life: one that takes too long costs its stage its place.
  return in_flight || now - last_pass_ < canary_interval() + milliseconds(options_.readiness_period_ms);
}

std::string StageSet::why_not_ready() const {
  const auto name = [](const Stage& stage) { return text_of(stage.name); };
  for (const Stage& stage : stages())
    if (!stage.linked) return name(stage) + " is not there: " + stage.reason;
  const auto least = std::ranges::min_element(stages(), {}, &Stage::loaded_permille);
  if (phase_ == Phase::loading && !least->reason.empty()) return name(*least) + " " + least->reason;
  if (phase_ == Phase::loading && least->loaded_permille < 1000)
    return name(*least) + " is loading (" + std::to_string(least->loaded_permille / 10) + " %)";
  for (const Stage& stage : stages())
    if (stage.health == Health::LOADING)
      return name(stage) + ": " + (stage.reason.empty() ? "waits for its orders" : stage.reason);
  if (!canary_fault_.empty()) return "the canary got no token: " + canary_fault_;
  return passed_ ? "no token went through all stages lately" : "no token went through all stages yet";
}

std::string StageSet::why_beside(const std::string& node) const {
  std::string why;
  for (size_t i = planned_; i < all_.size(); ++i)
    if (all_[i].name.node == node && !all_[i].reason.empty())
      why += (why.empty() ? "" : "; ") + text_of(all_[i].name) + " " + all_[i].reason;
  return why;
}

uint32_t StageSet::kv_blocks() const { return std::ranges::min(stages(), {}, &Stage::kv_blocks).kv_blocks; }

uint32_t StageSet::kv_blocks_before() const {
  if (layers_move_) return 0;
  uint32_t fewest = 0;
  for (const Stage& stage : stages())
    if (fewest == 0 || (stage.kv_blocks > 0 && stage.kv_blocks < fewest)) fewest = stage.kv_blocks;
  return fewest;
}

uint32_t StageSet::kv_places() const { return std::ranges::min(stages(), {}, &Stage::kv_places).kv_places; }

StepCost StageSet::slowest() const {
  return std::ranges::max_element(stages(), {}, [](const Stage& s) { return s.cost.of(1); })->cost;
}

bool StageSet::on_own_cards() const {
  std::set<std::pair<std::string, std::string>> cards;
  for (const Stage& stage : stages())
    if (stage.peer.card.empty() || !cards.emplace(stage.peer.machine, stage.peer.card).second) return false;
  return true;
}

StageSet::Clock::duration StageSet::canary_interval() const {
  double busy_us = 0;  // that one canary keeps cores busy
  for (const Stage& stage : stages()) busy_us += stage.cost.of(1) * options_.stage_threads;
  const std::chrono::duration<double, std::micro> least(busy_us / canary_share_max);
  return std::max<Clock::duration>(milliseconds(options_.readiness_period_ms) / 2,
                                   std::chrono::duration_cast<Clock::duration>(least));
}

}  // namespace convoy::actors
