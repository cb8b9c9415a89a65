// Tokens per second of a checkpoint in one process, by default on the best device of this machine, and the
// memory bandwidth that bounds it. `bench/run cpu` calls it and prints its JSON line.

#include <pthread.h>
#include <sched.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <functional>
#include <iostream>
#include <memory>
#include <numeric>
#include <semaphore>
#include <span>
#include <stdexcept>
#include <thread>
#include <vector>

#include "bench/seconds.hpp"
#include "gpu/cpu/cores.hpp"
#include "gpu/cpu/memory.hpp"
#include "gpu/devices.hpp"
#include "gpu/engine.hpp"
#include "model/checkpoint/checkpoint.hpp"
#include "model/checkpoint/inspect.hpp"
#include "model/error.hpp"

namespace {

using namespace convoy;
using bench::Seconds;
using bench::time_of;

uint64_t sum_of(std::span<const uint64_t> memory) {
  constexpr size_t line = 8, ahead = 64 * line;  // as far ahead as the kernels fetch, or about so
  uint64_t sums[line] = {};
  for (size_t i = 0; i < memory.size(); i += line) {
    __builtin_prefetch(memory.data() + i + ahead);
    for (size_t j = 0; j < line; ++j) sums[j] += memory[i + j];
  }
  return std::accumulate(sums, sums + line, uint64_t{0});
}

/// Bytes a second that `threads` threads read together, the best of some passes over memory that no cache
/// holds, in such pages as weights lie in.
double read_bandwidth(int threads) {
  constexpr size_t bytes_per_thread = size_t{256} << 20;
  constexpr int passes = 8;
  std::vector<gpu::Buffer> buffers;
  std::vector<std::span<uint64_t>> memory;
  for (int thread = 0; thread < threads; ++thread) {
    buffers.push_back(gpu::allocate_aligned(bytes_per_thread));
    memory.emplace_back(static_cast<uint64_t*>(buffers.back().get()), bytes_per_thread / sizeof(uint64_t));
    std::ranges::fill(memory.back(), 1);
  }
  double best = 0;
  for (int pass = 0; pass < passes; ++pass) {
    std::vector<uint64_t> sums(memory.size());
    const Seconds t = time_of([&] {
      std::vector<std::thread> readers;
      for (size_t i = 0; i < memory.size(); ++i)
        readers.emplace_back([&, i] { sums[i] = sum_of(memory[i]); });
      for (std::thread& r : readers) r.join();
    });
    if (std::accumulate(sums.begin(), sums.end(), uint64_t{0}) != memory[0].size() * memory.size())
      std::abort();
    best = std::max(best, static_cast<double>(bytes_per_thread * memory.size()) / t.wall);
  }
  return best;
}

/// A step of the one sequence, in slot 0, which samples its last row. The first takes all blocks.
gpu::StepPlan step_of(uint64_t step, uint32_t position, std::vector<int32_t> tokens, uint32_t blocks) {
  gpu::StepPlan plan{.step = step};
  if (step == 0) {
    plan.starts.push_back({0, 1, {}});
    for (uint32_t b = 0; b < blocks; ++b) plan.block_changes.push_back({0, b, b});
  }
  plan.sequences.push_back({0, position, std::move(tokens), 1});
  return plan;
}

class Bench {
 public:
  Bench(std::shared_ptr<const model::Checkpoint> checkpoint, const gpu::DeviceFactory& device,
        int64_t context)
      : vocab_(checkpoint->config().vocab),
        blocks_(static_cast<uint32_t>(gpu::kv_blocks_for(context))),
        engine_(device, checkpoint, {0, checkpoint->config().layers - 1}, {blocks_, 1, context, context}) {
    engine_.bind_thread();  // as a stage does
  }

  Seconds prompt(int64_t tokens) {
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < tokens; ++i) ids.push_back(static_cast<int32_t>((i * 7919 + 11) % vocab_));
    start();
    return time_of([&] { step(0, ids); });
  }

  /// From an empty context, each token fed back.
  Seconds generate(int64_t tokens) {
    start();
    int32_t token = step(0, {1});
    return time_of([&] {
      for (int64_t i = 1; i <= tokens; ++i) token = step(static_cast<uint32_t>(i), {token});
    });
  }

 private:
  void start() {
    engine_.reset();
    number_ = 0;
  }
  int32_t step(uint32_t position, std::vector<int32_t> tokens) {
    const gpu::StepPlan plan = step_of(number_++, position, std::move(tokens), blocks_);
    return engine_.run(plan, {}).result.sequences.at(0).tokens.at(0).id;
  }

  int64_t vocab_;
  uint32_t blocks_;
  gpu::Engine engine_;
  uint64_t number_ = 0;
};

/// This thread, and those that it starts, on one core, as stages with one thread do (docs/decisions/0008).
void stay_here() {
  const cpu_set_t here = gpu::only(sched_getcpu());
  if (pthread_setaffinity_np(pthread_self(), sizeof(here), &here) != 0)
    throw std::runtime_error("this system lets no thread choose its core");
}

/// The layers as stages that take turns, each on threads of its own and idle while the others compute, as in
/// a cluster, but handing over at no cost: only the computing counts. A processor that has idled computes
/// slower (caches, clock, a hypervisor that gave it away), so this is what gateway and links that cost
/// nothing would leave.
class Turns {
 public:
  Turns(const std::shared_ptr<const model::Checkpoint>& checkpoint, const gpu::DeviceFactory& device,
        int threads, int64_t context, int64_t stages)
      : blocks_(static_cast<uint32_t>(gpu::kv_blocks_for(context))) {
    if (threads == 1) stay_here();
    const int64_t layers = checkpoint->config().layers;
    for (int64_t s = 0; s < stages; ++s)
      stages_.push_back(std::make_unique<Stage>(
          checkpoint, device, model::LayerRange{s * layers / stages, (s + 1) * layers / stages - 1},
          gpu::EngineLimits{blocks_, 1, context, context}));
  }

