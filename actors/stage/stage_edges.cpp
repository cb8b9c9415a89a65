#include "actors/stage/stage_edges.hpp"

#include <algorithm>
#include <utility>

namespace convoy::actors {

using gpu::EdgeEnd;
using gpu::EdgeState;

bool edge_possible(const PeerIdentity& a, const PeerIdentity& b) {
  return a.edges && b.edges && a.hidden_form == b.hidden_form && !a.machine.empty() &&
         a.machine == b.machine && !a.card.empty() && !b.card.empty() && a.card != b.card;
}

StageEdges::StageEdges(PeerIdentity own, uint32_t timeout_ms, Neighbours neighbours)
    : own_(std::move(own)), timeout_(timeout_ms), neighbours_(std::move(neighbours)) {}

void StageEdges::begin(gpu::Engine* engine, uint64_t epoch) {
  engine_ = engine;
  epoch_ = epoch;
  to_next_ = from_before_ = EdgeState::none;
  other_end_is_up_ = false;
  reason_.clear();
  join();
}

bool StageEdges::forming() const {
  return to_next_ == EdgeState::forming || from_before_ == EdgeState::forming;
}

void StageEdges::offer(const PeerIdentity& next, Clock::time_point now) {
  if (!engine_ || engine_->last() || to_next_ != EdgeState::none || !edge_possible(own_, next)) return;
  const gpu::EdgeKey key = engine_->offer_edge();
  to_next_ = EdgeState::forming;
  deadline_ = now + timeout_;
  msg::FrameBuilder<msg::EdgeOffer> frame;
  frame->setEpoch(epoch_);
  std::ranges::copy(key.bytes, reinterpret_cast<std::byte*>(frame->initKey(sizeof key.bytes).begin()));
  neighbours_.next(std::move(frame).finish());
}

void StageEdges::offered(const Frame<msg::EdgeOffer>& offer, StageActor by) {
  offer_ = offer;
  offered_by_ = std::move(by);
  join();
}

/// Takes up an offer of this epoch: a later one's has to wait, an earlier one's is void.
void StageEdges::join() {
  if (!engine_ || !offer_ || msg::Reading(offer_)->getEpoch() != epoch_) return;
  const auto frame = std::exchange(offer_, {});
  const msg::Reading offer(frame);
  const auto bytes = offer->getKey();
  from_before_ = EdgeState::none;
  gpu::EdgeKey key;
  if (bytes.size() == 0) {  // it is taken back
    engine_->end_edge(EdgeEnd::from_before);
  } else if (bytes.size() != sizeof key.bytes) {
    reply(false, "a key of " + std::to_string(bytes.size()) + " bytes");
  } else if (!own_.edges || engine_->first()) {
    reply(false, "this stage takes no edge");
  } else {
    std::ranges::copy(std::as_bytes(std::span(bytes.begin(), bytes.size())), key.bytes);
    engine_->join_edge(key);
    from_before_ = EdgeState::forming;
  }
}

void StageEdges::answered(const Frame<msg::EdgeReply>& frame) {
  const msg::Reading reply(frame);
  if (reply->getEpoch() != epoch_ || to_next_ != EdgeState::forming) return;
  other_end_is_up_ = reply->getUp();
  if (!other_end_is_up_) give_up("the next stage: " + std::string(reply->getReason().cStr()));
}

void StageEdges::look(Clock::time_point now) {
  if (from_before_ == EdgeState::forming) look_before();
  if (to_next_ == EdgeState::forming) look_next(now);
}

void StageEdges::look_before() {
  const gpu::EdgeStatus edge = engine_->edge_status(EdgeEnd::from_before);
  if (edge.state == EdgeState::forming) return;
  from_before_ = edge.state;
  if (edge.state == EdgeState::failed) engine_->end_edge(EdgeEnd::from_before);
  reply(edge.state == EdgeState::up, edge.reason);
}

void StageEdges::look_next(Clock::time_point now) {
  const gpu::EdgeStatus edge = engine_->edge_status(EdgeEnd::to_next);
  if (edge.state == EdgeState::failed)
    give_up(edge.reason);
  else if (edge.state == EdgeState::up && other_end_is_up_)
    to_next_ = EdgeState::up;
  else if (now > deadline_)
    give_up("it did not come up within stage.edge_timeout_ms");
}

void StageEdges::reply(bool up, const std::string& reason) {
  msg::FrameBuilder<msg::EdgeReply> frame;
  frame->setEpoch(epoch_);
  frame->setUp(up);
  frame->setReason(reason);
  neighbours_.before(offered_by_, std::move(frame).finish());
}

/// Hidden states go by frames in this epoch. The next stage has to end its end, which may be up.
void StageEdges::give_up(const std::string& reason) {
  to_next_ = EdgeState::failed;
  reason_ = reason;
  msg::FrameBuilder<msg::EdgeOffer> frame;
  frame->setEpoch(epoch_);
  neighbours_.next(std::move(frame).finish());
  engine_->end_edge(EdgeEnd::to_next);
}

}  // namespace convoy::actors
