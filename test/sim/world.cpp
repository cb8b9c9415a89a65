#include "test/sim/world.hpp"

#include <algorithm>
#include <cmath>

namespace sim {

using namespace convoy;

namespace {

/// How large prompts and answers of a world are.
struct Sizes {
  uint64_t prompt, answer;
};

Sizes random_sizes(Random& random) {
  if (random.chance(0.05)) return {4'000, 500};
  if (random.chance(0.2)) return {1'000, 150};
  return {random.between(40, 400), random.between(8, 60)};
}

actors::SchedulerLimits random_limits(Random& random, Sizes sizes) {
  actors::SchedulerLimits limits;
  limits.stages = static_cast<uint32_t>(random.between(1, 4));
  limits.slack = static_cast<uint32_t>(random.between(0, 2));
  limits.sequences = static_cast<uint32_t>(random.skewed(2, 32));
  limits.queue = static_cast<uint32_t>(random.between(4, 64));
  limits.prefill_tokens =
      static_cast<uint32_t>(random.chance(0.2) ? random.between(1, 24) : random.between(16, 512));
  limits.prefill_share = static_cast<uint32_t>(random.between(1, 8));
  limits.replays_max = static_cast<uint32_t>(random.between(1, 3));
  limits.context_tokens = static_cast<int64_t>(sizes.prompt + sizes.answer);
  limits.vocab = vocab;
  // From just enough for the largest one to more than all need; often too few for those that may run.
  const uint64_t largest = gpu::kv_blocks_for(sizes.prompt + sizes.answer);
  limits.kv_blocks = static_cast<uint32_t>(1 + largest + random.skewed(0, largest * limits.sequences));
  return limits;
}

/// From one place, which is taken again and again, to more than all requests fill; or none.
actors::KvTierLimits random_tier(Random& random, uint64_t largest_blocks) {
  if (random.chance(0.3)) return {};
  return {.places = static_cast<uint32_t>(random.skewed(1, 20 * largest_blocks)),
          .moves_per_step = static_cast<uint32_t>(random.skewed(1, 64))};
}

std::vector<int32_t> repeating_tokens(Random& random, uint64_t count) {
  const auto pattern = random_tokens(random, random.between(5, 40));
  std::vector<int32_t> tokens;
  while (tokens.size() < count) tokens.push_back(pattern[tokens.size() % pattern.size()]);
  return tokens;
}

/// Makes the requests of a world, one after the other.
class Traffic {
 public:
  Traffic(Random& random, const World& world, Sizes sizes) : random_(random), sizes_(sizes) {
    for (int i = 0; i < 3; ++i) prefixes_.push_back(random_tokens(random, random.between(1, sizes.prompt)));
    tenants_ = random.between(1, 5);
    // Of a loaded pipeline: what a request costs its stages, times how many come for one that is done.
    const double tokens = static_cast<double>(sizes.prompt) / 3,
                 answer = static_cast<double>(sizes.answer) / 3;
    const double batch = std::min<double>(8, world.limits.sequences);
    spacing_us_ =
        (tokens * world.costs.per_row_us + answer * (world.costs.fixed_us / batch + world.costs.per_row_us)) /
        (0.5 + static_cast<double>(random.between(0, 150)) / 100);
    may_end_us_ = spacing_us_ * batch * 2;
  }

  std::vector<Request> make(size_t count) {
    std::vector<Request> requests;
    double now = 0;
    while (requests.size() < count) {
      if (!random_.chance(0.3)) now += random_.time(spacing_us_ * 1.4);  // or they come in bursts
      if (random_.chance(0.15))
        add_group(requests, now, random_.between(2, 6));
      else
        requests.push_back(one(requests, now));
    }
    requests.resize(count);
    return requests;
  }
  double spacing_us() const { return spacing_us_; }

 private:
  void add_group(std::vector<Request>& requests, double now, uint64_t count) {
    const Request first = one(requests, now);
    // A prompt that nobody had before shows who follows whom.
    const bool fresh = random_.chance(0.7);
    const auto prompt = random_tokens(random_, random_.between(sizes_.prompt / 2, sizes_.prompt));
    for (uint64_t i = 0; i < count; ++i) {
      Request r = one(requests, now);
      r.sequence.prompt = fresh ? prompt : first.sequence.prompt;
      r.sequence.salt = first.sequence.salt;
      r.new_group = fresh;
      if (random_.chance(0.5)) r.sequence.sampling = first.sequence.sampling;
      finish(r, requests.size() + 1);
      requests.push_back(std::move(r));
    }
  }

  Request one(const std::vector<Request>& earlier, double now) {
    Request r;
    r.arrives_us = now;
    actors::NewSequence& s = r.sequence;
    s.prompt = prompt(earlier);
    s.max_tokens = static_cast<uint32_t>(random_.skewed(1, sizes_.answer));
    s.tenant = std::string(1, static_cast<char>('a' + random_.skewed(0, tenants_ - 1)));
    s.salt = random_.chance(0.8) ? "" : s.tenant;
    if (random_.chance(0.2)) s.priority = static_cast<uint8_t>(random_.between(0, actors::priorities - 1));
    if (random_.chance(0.3)) s.drafts = static_cast<uint32_t>(random_.between(1, 8));
    s.sampling.temperature = 1;
    s.sampling.top_k = (s.drafts > 0 || random_.chance(0.2) ? likes_repeats : 0);
    if (random_.chance(0.15)) s.sampling.top_k |= may_fault;
    if (random_.chance(0.3)) s.sampling.presence_penalty = 0.5f;
    if (random_.chance(0.4)) s.sampling.end_tokens = random_tokens(random_, random_.between(1, 12));
    if (random_.chance(0.25)) {
      r.ends = random_.chance(0.5) ? Ends::cancelled : Ends::past_deadline;
      r.ends_after_us = random_.time(may_end_us_);
    }
    finish(r, earlier.size() + 1);
    return r;
  }

  std::vector<int32_t> prompt(const std::vector<Request>& earlier) {
    const uint64_t count = random_.skewed(1, sizes_.prompt);
    if (random_.chance(0.2)) return repeating_tokens(random_, count);
    std::vector<int32_t> tokens;
    if (!earlier.empty() && random_.chance(0.3)) {  // goes on with a conversation
      const Request& before = earlier[random_.between(earlier.size() / 2, earlier.size() - 1)];
      tokens = before.sequence.prompt;
      for (const gpu::SampledToken& token : before.answer)
        if (token.fault == gpu::RowFault::none) tokens.push_back(token.id);
    } else if (random_.chance(0.5)) {
      tokens = prefixes_[random_.between(0, prefixes_.size() - 1)];
    }
    const auto more = random_tokens(random_, random_.skewed(1, 60));
    tokens.insert(tokens.end(), more.begin(), more.end());
    if (tokens.size() < count && random_.chance(0.5)) {
      const auto rest = random_tokens(random_, count - tokens.size());
      tokens.insert(tokens.end(), rest.begin(), rest.end());
    }
    tokens.resize(std::min<uint64_t>(tokens.size(), sizes_.prompt));
    return tokens;
  }

  void finish(Request& r, size_t number) {
    r.number = r.sequence.sampling.seed = number;
    answer_alone(r);
  }

  Random& random_;
  Sizes sizes_;
  std::vector<std::vector<int32_t>> prefixes_;
  uint64_t tenants_ = 1;
  double spacing_us_ = 0, may_end_us_ = 0;
};

}  // namespace

std::vector<int32_t> random_tokens(Random& random, uint64_t count) {
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random.between(0, vocab - 1));
  return tokens;
}

void answer_alone(Request& r, size_t layers) {
  r.answer.clear();
  r.finish = actors::FinishReason::length;
  Alone alone(r.sequence.prompt, r.sequence.sampling, layers);
  while (r.answer.size() < r.sequence.max_tokens) {
    const gpu::SampledToken& token = r.answer.emplace_back(alone.next());
    const auto& ends = r.sequence.sampling.end_tokens;
    if (token.fault != gpu::RowFault::none)
      r.finish = actors::FinishReason::failed;
    else if (std::ranges::find(ends, token.id) != ends.end())
      r.finish = actors::FinishReason::stop;
    else
      continue;
    return;
  }
}

World random_world(uint64_t seed, size_t requests) {
  Random random(seed);
  World world;
  world.seed = seed;
  const Sizes sizes = random_sizes(random);
  world.limits = random_limits(random, sizes);
  world.costs = random.chance(0.5) ? cpu_costs : h200_costs;
  world.idle_chance = random.chance(0.3) ? 0.3 : 0;
  Traffic traffic(random, world, sizes);
  world.requests = traffic.make(requests);
  const double end = world.requests.back().arrives_us + traffic.spacing_us();
  const auto times = [&](uint64_t count) {
    std::vector<double> at;
    for (uint64_t i = 0; i < count; ++i)
      at.push_back(end * static_cast<double>(random.between(0, 1000)) / 1000);
    std::ranges::sort(at);
    return at;
  };
  world.resets_us = times(random.between(4, 10));
  world.canaries_us = times(random.between(8, 16));
  world.cost_changes_us = times(random.between(0, 10));
  world.limits.kv_tier = random_tier(random, gpu::kv_blocks_for(sizes.prompt + sizes.answer));
  return world;
}

}  // namespace sim
