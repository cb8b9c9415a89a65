#pragma once
// What a template may use while it renders, and where it is: every piece of the interpreter charges the meter
// before it works, so that a template made to exhaust us is refused. Of one rendering, on its thread.

#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <string>
#include <utility>

#include "model/error.hpp"

namespace convoy::model::jinja {

/// Of one rendering.
struct Limits {
  uint64_t steps_max = 10'000'000;           // statements, expressions and elements that it looks at
  uint64_t bytes_max = uint64_t{256} << 20;  // of text and lists that it makes or reads, all together
  uint32_t depth_max = 400;                  // of what is under way at once, macros that call macros included
};

/// Of a template's text; published ones stay far below.
inline constexpr size_t template_bytes_max = size_t{1} << 20;
inline constexpr size_t nesting_max = 100;  // of statements and expressions
inline constexpr size_t values_nesting_max =
    64;  // of lists in lists; what JSON brings is held to json_depth_max
inline constexpr int64_t range_max = 100'000;  // as jinja2's sandbox

inline std::string place_of(int line) { return "chat template, line " + std::to_string(line); }

[[noreturn]] inline void fail_at(int line, std::string what, std::string mend = "") {
  throw InputError(std::move(what), place_of(line), std::move(mend));
}

class Meter {
 public:
  explicit Meter(const Limits& limits) : limits_(limits) {}

  void steps(uint64_t count) {
    steps_ += count;
    if (steps_ > limits_.steps_max) too_much("steps", limits_.steps_max);
  }
  void bytes(uint64_t count) {
    bytes_ += count;
    if (bytes_ > limits_.bytes_max) too_much("bytes of text and lists", limits_.bytes_max);
  }
  /// For values that live as long as the rendering, freed as a whole: a conversation of a hundred thousand
  /// messages is three times as many pieces. What bytes() counted bounds it.
  std::pmr::memory_resource* memory() { return &memory_; }
  std::string place() const { return place_of(line_); }
  [[noreturn]] void fail(std::string what, std::string mend = "") const {
    fail_at(line_, std::move(what), std::move(mend));
  }

  /// One statement or expression under way.
  class Level {
   public:
    Level(Meter& meter, int line) : meter_(meter), line_outside_(std::exchange(meter.line_, line)) {
      meter.steps(1);
      if (meter.depth_ == meter.limits_.depth_max)
        meter.fail("goes more than " + std::to_string(meter.limits_.depth_max) + " levels deep",
                   "use a simpler template");
      meter.depth_++;
    }
    ~Level() {
      meter_.depth_--;
      meter_.line_ = line_outside_;
    }
    Level(const Level&) = delete;

   private:
    Meter& meter_;
    int line_outside_;
  };

 private:
  [[noreturn]] void too_much(const char* what, uint64_t limit) const {
    fail("needs more than " + std::to_string(limit) + " " + what, "shorten the conversation");
  }

  Limits limits_;
  std::pmr::monotonic_buffer_resource memory_;
  uint64_t steps_ = 0, bytes_ = 0;
  size_t depth_ = 0;
  int line_ = 1;
};

}  // namespace convoy::model::jinja