  /// Seconds of computing, from an empty context.
  double generate(int64_t tokens) {
    for (const auto& stage : stages_) stage->run([](gpu::Engine& engine) { engine.reset(); });
    double computing = 0;
    int32_t token = 1;
    for (int64_t i = 0; i <= tokens; ++i) {
      const gpu::StepPlan plan =
          step_of(static_cast<uint64_t>(i), static_cast<uint32_t>(i), {token}, blocks_);
      gpu::StepOutput out;
      for (const auto& stage : stages_) {
        const double took = stage->run([&](gpu::Engine& engine) { out = engine.run(plan, out.hidden); });
        if (i > 0) computing += took;
      }
      token = out.result.sequences.at(0).tokens.at(0).id;
    }
    return computing;
  }

 private:
  class Stage {
   public:
    Stage(std::shared_ptr<const model::Checkpoint> checkpoint, gpu::DeviceFactory device,
          model::LayerRange range, gpu::EngineLimits limits)
        : thread_([=, this] {
            gpu::Engine engine(device, checkpoint, range, limits);
            engine.bind_thread();
            for (go_.acquire(); work_; go_.acquire()) {
              took_ = time_of([&] { work_(engine); }).wall;
              done_.release();
            }
          }) {}
    ~Stage() {
      work_ = nullptr;
      go_.release();
    }
    /// On the stage's thread. Seconds that it took.
    double run(std::function<void(gpu::Engine&)> work) {
      work_ = std::move(work);
      go_.release();
      done_.acquire();
      return took_;
    }

   private:
    std::function<void(gpu::Engine&)> work_;
    std::binary_semaphore go_{0}, done_{0};
    double took_ = 0;
    std::jthread thread_;  // last: it uses the others
  };

  uint32_t blocks_;
  std::vector<std::unique_ptr<Stage>> stages_;
};

}  // namespace

int main(int argc, char** argv) try {
  std::string path, backend = "auto";
  int threads = 1, repeats = 3;
  int64_t prompt = 512, generate = 128, stages = 1;
  bool skip_bandwidth = false;
  CLI::App app{"Measures prompt and generation tokens per second of a checkpoint in one process"};
  app.add_option("--model", path, "checkpoint: a directory or a GGUF file")->required();
  app.add_option("--backend", backend, "as stage.backend");
  app.add_option("--threads", threads)->check(CLI::Range(1, 256));
  app.add_option("--prompt", prompt, "tokens of the prompt in one step")->check(CLI::Range(1, 1 << 20));
  app.add_option("--generate", generate, "tokens generated from an empty context")
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--repeats", repeats, "the best of so many is reported")->check(CLI::Range(1, 1000));
  app.add_flag("--skip-bandwidth", skip_bandwidth);
  app.add_option("--stages", stages, "generation alone, by so many stages that take turns at no cost")
      ->check(CLI::Range(1, 64));
  CLI11_PARSE(app, argc, argv);

  const auto checkpoint = model::Checkpoint::open(path);
  if (stages > checkpoint->config().layers)
    throw InputError(std::to_string(stages) + " stages", "--stages",
                     "the model has " + std::to_string(checkpoint->config().layers) + " layers");
  const gpu::DeviceFactory device = gpu::device_named(backend, threads);
  if (stages > 1) {
    Turns turns(checkpoint, device, threads, generate + 1, stages);
    turns.generate(8);  // touches the weights' pages
    double best = 1e9;
    for (int i = 0; i < repeats; ++i) best = std::min(best, turns.generate(generate));
    std::cout << boost::json::serialize(
                     boost::json::object{{"threads", threads},
                                         {"stages", stages},
                                         {"generated_tokens", generate},
                                         {"generation_tokens_per_s", static_cast<double>(generate) / best}})
              << std::endl;
    return 0;
  }
  Bench bench(checkpoint, device, std::max(prompt, generate + 1));
  Seconds best_prompt{1e9, 1e9}, best_generate{1e9, 1e9};
  const auto keep_best = [](Seconds& best, Seconds t) {
    best = {std::min(best.wall, t.wall), std::min(best.cpu, t.cpu)};
  };
  bench.prompt(prompt);  // touches the weights' pages
  for (int i = 0; i < repeats; ++i) {
    keep_best(best_prompt, bench.prompt(prompt));
    keep_best(best_generate, bench.generate(generate));
  }
  boost::json::object out{
      {"threads", threads},
      {"prompt_tokens", prompt},
      {"generated_tokens", generate},
      {"prompt_tokens_per_s", static_cast<double>(prompt) / best_prompt.wall},
      {"generation_tokens_per_s", static_cast<double>(generate) / best_generate.wall},
      {"prompt_cpu_ms_per_token", best_prompt.cpu * 1e3 / static_cast<double>(prompt)},
      {"generation_cpu_ms_per_token", best_generate.cpu * 1e3 / static_cast<double>(generate)}};
  if (!skip_bandwidth) {
    const double bandwidth = read_bandwidth(threads);
    const auto token_bytes = static_cast<double>(model::inspect(*checkpoint).bytes_active);
    const double read = token_bytes * static_cast<double>(generate) / best_generate.wall;
    out["memory_read_bytes_per_s"] = bandwidth;
    out["generation_bandwidth_fraction"] = read / bandwidth;
  }
  std::cout << boost::json::serialize(out) << std::endl;
} catch (const std::exception& e) {
  std::cerr << "convoy_bench: " << e.what() << '\n';
  return 1;
}
