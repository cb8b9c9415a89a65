#include "gateway/gateway_actor.hpp"

#include <kj/exception.h>

#include <type_traits>
#include <unordered_map>

#include "actors/process/log.hpp"

namespace convoy::gateway {

namespace {

using actors::Frame;

/// Finds an answer's mailbox and posts to it: on a strand of the gateway's I/O threads, because the actor may
/// run on the links' thread, which has better to do than to take steps apart.
class Sorter : public std::enable_shared_from_this<Sorter> {
 public:
  Sorter(const asio::any_io_executor& executor, std::string node, actors::RouterActor router)
      : strand_(asio::make_strand(executor)), node_(std::move(node)), router_(std::move(router)) {}

  /// Any thread; letters are taken in the order in which they are posted.
  template <class Letter>
  void post(Letter letter) {
    asio::post(strand_, [self = shared_from_this(), letter = std::move(letter)] { self->take(letter); });
  }
  /// Once the strand's threads have ended.
  void retire() { open_.clear(); }

 private:
  void take(const OpenMailbox& m) {
    if (lost_.empty())
      open_.emplace(m.request, m.mailbox);
    else
      m.mailbox->post(ClusterLost{lost_});
  }
  void take(const CloseMailbox& m) { open_.erase(m.request); }
  void take(const ClusterLost& lost) {
    lost_ = lost.reason;
    for (auto& [request, mailbox] : open_) mailbox->post(lost);
    open_.clear();
  }
  /// A frame that cannot be read is dropped, not fatal. In this version frames come from this process alone
  /// (link_roles.cpp).
  template <class T>
  void take(const Frame<T>& frame) {
    try {
      hand_out(frame);
    } catch (const kj::Exception& e) {
      log::warn_limited("gateway.bad_frame",
                        {{"type", schema::FrameTraits<T>::name}, {"why", e.getDescription().cStr()}});
    }
  }
  void hand_out(const Frame<schema::StepTokens>& frame) {
    const schema::Reading step(frame);
    const auto answers = step->getAnswers();
    for (uint32_t i = 0; i < answers.size(); ++i) post_to(answers[i].getRequest(), StepAnswer{frame, i});
    const auto finished = step->getFinished();
    for (uint32_t i = 0; i < finished.size(); ++i) post_to(finished[i].getRequest(), StepEnd{frame, i});
  }
  template <class T>
  void hand_out(const Frame<T>& frame) {
    const uint64_t request = schema::Reading<T>(frame)->getRequest();
    // If nobody waits for what a pipeline begins with, its Cancel overtook it while the cache looked it up.
    if (!post_to(request, frame) && std::is_same_v<T, schema::Accepted>) cancel(router_, node_, request);
  }
  bool post_to(uint64_t request, Event event) {
    const auto found = open_.find(request);
    if (found == open_.end()) return false;
    found->second->post(std::move(event));
    return true;
  }

  const asio::strand<asio::any_io_executor> strand_;
  const std::string node_;
  const actors::RouterActor router_;
  std::unordered_map<uint64_t, std::shared_ptr<Mailbox>> open_;
  std::string lost_;  // why the cluster cannot be reached; empty: it can
};

struct Mailroom {
  std::string node;
  std::shared_ptr<Readiness> readiness;
  std::shared_ptr<Sorter> sorter;  // null before ServeFrom: nobody waits for anything

  template <class Letter>
  void sort(const Letter& letter) {
    if (sorter) sorter->post(letter);
  }

  void heard(const Frame<schema::PipelineState>& frame) {
    try {
      schema::Reading state(frame);
      PipelineView view;
      view.ready = state->getReady();
      view.reason = state->getReason().cStr();
      view.overloaded = state->getOverloaded();
      view.retry_after_ms = state->getRetryAfterMs();
      view.wait_estimate_ms = state->getWaitEstimateMs();
      view.running = state->getRunning();
      view.waiting = state->getWaiting();
      view.kv_blocks_used = state->getKvBlocksUsed();
      view.kv_blocks = state->getKvBlocksTotal();
      view.kv_blocks_cached = state->getCachedBlocks();
      if (state->getWaiting() > 0)
        view.waiting_for = state->getWaitingFor() == schema::WaitingFor::SLOTS ? "slots" : "blocks";
      const auto counters = state->getCounters();
      view.counters = {counters.getPromptTokens(),  counters.getCachedTokens(),   counters.getPreemptions(),
                       counters.getDraftedTokens(), counters.getAcceptedTokens(), counters.getSavedBlocks(),
                       counters.getLoadedBlocks()};
      view.steps_in_flight = state->getStepsInFlight();
      view.micro_batches = state->getMicroBatches();
      view.rows_per_step = state->getRowsPerStep();
      for (auto stage : state->getStages())
        view.stages.push_back({stage.getHealth() == schema::Health::READY, stage.getRestarts(),
                               stage.getKernelVariant(), stage.getBubbleRatio()});
      readiness->heard(state->getPipeline(), std::move(view), Readiness::Clock::now());
    } catch (const kj::Exception& e) {
      log::warn_limited("gateway.bad_frame", {{"type", "PipelineState"}, {"why", e.getDescription().cStr()}});
    }
  }
};

MailroomActor::behavior_type mailroom(MailroomActor::stateful_pointer<Mailroom> self, std::string node,
                                      std::shared_ptr<Readiness> readiness) {
  self->state.node = std::move(node);
  self->state.readiness = std::move(readiness);
  self->set_down_handler(
      [self](const caf::down_msg&) { self->state.sort(ClusterLost{"the cache or the router is gone"}); });
  return {
      [self](const Frame<schema::Accepted>& f) { self->state.sort(f); },
      [self](const Frame<schema::Rejected>& f) { self->state.sort(f); },
      [self](const Frame<schema::StepTokens>& f) { self->state.sort(f); },
      [self](const Frame<schema::Tokens>& f) { self->state.sort(f); },
      [self](const Frame<schema::Finished>& f) { self->state.sort(f); },
      [self](const Frame<schema::PipelineState>& f) { self->state.heard(f); },
      [self](const OpenMailbox& m) { self->state.sort(m); },
      [self](const CloseMailbox& m) { self->state.sort(m); },
      [self](const ServeFrom& peers) {
        self->state.sorter = std::make_shared<Sorter>(peers.executor, self->state.node, peers.router);
        self->monitor(peers.cache);
        self->monitor(peers.router);
      },
      [self](const Retire&) {
        if (self->state.sorter) self->state.sorter->retire();
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
