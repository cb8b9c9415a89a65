#pragma once
// Fiber: a function that can stop in the middle and go on later: a thread's stack without the thread. What
// blocks its thread in production runs on one in a simulation. All fibers and who runs them share one thread.

#include <ucontext.h>

#include <cstddef>
#include <functional>
#include <memory>

namespace sim {

class Fiber {
 public:
  Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Runs the body, which throws nothing, until it ends or stops.
  void start(std::function<void()> body);
  /// Runs it from where it stopped.
  void go_on();
  /// Called by the body. Returns when it goes on.
  void stop();
  /// Whether it is in the middle.
  bool stopped() const { return stopped_; }

 private:
  static constexpr size_t stack_bytes = 512 << 10;

  static void enter(unsigned high, unsigned low);
  void run();
  void leave();

  const std::unique_ptr<std::byte[]> stack_;  // not touched before it is used
  ucontext_t own_{}, caller_{};
  std::function<void()> body_;
  bool stopped_ = false;
  // What AddressSanitizer has to know of stacks.
  void *own_fake_ = nullptr, *caller_fake_ = nullptr;
  const void* caller_stack_ = nullptr;
  size_t caller_stack_bytes_ = 0;
};

}  // namespace sim
