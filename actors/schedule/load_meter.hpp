#pragma once
// LoadMeter: how fast a pipeline reads prompts and finishes sequences, as measured, and how long one that
// comes would wait by that. Pure, without a clock. The scheduler owns it.

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace convoy::actors {

class LoadMeter {
 public:
  using Micros = std::chrono::microseconds;

  /// Steps took so long for so many tokens of prompts.
  void read(uint64_t tokens, Micros took) { tokens_.add(static_cast<double>(tokens), took); }
  /// So many sequences finished in that time, while others waited for their places.
  void finished(size_t sequences, Micros took) { finishes_.add(static_cast<double>(sequences), took); }

  /// Of one that so many wait ahead of, and that many more could run beside those that do: until one of them
  /// finishes for each that has no place (Little's law), and until the prompts ahead are read. Rates that
  /// were not measured yet count as infinite.
  Micros wait(size_t waiting, size_t places, uint64_t prompt_tokens) const {
    const double ahead = waiting < places ? 0 : static_cast<double>(waiting - places + 1);
    return Micros(static_cast<int64_t>(finishes_.time_for(ahead) +
                                       tokens_.time_for(static_cast<double>(prompt_tokens))));
  }

 private:
  /// Older ones fade: the latest `memory` count most.
  class Rate {
   public:
    void add(double amount, Micros took) {
      const auto us = static_cast<double>(took.count());
      const double keep = memory_us / (memory_us + us);
      amount_ = keep * amount_ + amount;
      us_ = keep * us_ + us;
    }
    double time_for(double amount) const { return amount_ > 0 ? amount * us_ / amount_ : 0; }

   private:
    static constexpr double memory_us = 10e6;
    double amount_ = 0, us_ = 0;
  };
  Rate tokens_, finishes_;
};

}  // namespace convoy::actors
