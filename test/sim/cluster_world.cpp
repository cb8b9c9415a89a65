#include "test/sim/cluster_world.hpp"

#include <array>

#include <algorithm>

namespace sim {

using namespace convoy;

namespace {

constexpr uint64_t prompt_max = 150, answer_max = 50;
constexpr uint64_t two_pipelines_every = 2;  // seeds
constexpr double longer_with_two = 1.5;      // their requests are further apart, so that faults are, too

actors::SchedulerLimits random_limits(Random& random) {
  actors::SchedulerLimits limits;
  limits.slack = static_cast<uint32_t>(random.between(0, 2));
  limits.sequences = static_cast<uint32_t>(random.between(2, 8));
  limits.queue = static_cast<uint32_t>(random.between(2, 64));
  limits.prefill_tokens = static_cast<uint32_t>(random.between(16, 256));
  limits.replays_max = static_cast<uint32_t>(random.chance(0.5) ? 100 : random.between(1, 3));
  limits.context_tokens = prompt_max + answer_max;
  limits.vocab = vocab;
  const uint64_t largest = gpu::kv_blocks_for(prompt_max + answer_max);
  limits.kv_blocks = static_cast<uint32_t>(1 + largest + random.skewed(0, 2 * limits.sequences));
  return limits;
}

Request random_request(Random& random, const std::vector<int32_t>& prefix, uint64_t number) {
  Request r;
  r.number = number;
  actors::NewSequence& s = r.sequence;
  if (random.chance(0.4)) s.prompt = prefix;
  const auto more = random_tokens(random, random.between(1, prompt_max - s.prompt.size()));
  s.prompt.insert(s.prompt.end(), more.begin(), more.end());
  s.max_tokens = static_cast<uint32_t>(random.between(1, answer_max));
  s.tenant = std::string(1, static_cast<char>('a' + random.between(0, 2)));
  if (random.chance(0.2)) s.priority = static_cast<uint8_t>(random.between(0, actors::priorities - 1));
  if (random.chance(0.2)) s.drafts = static_cast<uint32_t>(random.between(1, 4));
  s.sampling.temperature = 1;
  s.sampling.seed = number;
  if (s.drafts > 0) s.sampling.top_k |= likes_repeats;
  if (random.chance(0.05)) s.sampling.top_k |= may_fault;
  if (random.chance(0.2)) s.sampling.presence_penalty = 0.5f;
  if (random.chance(0.3)) s.sampling.end_tokens = random_tokens(random, random.between(1, 6));
  return r;
}

/// Those of one pipeline.
void add_nodes(ClusterWorld& world, size_t pipeline, Random& random) {
  constexpr std::array<double, 4> slowness{1, 1, 1.7, 3};
  const uint64_t stages = random.chance(0.1) ? 1 : random.between(2, 3);
  const uint64_t nodes = random.between(std::max<uint64_t>(2, stages), cluster_layers);
  for (uint64_t i = 0; i < nodes; ++i)
    world.nodes.push_back({.pipeline = pipeline,
                           .serves = i < stages,
                           .slowness = slowness[random.between(0, slowness.size() - 1)]});
}

}  // namespace

ClusterWorld random_cluster(uint64_t seed, size_t requests, size_t faults) {
  Random random(seed);
  ClusterWorld world;
  world.seed = seed;
  world.pipelines = seed % two_pipelines_every == 0 ? 2 : 1;
  world.limits = random_limits(random);
  for (size_t i = 0; i < world.pipelines; ++i) add_nodes(world, i, random);
  world.device_depth = static_cast<uint32_t>(random.between(1, 3));
  world.fixed_us = static_cast<double>(random.between(500, 4'000));
  world.per_row_us = static_cast<double>(random.between(1, 50));
  world.load_us = static_cast<double>(random.skewed(1'000, 60'000));
  world.start_us = static_cast<double>(random.skewed(500, 30'000));
  world.latency_us = static_cast<double>(random.skewed(20, 2'000));
  const double spacing_us =
      static_cast<double>(random.between(30'000, 150'000)) * (world.pipelines > 1 ? longer_with_two : 1);
  const auto prefix = random_tokens(random, random.between(1, prompt_max - 10));
  double now = 0;
  for (uint64_t number = 1; number <= requests; ++number) {
    if (!random.chance(0.3)) now += random.time(spacing_us);
    Request r = random_request(random, prefix, number);
    r.arrives_us = now;
    if (random.chance(0.25)) {
      r.ends = random.chance(0.5) ? Ends::cancelled : Ends::past_deadline;
      r.ends_after_us = 1'000 + random.time(200'000);
    }
    answer_alone(r, cluster_layers);
    world.requests.push_back(std::move(r));
  }
  for (size_t i = 0; i < faults; ++i)
    world.faults.push_back({.at_us = now * static_cast<double>(random.between(0, 1'000)) / 1'000,
                            .kind = static_cast<Fault>(i % faults_count),
                            .draw = random.between(0, 1'000'000'000)});
  world.rebalance_steps = random.between(8, 64);
  return world;
}

}  // namespace sim
