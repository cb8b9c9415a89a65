#include "actors/router.hpp"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "actors/balance.hpp"

namespace convoy::actors {

namespace {

constexpr uint32_t retry_after_ms = 1000;
// What an answer is expected to take: so many steps, which take balance_rows rows as measured, and of others
// more or less: as if half of that were for the step and half for its rows.
constexpr double answer_steps = 100, step_rows = balance_rows;
// Of replicas that are not all measured yet, only what they have to do counts; and of measured ones how many
// halves slower than the quickest they are: less than that is noise, and who are alike take turns.
constexpr double step_us_unknown = 8'000, slowness_step = 0.5;
// So often others are chosen before a replica at rest is tried again.
constexpr uint64_t passed_max = 16;
// What a known beginning of a prompt is worth.
constexpr double affinity_requests = 4, affinity_ms = 200;

double cost_ms(const ReplicaLoad& load, double step_us, double requests) {
  return load.wait_estimate_ms + answer_steps * step_us / 1000 * (step_rows + requests) / (2 * step_rows);
}

double requests_of(const ReplicaLoad& load) {
  return static_cast<double>(uint64_t{load.running} + load.waiting + load.sent);
}

/// Of those that accept; nothing if one of them was not measured.
std::optional<double> quickest_us(const std::vector<ReplicaLoad>& replicas) {
  std::optional<double> quickest;
  for (const ReplicaLoad& replica : replicas) {
    if (!replica.accepting) continue;
    if (replica.step_us <= 0) return std::nullopt;
    quickest = std::min(quickest.value_or(replica.step_us), replica.step_us);
  }
  return quickest;
}

/// What counts before any cost.
int rank(const ReplicaLoad& load) { return load.overloaded ? 2 : load.ready ? 0 : 1; }

}  // namespace

int choose_replica(const std::vector<ReplicaLoad>& replicas, int preferred) {
  const std::optional<double> quickest = quickest_us(replicas);
  const auto step_us = [quickest](const ReplicaLoad& load) {
    if (!quickest) return step_us_unknown;
    return *quickest * slowness_step * std::floor(load.step_us / *quickest / slowness_step);
  };
  const auto at = [&](int i) -> const ReplicaLoad& { return replicas[static_cast<size_t>(i)]; };
  const auto cost = [&](int i, double fewer = 0) {
    return cost_ms(at(i), step_us(at(i)), std::max(0., requests_of(at(i)) - fewer));
  };
  const auto order = [&](int i) { return std::tuple(rank(at(i)), cost(i), at(i).chosen); };
  int best = -1;
  for (int i = 0; i < static_cast<int>(replicas.size()); ++i)
    if (at(i).accepting && (best < 0 || order(i) < order(best))) best = i;
  for (int i = 0; best >= 0 && i < static_cast<int>(replicas.size()); ++i)
    if (at(i).accepting && rank(at(i)) == rank(at(best)) && requests_of(at(i)) == 0 &&
        at(i).passed >= passed_max)
      return i;
  if (best < 0 || preferred < 0 || !at(preferred).accepting) return best;
  const bool near =
      rank(at(preferred)) == rank(at(best)) && cost(preferred, affinity_requests) <= cost(best) + affinity_ms;
  return near ? preferred : best;
}

void Replicas::add(const std::string& name, const std::string& model) { list_.push_back({name, model}); }

void Replicas::heard(const std::string& name, ReplicaLoad load, std::string reason, Time now) {
  const auto found = std::ranges::find(list_, name, &Replica::name);
  if (found == list_.end()) return;
  load.sent = 0;
  load.chosen = found->load.chosen;
  load.passed = found->load.passed;
  found->load = load;
  found->reason = std::move(reason);
  found->heard = now;
}

std::variant<size_t, std::string> Replicas::choose(std::string_view model, uint64_t prefix, Time now) {
  std::vector<size_t> those;
  std::vector<ReplicaLoad> loads;
  std::string why = "no pipeline serves model " + std::string(model);
  const std::string owner = prefix ? owners_.find(prefix) : "";
  int preferred = -1;
  for (size_t i = 0; i < list_.size(); ++i) {
    const Replica& replica = list_[i];
    if (replica.model != model) continue;
    const bool silent = now - replica.heard > period_;
    if (replica.name == owner) preferred = static_cast<int>(those.size());
    those.push_back(i);
    loads.push_back(replica.load);
    loads.back().accepting &= !silent;
    if (!loads.back().accepting)
      why = "pipeline " + replica.name +
            (replica.heard == Time() ? " has not reported yet"
             : silent                ? " is silent"
                                     : ": " + replica.reason);
  }
  const int choice = choose_replica(loads, preferred);
  if (choice < 0) return why;
  Replica& replica = list_[those[static_cast<size_t>(choice)]];
  for (const size_t i : those) ++list_[i].load.passed;
  replica.load.passed = 0;
  ++replica.load.sent;
  ++replica.load.chosen;
  if (prefix && those.size() > 1) owners_.set(prefix, replica.name);
  return those[static_cast<size_t>(choice)];
}

namespace {

using Self = RouterActor::stateful_pointer<RouterState>;

void reject(Self self, const msg::Generate::Reader& request, const std::string& why) {
  msg::FrameBuilder<msg::Rejected> rejected;
  rejected->setRequest(request.getReplyTo().getRequest());
  rejected->setAttempt(request.getAttempt());
  rejected->setReason(msg::Rejected::Reason::NOT_READY);
  rejected->setMessage(why);
  rejected->setRetryAfterMs(retry_after_ms);
  const auto gateway = self->state.gateways.find(request.getReplyTo().getNode().cStr());
  if (gateway != self->state.gateways.end()) self->send(gateway->second, std::move(rejected).finish());
}

void route(Self self, const Frame<msg::Generate>& frame) {
  const msg::Reading request(frame);
  const std::string_view model = request->getModel().cStr();
  const uint64_t prefix = PrefixOwners::key_of(model, request->getSalt().cStr(), request->getTokens());
  const auto choice = self->state.replicas->choose(model, prefix, self->clock().now());
  if (const auto* const replica = std::get_if<size_t>(&choice))
    self->send(self->state.pipelines[*replica], frame);
  else
    reject(self, *request, std::get<std::string>(choice));
}

/// Over all stages; 0 unless each was measured.
double step_us_of(const msg::PipelineState::Reader& said) {
  double sum_us = 0;
  for (const auto stage : said.getStages()) {
    if (stage.getLayerUs() <= 0) return 0;
    sum_us += stage.getLayerUs() * (1. + stage.getLastLayer() - stage.getFirstLayer());
  }
  return sum_us;
}

ReplicaLoad load_of(const msg::PipelineState::Reader& said) {
  return {.accepting = said.getAccepting(),
          .ready = said.getReady(),
          .overloaded = said.getOverloaded(),
          .running = said.getRunning(),
          .waiting = said.getWaiting(),
          .wait_estimate_ms = said.getWaitEstimateMs(),
          .step_us = step_us_of(said)};
}

}  // namespace

RouterActor::behavior_type router(Self self, RouterOptions options, GatewaysByNode gateways) {
  self->state.gateways = std::move(gateways);
  self->state.replicas.emplace(std::chrono::milliseconds(options.readiness_period_ms));
  return {
      [self](const Frame<msg::Generate>& frame) { route(self, frame); },
      [self](const Frame<msg::Cancel>& frame) {
        const std::string name = msg::Reading(frame)->getPipeline();
        const RouterState& state = self->state;
        // Whoever does not run it ignores it.
        for (size_t i = 0; i < state.pipelines.size(); ++i)
          if (name.empty() || state.replicas->name(i) == name) self->send(state.pipelines[i], frame);
      },
      [self](const Frame<msg::PipelineState>& frame) {
        const msg::Reading said(frame);
        self->state.replicas->heard(said->getName(), load_of(*said), said->getReason(), self->clock().now());
      },
      [self](const AddPipeline& added) {
        self->state.replicas->add(added.name, added.model);
        self->state.pipelines.push_back(added.pipeline);
      },
      [self](const GatewayUp& up) { self->state.gateways[up.node] = up.gateway; },
  };
}

}  // namespace convoy::actors
