#pragma once
// What the tests of the CUDA device share. They need a GPU: without one each says that it was skipped.

#include <cstdlib>
#include <functional>
#include <random>
#include <thread>

#include "gpu/cuda_device.hpp"
#include "gpu/devices.hpp"
#include "test/cuda/shaped_checkpoint.hpp"

namespace convoy::gpu::test {

/// The library beside the test, or nothing if it or a GPU is missing; why is said once.
inline std::shared_ptr<const CudaLibrary> find_library() {
  static const std::shared_ptr<const CudaLibrary> found = []() -> std::shared_ptr<const CudaLibrary> {
    try {
      auto library = CudaLibrary::load();
      library->check(0);
      return library;
    } catch (const InputError& e) {
      std::printf("skipped: %s\n", e.what());
      return nullptr;
    }
  }();
  return found;
}

/// compute-sanitizer slows every launch down a hundred times: with CONVOY_TEST_FEW in the environment
/// sequences are as short as the kernels that they are to meet allow.
inline bool few() {
  static const bool few = std::getenv("CONVOY_TEST_FEW") != nullptr;
  return few;
}
/// Steps that a comparison may take then.
inline constexpr size_t few_steps = 40;

inline DeviceFactory on_card(cuda::Activations activations, bool graphs = true, bool poison = true) {
  return cuda_device(find_library(), {.activations = activations, .graphs = graphs, .poison = poison});
}
inline DeviceFactory reference() {
  return cpu_device(Kernels::reference, static_cast<int>(std::thread::hardware_concurrency()));
}

/// Another one each time, and told when something fails.
inline uint32_t fresh_seed() {
  static std::random_device random;
  return random();
}

inline EngineLimits limits_of(bool deterministic = false, model::DType kv_type = model::DType::f32) {
  return {.kv_blocks = 96,
          .slots = 72,
          .context_tokens = 1536,
          .rows_per_step = 700,
          .kv_type = kv_type,
          .deterministic = deterministic};
}

struct Feed {
  std::vector<int32_t> tokens;
  std::vector<uint32_t> blocks;
  uint32_t slot = 0;
};

/// Sequences of these lengths, with the pool's blocks dealt out at random.
inline std::vector<Feed> feeds_of(const std::vector<size_t>& lengths, int64_t vocab, uint32_t seed) {
  TensorMaker maker(seed);
  std::mt19937 random(seed);
  std::vector<uint32_t> blocks(limits_of().kv_blocks), slots(limits_of().slots);
  for (uint32_t i = 0; i < blocks.size(); i++) blocks[i] = i;
  for (uint32_t i = 0; i < slots.size(); i++) slots[i] = i;
  std::ranges::shuffle(blocks, random), std::ranges::shuffle(slots, random);
  std::vector<Feed> feeds;
  for (const size_t length : lengths) {
    Feed& feed = feeds.emplace_back(Feed{maker.ids(length, vocab), {}, slots.back()});
    slots.pop_back();
    for (size_t i = 0; i < kv_blocks_for(length); i++)
      feed.blocks.push_back(blocks.back()), blocks.pop_back();
  }
  return feeds;
}

inline StepPlan start(const std::vector<Feed>& feeds) {
  StepPlan plan;
  for (const Feed& f : feeds) {
    plan.starts.push_back({f.slot, static_cast<uint32_t>(f.tokens.size()), {}});
    for (uint32_t i = 0; i < f.blocks.size(); i++) plan.block_changes.push_back({f.slot, i, f.blocks[i]});
  }
  return plan;
}

/// Feeds all sequences side by side, at most `chunk` tokens of each a step; the logits of each one's
/// positions. around(run), if there is one, runs each step.
inline std::vector<std::vector<float>> logits_of(
    Engine& engine, const std::vector<Feed>& feeds, size_t chunk,
    const std::function<void(const std::function<void()>&)>& around = {}) {
  engine.keep_logits(true);
  std::vector<std::vector<float>> logits(feeds.size());
  StepPlan plan = start(feeds);
  size_t longest = 0;
  for (const Feed& f : feeds) longest = std::max(longest, f.tokens.size());
  for (size_t at = 0; at < longest; at += chunk) {
    std::vector<std::pair<size_t, size_t>> order;  // which feed, how many rows
    for (size_t i = 0; i < feeds.size(); i++) {
      const auto& tokens = feeds[i].tokens;
      if (at >= tokens.size()) continue;
      const size_t count = std::min(chunk, tokens.size() - at);
      const auto begin = tokens.begin() + static_cast<ptrdiff_t>(at);
      plan.sequences.push_back({feeds[i].slot,
                                static_cast<uint32_t>(at),
                                {begin, begin + static_cast<ptrdiff_t>(count)},
                                static_cast<uint32_t>(count)});
      order.emplace_back(i, count);
    }
    const auto run = [&] { engine.run(plan, {}); };
    around ? around(run) : run();
    size_t value = 0;
    for (const auto& [i, count] : order) {
      const size_t values = count * engine.logits().size() / static_cast<size_t>(plan.rows());
      const auto rows = engine.logits().subspan(value, values);
      logits[i].insert(logits[i].end(), rows.begin(), rows.end());
      value += values;
    }
    plan = {.step = plan.step + 1};
  }
  return logits;
}

/// ‖own − reference‖/‖reference‖ of each row; a NaN counts as infinitely far.
inline std::vector<double> row_errors(const std::vector<float>& own, const std::vector<float>& reference,
                                      size_t vocab) {
  BOOST_REQUIRE(own.size() == reference.size());
  std::vector<double> errors;
  for (size_t row = 0; row < own.size(); row += vocab) {
    double difference = 0, norm = 0;
    for (size_t i = row; i < row + vocab; i++) {
      difference += (double{own[i]} - reference[i]) * (double{own[i]} - reference[i]);
      norm += double{reference[i]} * reference[i];
    }
    const double error = std::sqrt(difference / norm);
    errors.push_back(std::isfinite(error) ? error : 1e30);
  }
  return errors;
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace convoy::gpu::test
