#include "test/sim/fiber.hpp"

#include <cassert>
#include <cstdint>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace sim {

namespace {

void begin_switch([[maybe_unused]] void** fake, [[maybe_unused]] const void* to,
                  [[maybe_unused]] size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(fake, to, bytes);
#endif
}

void end_switch([[maybe_unused]] void* fake, [[maybe_unused]] const void** from,
                [[maybe_unused]] size_t* bytes) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fake, from, bytes);
#endif
}

}  // namespace

Fiber::Fiber() : stack_(new std::byte[stack_bytes]) {
  getcontext(&own_);
  own_.uc_stack.ss_sp = stack_.get();
  own_.uc_stack.ss_size = stack_bytes;
  const auto self = reinterpret_cast<uintptr_t>(this);
  makecontext(&own_, reinterpret_cast<void (*)()>(&enter), 2, static_cast<unsigned>(self >> 32),
              static_cast<unsigned>(self));
}

void Fiber::enter(unsigned high, unsigned low) {
  Fiber& self = *reinterpret_cast<Fiber*>(uintptr_t{high} << 32 | low);
  end_switch(nullptr, &self.caller_stack_, &self.caller_stack_bytes_);
  for (;;) {
    self.body_();
    self.body_ = nullptr;
    self.leave();
  }
}

void Fiber::run() {
  begin_switch(&caller_fake_, stack_.get(), stack_bytes);
  swapcontext(&caller_, &own_);
  end_switch(caller_fake_, nullptr, nullptr);
}

void Fiber::leave() {
  begin_switch(&own_fake_, caller_stack_, caller_stack_bytes_);
  swapcontext(&own_, &caller_);
  end_switch(own_fake_, &caller_stack_, &caller_stack_bytes_);
}

void Fiber::start(std::function<void()> body) {
  assert(!body_);
  body_ = std::move(body);
  run();
}

void Fiber::go_on() {
  assert(stopped_);
  stopped_ = false;
  run();
}

void Fiber::stop() {
  stopped_ = true;
  leave();
}

}  // namespace sim
