#pragma once
// What the link tests share: an actor that answers every plan, a recorder for its answers, and frames for
// both.

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <fstream>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "actors/link/link.hpp"
#include "test/patience.hpp"

namespace rig {

using namespace convoy::actors;
using namespace std::chrono_literals;
using convoy::schema::FrameBuilder;
using convoy::schema::Reading;
using convoy::schema::Role;
using convoy::test::patience, convoy::test::patience_ms, convoy::test::sanitized;
using Clock = std::chrono::steady_clock;

using ReplyActor = caf::typed_actor<caf::reacts_to<Frame<msg::StepResult>>>;
using EchoActor = caf::typed_actor<caf::reacts_to<Frame<msg::Assign>>,        // dies if the epoch says so
                                   caf::reacts_to<Frame<msg::StepPlan>>,      // answered
                                   caf::reacts_to<Frame<msg::Activations>>>;  // answered with their size

inline const std::string secret(32, 's');

/// What both sides of a test's link have, unless it says otherwise.
inline LinkOptions options_of(std::string cluster = "test", bool unix_sockets = true) {
  LinkOptions options;
  options.cluster = std::move(cluster);
  options.secret = secret;
  options.unix_sockets = unix_sockets;
  return options;
}

constexpr uint64_t die_epoch = 666;  // Assign{epoch} that makes the echo quit

inline Frame<msg::StepPlan> plan(uint64_t step) {
  FrameBuilder<msg::StepPlan> builder;
  builder->setStep(step);
  return std::move(builder).finish();
}

inline Frame<msg::Activations> activations(uint64_t step, size_t bytes) {
  FrameBuilder<msg::Activations> builder(bytes / 8 + 64);
  builder->initPlan().setStep(step);
  std::memset(builder->initData(static_cast<unsigned>(bytes)).begin(), 7, bytes);
  return std::move(builder).finish();
}

inline Frame<msg::Assign> die() {
  FrameBuilder<msg::Assign> builder;
  builder->setEpoch(die_epoch);
  return std::move(builder).finish();
}

inline Frame<msg::StepResult> result(uint64_t step, uint64_t epoch) {
  FrameBuilder<msg::StepResult> builder;
  builder->setStep(step);
  builder->setEpoch(epoch);
  return std::move(builder).finish();
}

/// Answers a plan with a result of the same step; hidden states with a result whose epoch is their size.
inline EchoActor::behavior_type echo(EchoActor::pointer self, std::function<ReplyActor()> reply) {
  return {[self](const Frame<msg::Assign>& frame) {
            const Reading assign(frame);
            if (assign->getEpoch() == die_epoch) self->quit(caf::exit_reason::user_shutdown);
          },
          [reply](const Frame<msg::StepPlan>& frame) {
            const Reading plan(frame);
            mail(reply(), result(plan->getStep(), 0));
          },
          [reply](const Frame<msg::Activations>& frame) {
            const Reading hidden(frame);
            mail(reply(), result(hidden->getPlan().getStep(), hidden->getData().size()));
          }};
}

/// The steps of the results that came, in order.
class Record {
 public:
  void add(uint64_t step, uint64_t epoch) {
    const std::lock_guard lock(mutex_);
    if (epoch == 0)
      steps_.push_back(step);
    else
      ++hidden_;
    changed_.notify_all();
  }
  bool wait_for(size_t steps, std::chrono::milliseconds time = patience) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, time, [&] { return steps_.size() >= steps; });
  }
  std::vector<uint64_t> steps() {
    const std::lock_guard lock(mutex_);
    return steps_;
  }
  size_t hidden() {
    const std::lock_guard lock(mutex_);
    return hidden_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<uint64_t> steps_;
  size_t hidden_ = 0;
};

inline ReplyActor::behavior_type recorder(ReplyActor::pointer, std::shared_ptr<Record> record) {
  return {[record](const Frame<msg::StepResult>& frame) {
    const Reading result(frame);
    record->add(result->getStep(), result->getEpoch());
  }};
}

/// A value that another thread sets.
template <class T>
class Slot {
 public:
  void set(T value) {
    const std::lock_guard lock(mutex_);
    value_ = std::move(value);
    changed_.notify_all();
  }
  std::optional<T> wait(std::chrono::milliseconds time = patience) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, time, [&] { return value_.has_value(); });
    return value_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<T> value_;
};

/// How many connections the Unix-domain socket beside that port has accepted that are still open.
inline size_t unix_connections(uint16_t port) {
  const std::string name = " @convoy/127.0.0.1:" + std::to_string(port);
  std::ifstream table("/proc/net/unix");
  size_t connected = 0;
  for (std::string line; std::getline(table, line);)
    connected += line.ends_with(name) && line.find(" 0001 03 ") != std::string::npos;  // stream, connected
  return connected;
}

inline double in_ms(Clock::duration time) { return std::chrono::duration<double, std::milli>(time).count(); }

inline PeerIdentity identity(std::string node, Role role, uint32_t instance, uint64_t incarnation) {
  return {.node = std::move(node),
          .role = role,
          .instance = instance,
          .incarnation = incarnation,
          .pid = getpid()};
}

}  // namespace rig
