#pragma once
// The least time that a step can take on a card: for each product, what its bytes take at the memory's speed
// or its operations at the arithmetic's, whichever is more; the same for attention. What is summed is what a
// step must do one after the other. Weights count as they lie in the file.

#include <algorithm>
#include <cmath>

#include "gpu/stage_shape.hpp"
#include "model/checkpoint/checkpoint.hpp"

namespace convoy::bench {

/// What a card was measured to do at most.
struct Ceilings {
  double bytes_per_s = 0, flop_per_s = 0;
};

/// An H200: reads of a large array, and bf16 products of random data.
inline constexpr Ceilings h200{.bytes_per_s = 4.3e12, .flop_per_s = 790e12};

struct StepKind {
  double rows = 0;            // of the step
  double sampled_rows = 0;    // of these
  double context_tokens = 0;  // in each row's cache, on average
  double sequences = 0;       // whose caches are read
  double kv_value_bytes = 2;
};

/// How many of `experts` a step meets if its rows choose at random.
inline double experts_met(const model::Routing& routing, double rows) {
  const auto all = static_cast<double>(routing.experts);
  return all * (1 - std::pow(1 - static_cast<double>(routing.chosen) / all, rows));
}

/// Seconds.
inline double step_floor(const model::Checkpoint& checkpoint, const StepKind& step, const Ceilings& card) {
  const model::Config& config = checkpoint.config();
  const gpu::StageShape shape = gpu::stage_shape(config, {0, config.layers - 1}, false);
  const model::StageWeights weights = checkpoint.layout({0, config.layers - 1});
  double seconds = 0;
  const auto most = [&](double bytes, double flop) {
    seconds += std::max(bytes / card.bytes_per_s, flop / card.flop_per_s);
  };
  const auto product = [&](const gpu::WeightRef& w, double rows, double part_read = 1) {
    most(static_cast<double>(w.bytes.size() + w.scales.size()) * part_read,
         2 * static_cast<double>(w.rows) * static_cast<double>(w.columns) * rows);
  };
  for (const auto& layer : weights.layers) {
    for (const gpu::WeightRef& w : gpu::parts_of(layer)) {
      if (w.rows == 1) continue;  // norms and biases: nothing
      if (w.expert < 0) {
        product(w, step.rows);
        continue;
      }
      const auto all = static_cast<double>(shape.routing.experts);
      product(w, step.rows * static_cast<double>(shape.routing.chosen) / all,
              experts_met(shape.routing, step.rows) / all);
    }
    const auto cached = static_cast<double>(shape.cache_widths[0] + shape.cache_widths[1]);
    const double of_key = shape.has_latent ? static_cast<double>(2 * shape.latent.latent + shape.latent.rope)
                                           : 2 * static_cast<double>(shape.head_dim);
    most(step.sequences * step.context_tokens * cached * step.kv_value_bytes,
         2 * step.rows * step.context_tokens * static_cast<double>(shape.heads) * of_key);
  }
  for (const gpu::WeightRef& w : gpu::end_parts_of(weights))
    if (w.part == gpu::Part::head && step.sampled_rows > 0) product(w, step.sampled_rows);
  return seconds;
}

}  // namespace convoy::bench
