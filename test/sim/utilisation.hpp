#pragma once
// Utilisation: how busy a pipeline's stages are under a load, in virtual time. The production scheduler
// plans, ChainTimes says when steps are done; what they compute does not matter here.
//
// Each stage costs the same however many there are, as if a model grew with its pipeline: P stages, with P
// times as many requests, can give as many tokens a second as one stage does alone, and no more.

#include <cstdint>

#include "actors/schedule/step_cost.hpp"
#include "test/sim/stages.hpp"

namespace sim {

struct Machine {
  const char* name;
  Costs costs;           // of each stage
  uint32_t batch;        // decodes that are enough for one stage
  float split_gain_min;  // as the pipeline actor would say it
};
inline constexpr Machine cpu_machine{"cpu", cpu_costs, 64, convoy::actors::split_gain_min};
inline constexpr Machine h200_machine{"h200", h200_costs, 256, convoy::actors::split_gain_min_apart};

/// From least to most, both included.
struct Range {
  uint32_t least, most;
};

struct Load {
  const char* name;
  Range prompt, answer;        // tokens
  uint32_t at_once;            // requests
  bool bursts;                 // the next ones come when all have ended; else one comes whenever one ends
  uint32_t warm_up, measured;  // how many have to end
};
// Of so many requests at once.
Load decode_load(uint32_t requests);  // prompts are hardly anything beside answers
Load steady_load(uint32_t requests);
Load burst_load(uint32_t requests);
Load long_prompt_load();  // one of 32,768 tokens at a time

enum class Policy : uint8_t {
  ours,
  one_batch,  // at a time: a step begins when the one before it has left the last stage
};

struct Quantiles {
  double p50 = 0, p99 = 0;
};

struct Utilisation {
  double seconds = 0;
  double prompt_tokens_per_s = 0, answer_tokens_per_s = 0;
  double busy_min = 0, busy_mean = 0, busy_max = 0;  // over the stages, shares of the time
  Quantiles first_token_us, between_tokens_us;
  double steps_in_flight = 0, rows_per_step = 0;  // means over time, and over steps

  double tokens_per_s() const { return prompt_tokens_per_s + answer_tokens_per_s; }
};

Utilisation utilisation(const Machine& machine, uint32_t stages, Policy policy, const Load& load,
                        uint64_t seed);
/// What pipelines give at best: one stage, whose steps take what they cost and are handed over at no cost.
/// load: of one stage.
Utilisation ideal(Machine machine, const Load& load, uint64_t seed);

}  // namespace sim
