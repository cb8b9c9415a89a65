#include "gateway/gateway_actor.hpp"

#include <kj/exception.h>

#include <optional>
#include <type_traits>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "actors/process/log.hpp"

namespace convoy::gateway {

namespace {

using actors::Frame;

/// Finds an answer's mailbox and posts to it: on a strand of the gateway's I/O threads, because the actor may
/// run on the links' thread, which has better to do than to take steps apart.
class Sorter : public std::enable_shared_from_this<Sorter> {
 public:
  /// away: why nobody is there yet; empty: somebody is.
  Sorter(const asio::any_io_executor& executor, std::string node, std::shared_ptr<ClusterReach> reach,
         std::string away)
      : strand_(asio::make_strand(executor)),
        node_(std::move(node)),
        reach_(std::move(reach)),
        away_{std::move(away), Mailbox::Clock::now()} {}

  /// Any thread; letters are taken in the order in which they are posted.
  template <class Letter>
  void post(Letter letter) {
    asio::post(strand_, [self = shared_from_this(), letter = std::move(letter)] { self->take(letter); });
  }
  /// Once the strand's threads have ended.
  void retire() { open_.clear(); }

 private:
  void take(const OpenMailbox& m) {
    if (!lost_.empty()) return m.mailbox->post(ClusterLost{lost_});
    open_.emplace(m.request, m.mailbox);
    if (away_.reason.empty()) return;
    waiting_.insert(m.request);
    m.mailbox->post(away_);
  }
  void take(const CloseMailbox& m) {
    open_.erase(m.request);
    waiting_.erase(m.request);
  }
  void take(const AwaitCluster& m) { waiting_.insert(m.request); }
  void take(const ClusterAway& away) {
    away_ = away;
    for (auto& [request, mailbox] : open_) {
      waiting_.insert(request);
      mailbox->post(away);
    }
  }
  /// A pipeline takes requests.
  void take(const ClusterServes& serves) {
    away_.reason.clear();
    for (const uint64_t request : std::exchange(waiting_, {}))
      if (const auto found = open_.find(request); found != open_.end()) found->second->post(serves);
  }
  void take(const ClusterLost& lost) {
    lost_ = lost.reason;
    for (auto& [request, mailbox] : open_) mailbox->post(lost);
    open_.clear();
  }
  /// A frame that cannot be read is dropped, not fatal.
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
    if (!post_to(request, frame) && std::is_same_v<T, schema::Accepted>) reach_->cancel(node_, request, {});
  }
  bool post_to(uint64_t request, Event event) {
    const auto found = open_.find(request);
    if (found == open_.end()) return false;
    found->second->post(std::move(event));
    return true;
  }

  const asio::strand<asio::any_io_executor> strand_;
  const std::string node_;
  const std::shared_ptr<ClusterReach> reach_;
  std::unordered_map<uint64_t, std::shared_ptr<Mailbox>> open_;
  std::unordered_set<uint64_t> waiting_;  // to ask anew, of those that are open
  ClusterAway away_;                      // with a reason while the head is away
  std::string lost_;                      // why the cluster cannot be reached; empty: it can
};

struct Mailroom {
  std::string node;
  std::shared_ptr<Readiness> readiness;
  std::shared_ptr<ClusterReach> reach;
  HeadSays says;
  std::shared_ptr<Sorter> sorter;  // null before ServeFrom: nobody waits for anything
  std::optional<HeadUp> head;      // that is linked, until its terms let us send anything
  std::string away;                // why nothing can be sent
  bool accepts = false;            // a pipeline of the head that is linked takes requests, or did

  template <class Letter>
  void sort(const Letter& letter) {
    if (sorter) sorter->post(letter);
  }

  void back() {
    if (!head) return;
    reach->set(std::move(head->cache), std::move(head->router));
    head.reset();
    away.clear();
    readiness->back();
    if (accepts) sort(ClusterServes{});
  }

  void lose(const std::string& reason) {
    reach->clear();
    head.reset();
    away = reason;
    accepts = false;
    readiness->away(reason);
    sort(ClusterAway{reason, Mailbox::Clock::now()});
  }

  void heard(const Frame<schema::PipelineState>& frame) {
    try {
      schema::Reading state(frame);
      PipelineView view;
      view.model = state->getModel().cStr();
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
      readiness->heard(state->getName(), std::move(view), Readiness::Clock::now());
      accepts = accepts || state->getAccepting();
      if (away.empty() && state->getAccepting()) sort(ClusterServes{});
    } catch (const kj::Exception& e) {
      log::warn_limited("gateway.bad_frame", {{"type", "PipelineState"}, {"why", e.getDescription().cStr()}});
    }
  }
};

MailroomActor::behavior_type mailroom(MailroomActor::stateful_pointer<Mailroom> self, Mailroom begins) {
  self->state = std::move(begins);
  self->set_down_handler(
      [self](const caf::down_msg&) { self->state.sort(ClusterLost{"the cache or the router is gone"}); });
  return {
      [self](const Frame<schema::Accepted>& f) { self->state.sort(f); },
      [self](const Frame<schema::Rejected>& f) { self->state.sort(f); },
      [self](const Frame<schema::StepTokens>& f) { self->state.sort(f); },
      [self](const Frame<schema::Tokens>& f) { self->state.sort(f); },
      [self](const Frame<schema::Finished>& f) { self->state.sort(f); },
      [self](const Frame<schema::PipelineState>& f) { self->state.heard(f); },
      [self](const Frame<schema::GatewayTerms>& f) {
        if (self->state.says.terms && self->state.says.terms(f)) self->state.back();
      },
      [self](const Frame<schema::GatewayKeys>& f) {
        if (self->state.says.keys) self->state.says.keys(f);
      },
      [self](const Frame<schema::Shutdown>&) {
        if (self->state.says.shut_down) self->state.says.shut_down();
      },
      [self](const OpenMailbox& m) { self->state.sort(m); },
      [self](const CloseMailbox& m) { self->state.sort(m); },
      [self](const AwaitCluster& m) { self->state.sort(m); },
      [self](const ServeFrom& peers) {
        Mailroom& state = self->state;
        state.sorter = std::make_shared<Sorter>(peers.executor, state.node, state.reach, state.away);
        if (peers.cache) self->monitor(peers.cache);
        if (peers.router) self->monitor(peers.router);
      },
      [self](const HeadUp& up) { self->state.head = up; },
      [self](const HeadAway& away) { self->state.lose(away.reason); },
      [self](const Retire&) {
        if (self->state.sorter) self->state.sorter->retire();
        self->quit();
      },
  };
}

}  // namespace

Line open_line(caf::actor_system& system, std::string node, std::chrono::milliseconds readiness_period,
               std::vector<std::string> models, std::optional<HeadSays> says) {
  Line line{std::make_shared<Readiness>(readiness_period, std::move(models)),
            std::make_shared<ClusterReach>(),
            {},
            says.has_value()};
  Mailroom begins;
  begins.node = std::move(node);
  begins.readiness = line.readiness;
  begins.reach = line.reach;
  if (says) {
    begins.away = "no head is linked yet";
    begins.says = std::move(*says);
    line.readiness->away(begins.away);
  }
  line.mailroom = system.spawn(mailroom, std::move(begins));
  return line;
}

}  // namespace convoy::gateway
