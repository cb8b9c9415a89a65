#pragma once
// World: what a seed decides about a simulation: the pipeline's limits, what its steps cost, who asks for
// what and when, and when the pipeline is reset. The same seed makes the same world on every machine.

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "actors/schedule/scheduler.hpp"
#include "test/sim/stages.hpp"

namespace sim {

/// Its own, since those of the standard library differ between libraries.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(mix(seed, 0x5eed)) {}
  /// From low to high, both included.
  uint64_t between(uint64_t low, uint64_t high) { return low + engine_() % (high - low + 1); }
  bool chance(double p) { return static_cast<double>(engine_() >> 11) * 0x1p-53 < p; }
  /// Small values often, large ones seldom.
  uint64_t skewed(uint64_t low, uint64_t high) { return between(low, between(low, high)); }
  double time(double mean_us) {
    return -mean_us * std::log(1 - static_cast<double>(engine_() >> 11) * 0x1p-53);
  }

 private:
  std::mt19937_64 engine_;
};

/// What ends a request before its answer does.
enum class Ends : uint8_t { by_itself, cancelled, past_deadline };

struct Request {
  uint64_t number = 0;  // from 1; also its sampling seed, by which a slot is known to be its
  convoy::actors::NewSequence sequence;
  double arrives_us = 0;
  Ends ends = Ends::by_itself;
  double ends_after_us = 0;  // behind its arrival, unless it ended before
  bool new_group = false;    // it comes at once with others whose prompt nobody had before
  // Its answer, by Alone; the last token may be a fault.
  std::vector<convoy::gpu::SampledToken> answer;
  convoy::actors::FinishReason finish = convoy::actors::FinishReason::none;
};

struct World {
  uint64_t seed = 0;
  convoy::actors::SchedulerLimits limits;
  Costs costs;
  std::vector<Request> requests;  // by arrival
  std::vector<double> resets_us, canaries_us, cost_changes_us;
  double idle_chance = 0;  // that the pipeline does not plan at once
};

std::vector<int32_t> random_tokens(Random& random, uint64_t count);
World random_world(uint64_t seed, size_t requests);
/// The answer that a request shall have of so many layers (Alone).
void answer_alone(Request& request, size_t layers = 1);

}  // namespace sim
