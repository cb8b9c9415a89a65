#include "gateway/gateway_actor.hpp"

#include <kj/exception.h>

#include <type_traits>
#include <unordered_map>

#include "actors/process/log.hpp"

namespace convoy::gateway {

namespace {

using actors::Frame;

struct Mailroom {
  std::string node;
  std::shared_ptr<Readiness> readiness;
  actors::RouterActor router;  // null before ServeFrom
  std::unordered_map<uint64_t, std::shared_ptr<Mailbox>> open;
  std::string lost;  // why the cluster cannot be reached; empty: it can

  /// A frame that cannot be read is dropped, not fatal. In this version frames come from this process alone
  /// (link_roles.cpp).
  template <class T>
  void deliver(const Frame<T>& frame) {
    try {
      const uint64_t request = schema::Reading<T>(frame)->getRequest();
      const auto it = open.find(request);
      if (it != open.end()) return it->second->post(frame);
      // Its Cancel overtook it while the cache still looked it up.
      if (std::is_same_v<T, schema::Accepted> && router) cancel(router, node, request);
    } catch (const kj::Exception& e) {
      log::warn_limited("gateway.bad_frame",
                        {{"type", schema::FrameTraits<T>::name}, {"why", e.getDescription().cStr()}});
    }
  }

  void heard(const Frame<schema::PipelineState>& frame) {
    try {
      schema::Reading state(frame);
      PipelineView view;
      view.ready = state->getReady();
      view.reason = state->getReason().cStr();
      view.running = state->getRunning();
      view.waiting = state->getWaiting();
      view.kv_blocks_used = state->getKvBlocksUsed();
      view.kv_blocks = state->getKvBlocksTotal();
      view.steps_in_flight = state->getStepsInFlight();
      view.micro_batches = state->getMicroBatches();
      view.rows_per_step = state->getRowsPerStep();
      for (auto stage : state->getStages())
        view.stages.push_back(
            {stage.getHealth() == schema::Health::READY, stage.getRestarts(), stage.getKernelVariant()});
      readiness->heard(state->getPipeline(), std::move(view), Readiness::Clock::now());
    } catch (const kj::Exception& e) {
      log::warn_limited("gateway.bad_frame", {{"type", "PipelineState"}, {"why", e.getDescription().cStr()}});
    }
  }

  void lose(const std::string& reason) {
    lost = reason;
    for (auto& [request, mailbox] : open) mailbox->post(ClusterLost{reason});
    open.clear();
  }
};

MailroomActor::behavior_type mailroom(MailroomActor::stateful_pointer<Mailroom> self, std::string node,
                                      std::shared_ptr<Readiness> readiness) {
  self->state.node = std::move(node);
  self->state.readiness = std::move(readiness);
  self->set_down_handler(
      [self](const caf::down_msg&) { self->state.lose("the cache or the router is gone"); });
  return {
      [self](const Frame<schema::Accepted>& f) { self->state.deliver(f); },
      [self](const Frame<schema::Rejected>& f) { self->state.deliver(f); },
      [self](const Frame<schema::Tokens>& f) { self->state.deliver(f); },
      [self](const Frame<schema::Finished>& f) { self->state.deliver(f); },
      [self](const Frame<schema::PipelineState>& f) { self->state.heard(f); },
      [self](const OpenMailbox& m) {
        if (self->state.lost.empty())
          self->state.open.emplace(m.request, m.mailbox);
        else
          m.mailbox->post(ClusterLost{self->state.lost});
      },
      [self](const CloseMailbox& m) { self->state.open.erase(m.request); },
      [self](const ServeFrom& peers) {
        self->state.router = peers.router;
        self->monitor(peers.cache);
        self->monitor(peers.router);
      },
      [self](const Retire&) {
        self->state.open.clear();
        self->quit();
      },
  };
}

}  // namespace

MailroomActor spawn_gateway_actor(caf::actor_system& system, std::string node,
                                  std::shared_ptr<Readiness> readiness) {
  return system.spawn(mailroom, std::move(node), std::move(readiness));
}

void cancel(const actors::RouterActor& router, const std::string& node, uint64_t request) {
  schema::FrameBuilder<schema::Cancel> cancel;
  cancel->initReplyTo().setNode(node);
  cancel->getReplyTo().setRequest(request);
  actors::mail(router, std::move(cancel).finish());
}

}  // namespace convoy::gateway
