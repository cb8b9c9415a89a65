#include <cstring>
#include <stdexcept>

#include "bench/links.hpp"

namespace convoy::bench {

namespace {

constexpr std::chrono::microseconds ping_pause{1000};
constexpr double warm_up = 0.1;  // of the time

double us(std::chrono::steady_clock::duration time) {
  return std::chrono::duration<double, std::micro>(time).count();
}

}  // namespace

// A step's result for one sequence, with a second token's logprob: about a hundred bytes.
Message small_message(Ask ask) {
  schema::FrameBuilder<schema::StepResult> result;
  result->setEpoch(static_cast<uint64_t>(ask));
  auto token = result->initSequences(1)[0].initTokens(1)[0];
  token.setId(1);
  token.initTop(1)[0].setId(2);
  return {schema::Lane::control, ask, std::move(result).finish().bytes()};
}

Message large_message(Ask ask, size_t hidden_bytes) {
  schema::DataFrameBuilder<schema::Activations> hidden(64, hidden_bytes);
  hidden->initPlan().setEpoch(static_cast<uint64_t>(ask));
  std::memset(hidden.data().data(), 7, hidden_bytes);
  return {schema::Lane::bulk, ask, std::move(hidden).finish().bytes()};
}

void Exchange::begin(Carrier& carrier) {
  begin_ = Clock::now();
  const auto part = [this](double share) {
    return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(plan_.seconds * share));
  };
  warm_ = begin_ + part(warm_up);
  until_ = begin_ + part(1);
  while (on_their_way_ < plan_.window) send(carrier);
  if (plan_.pings) ping(carrier);
}

void Exchange::send(Carrier& carrier) {
  ++on_their_way_;
  sent_ = Clock::now();
  carrier.send(plan_.message);
}

void Exchange::ping(Carrier& carrier) {
  ping_is_out_ = true;
  pinged_ = Clock::now();
  carrier.send(ping_);
}

void Exchange::answered(Carrier& carrier, Ask ask, size_t bytes) {
  const auto now = Clock::now();
  if (plan_.pings && ask == Ask::echo) {
    // Once the others have ended it is alone, and says nothing of them any more.
    if (pinged_ >= warm_ && goes_on(now)) pings_us_.push_back(us(now - pinged_));
    return carrier.wake_after(ping_pause);
  }
  const size_t due = ask == Ask::echo ? plan_.message.bytes->size() : ping_.bytes->size();
  if (bytes != due || ask != plan_.message.ask || on_their_way_ == 0)
    throw std::runtime_error("an answer of " + std::to_string(bytes) + " bytes, expected " +
                             std::to_string(due));
  --on_their_way_;
  if (sent_ >= warm_ && plan_.window == 1) round_trips_us_.push_back(us(now - sent_));
  const bool more = goes_on(now);
  if (now >= warm_ && more) {
    if (answered_++ == 0) first_ = now;
    last_ = now;
  }
  if (more) return send(carrier);
  end_if_quiet();
}

void Exchange::woken(Carrier& carrier) {
  ping_is_out_ = false;
  if (goes_on(Clock::now())) return ping(carrier);
  end_if_quiet();
}

/// Until the time is up and there is something to tell.
bool Exchange::goes_on(Clock::time_point now) const {
  return now < until_ || answered_ < 2 || (plan_.pings && pings_us_.empty());
}

void Exchange::end_if_quiet() { ended_ = on_their_way_ == 0 && !ping_is_out_; }

double Exchange::messages_per_s() const {
  return static_cast<double>(answered_ - 1) / std::chrono::duration<double>(last_ - first_).count();
}

double Exchange::bytes_per_s() const {
  return messages_per_s() * static_cast<double>(plan_.message.bytes->size());
}

}  // namespace convoy::bench
