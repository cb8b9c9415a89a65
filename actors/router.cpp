#include "actors/router.hpp"

namespace convoy::actors {

int choose_replica(const std::vector<ReplicaLoad>& replicas) {
  int best = -1;
  auto load = [&](int i) {
    return uint64_t{replicas[static_cast<size_t>(i)].running} + replicas[static_cast<size_t>(i)].waiting;
  };
  for (int i = 0; i < static_cast<int>(replicas.size()); ++i)
    if (replicas[static_cast<size_t>(i)].accepting && (best < 0 || load(i) < load(best))) best = i;
  return best;
}

RouterActor::behavior_type router(RouterActor::stateful_pointer<RouterState> self, RouterOptions options,
                                  GatewayActor gateway) {
  using Clock = std::chrono::steady_clock;
  const auto period = std::chrono::milliseconds(options.readiness_period_ms);
  return {
      [self, gateway, period](const Frame<msg::Generate>& frame) {
        RouterState& state = self->state;
        std::string why = "no pipeline has reported yet";
        for (size_t i = 0; i < state.loads.size(); ++i) {
          if (Clock::now() - state.heard[i] > period) {
            state.loads[i].accepting = false;
            state.loads[i].reason = "pipeline " + std::to_string(i) + " is silent";
          }
          if (!state.loads[i].accepting) why = state.loads[i].reason;
        }
        if (const int replica = choose_replica(state.loads); replica >= 0)
          return self->send(state.pipelines[static_cast<size_t>(replica)], frame);
        const msg::Reading request(frame);
        msg::FrameBuilder<msg::Rejected> rejected;
        rejected->setRequest(request->getReplyTo().getRequest());
        rejected->setAttempt(request->getAttempt());
        rejected->setReason(msg::Rejected::Reason::NOT_READY);
        rejected->setMessage(why);
        rejected->setRetryAfterMs(1000);
        self->send(gateway, std::move(rejected).finish());
      },
      [self](const Frame<msg::Cancel>& frame) {
        // Whoever does not run it ignores it.
        for (const PipelineActor& pipeline : self->state.pipelines) self->send(pipeline, frame);
      },
      [self](const Frame<msg::PipelineState>& frame) {
        const msg::Reading message(frame);
        RouterState& state = self->state;
        const size_t i = message->getPipeline();
        if (i >= state.pipelines.size()) return;
        state.loads[i] = {message->getAccepting(), message->getRunning(), message->getWaiting(),
                          message->getReason()};
        state.heard[i] = Clock::now();
      },
      [self](const AddPipeline& added) {
        self->state.pipelines.push_back(added.pipeline);
        self->state.loads.emplace_back();
        self->state.heard.emplace_back();
      },
  };
}

}  // namespace convoy::actors
