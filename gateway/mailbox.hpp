#pragma once
// Mailbox: everything that can happen to the answers of one request, in order. The gateway actor posts what
// the cluster says, from any thread; what ends the request early is put in front, on the session's strand,
// where the session takes events out.

#include <algorithm>
#include <boost/asio.hpp>
#include <chrono>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "schema/frame.hpp"

namespace convoy::gateway {

namespace asio = boost::asio;

/// One answer's part of a step.
struct StepAnswer {
  schema::Frame<schema::StepTokens> step;
  uint32_t index;  // of its answers
};
struct StepEnd {
  schema::Frame<schema::StepTokens> step;
  uint32_t index;  // of those that finished
};
struct ClusterLost {  // cache or router are gone: nothing more will come
  std::string reason;
};
struct ClusterAway {  // what it was asked for it has forgotten: it may be asked anew
  std::string reason;
  std::chrono::steady_clock::time_point since;
};
struct ClusterServes {};  // the time to do that
struct AwayTooLong {};    // it did not come
struct ClientGone {};
struct Stopping {};  // this gateway shuts down
struct DeadlineOver {};

using Event =
    std::variant<schema::Frame<schema::Accepted>, schema::Frame<schema::Rejected>, StepAnswer, StepEnd,
                 schema::Frame<schema::Tokens>, schema::Frame<schema::Finished>, ClusterLost, ClusterAway,
                 ClusterServes, AwayTooLong, ClientGone, Stopping, DeadlineOver>;

class Mailbox : public std::enable_shared_from_this<Mailbox> {
 public:
  using Clock = std::chrono::steady_clock;
  /// executor: the session's strand.
  Mailbox(asio::any_io_executor executor, Clock::time_point deadline)
      : timer_(executor), deadline_(deadline) {}

  /// Any thread. An answer has at most two messages more than tokens, so the queue needs no limit of its own.
  void post(Event event) {
    asio::post(timer_.get_executor(), [self = shared_from_this(), event = std::move(event)]() mutable {
      self->put(std::move(event));
    });
  }
  /// On the strand: ahead of what the cluster sent.
  void interrupt(Event event) {
    events_.push_front(std::move(event));
    timer_.cancel();
  }
  /// On the strand: from then on, AwayTooLong is what comes once nothing else does. Nothing: not at all.
  void patience_until(std::optional<Clock::time_point> at) { patience_until_ = at; }
  /// On the strand, one waiter: the next event, or DeadlineOver.
  asio::awaitable<Event> next() {
    while (events_.empty()) {
      const auto now = Clock::now();
      if (now >= deadline_) co_return DeadlineOver{};
      if (patience_until_ && now >= *patience_until_) co_return AwayTooLong{};
      timer_.expires_at(patience_until_ ? std::min(deadline_, *patience_until_) : deadline_);
      boost::system::error_code woken;
      co_await timer_.async_wait(asio::redirect_error(asio::use_awaitable, woken));
    }
    Event event = std::move(events_.front());
    events_.pop_front();
    co_return event;
  }
  bool empty() const { return events_.empty(); }

 private:
  void put(Event event) {
    events_.push_back(std::move(event));
    timer_.cancel();
  }
  std::deque<Event> events_;
  asio::steady_timer timer_;
  Clock::time_point deadline_;
  std::optional<Clock::time_point> patience_until_;
};

}  // namespace convoy::gateway
