#include "actors/stage/stage_reporter.hpp"

namespace convoy::actors {

namespace {

void report(StageReporter::stateful_pointer<StageReporterState> self, uint32_t instance,
            const std::string& pipeline, const StepClock& clock) {
  const StageReporterState& state = self->state;
  if (!state.pipeline) return;
  msg::FrameBuilder<msg::StageReport> frame;
  frame->setPipeline(pipeline);
  frame->setEpoch(state.status.epoch);
  frame->setInstance(instance);
  frame->setHealth(state.status.health);
  frame->setLoadedPermille(state.status.loaded_permille);
  frame->setKvBlocks(state.status.kv_blocks);
  frame->setKvPlaces(state.status.kv_places);
  frame->setOldestStepAgeMs(clock.age_ms());
  frame->setReason(state.status.reason);
  frame->setLacksModel(state.status.lacks_model);
  frame->setFetchProgress(state.status.fetch_progress);
  if (const auto& fetched = state.status.fetched) {
    frame->setFetched(true);
    frame->setFetchedFirst(static_cast<uint32_t>(fetched->first));
    frame->setFetchedLast(static_cast<uint32_t>(fetched->last));
  }
  const StepCost cost = clock.cost();
  frame->setStepFixedUs(cost.fixed_us);
  frame->setStepPerRowUs(cost.per_row_us);
  const StepClock::Busy busy = clock.busy();
  frame->setBusyUs(busy.busy_us);
  frame->setClockUs(busy.clock_us);
  self->send(state.pipeline, std::move(frame).finish());
}

}  // namespace

StageReporter::behavior_type stage_reporter(StageReporter::stateful_pointer<StageReporterState> self,
                                            uint32_t instance, std::string pipeline, uint32_t report_ms,
                                            std::shared_ptr<const StepClock> clock,
                                            std::function<PipelineActor(const PeerIdentity&)> find_pipeline) {
  const auto interval = std::chrono::milliseconds(report_ms);
  self->delayed_send(self, interval, caf::tick_atom_v);
  return {
      [=](const StageStatus& status) {
        self->state.status = status;
        report(self, instance, pipeline, *clock);
      },
      [=](const PeerUp& up) {
        self->state.pipeline = find_pipeline(up.peer);
        report(self, instance, pipeline, *clock);
      },
      [=](caf::tick_atom) {
        report(self, instance, pipeline, *clock);
        self->delayed_send(self, interval, caf::tick_atom_v);
      },
  };
}

}  // namespace convoy::actors
