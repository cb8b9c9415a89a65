// Batches of decodes in one process on the CPU backend: for each number of sequences and each length of what
// they have in their caches, the tokens of all of them a second. `bench/run cpu` calls it and prints its JSON
// lines.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <iostream>
#include <memory>
#include <optional>
#include <vector>

#include "bench/seconds.hpp"
#include "bench/timed_backend.hpp"
#include "gpu/cpu/cpu_device.hpp"
#include "gpu/engine.hpp"
#include "gpu/kv_types.hpp"
#include "model/checkpoint/checkpoint.hpp"

namespace {

using namespace convoy;
using bench::Seconds;
using bench::TimedBackend;

/// Rows of a step that fills caches.
constexpr int64_t prompt_rows = 512;

/// Median, best: what other processes take from a step makes it slower, never faster.
struct Steps {
  Seconds median, best;
  std::array<double, TimedBackend::phases> phases{};  // the median of each
};

class Batches {
 public:
  Batches(const std::string& path, gpu::Kernels kernels, int threads, int64_t sequences, int64_t context,
          std::optional<model::DType> kv_type)
      : checkpoint_(model::Checkpoint::open(path)),
        kv_type_(kv_type),
        blocks_(static_cast<uint32_t>(gpu::kv_blocks_for(context))),
        engine_(
            [&](const gpu::StageShape& shape) {
              auto backend = std::make_unique<TimedBackend>(gpu::make_cpu_backend(kernels, threads));
              backend_ = backend.get();
              return std::make_unique<gpu::CpuDevice>(std::move(backend), shape, threads);
            },
            checkpoint_, {0, checkpoint_->config().layers - 1},
            {blocks_ * static_cast<uint32_t>(sequences), static_cast<uint32_t>(sequences), context,
             std::max(prompt_rows, sequences), kv_type}) {
    engine_.bind_thread();  // as a stage does
  }

  model::DType kv_type() const { return kv_type_.value_or(backend_->kv_type()); }

  /// Starts all sequences anew, each with so many tokens in its cache.
  void fill(int64_t sequences, int64_t context, float temperature) {
    engine_.reset();
    for (uint32_t slot = 0; slot < sequences; ++slot) {
      gpu::StepPlan plan{.step = ++number_};
      plan.starts.push_back({slot, 1, {.temperature = temperature, .seed = slot}});
      for (uint32_t b = 0; b < blocks_; ++b) plan.block_changes.push_back({slot, b, slot * blocks_ + b});
      for (int64_t at = 0; at < context; at += prompt_rows) {
        std::vector<int32_t> ids;
        for (int64_t i = at; i < std::min(context, at + prompt_rows); ++i)
          ids.push_back(static_cast<int32_t>((i * 7919 + 11 + slot) % checkpoint_->config().vocab));
        plan.sequences = {{slot, static_cast<uint32_t>(at), std::move(ids), 0}};
        engine_.run(plan, {});
        plan = {.step = ++number_};
      }
    }
  }

  /// Steps in which the first `rows` sequences bring one token each, fed back, from position `context` on.
  Steps decode(int64_t rows, int64_t context, int64_t steps) {
    std::vector<int32_t> last(static_cast<size_t>(rows), 1);
    std::vector<double> wall, cpu;
    std::array<std::vector<double>, TimedBackend::phases> phases;
    Steps out;
    for (int64_t i = -1; i < steps; ++i) {  // the first wakes threads and touches pages
      gpu::StepPlan plan{.step = ++number_};
      const auto position = static_cast<uint32_t>(context + std::max<int64_t>(i, 0));
      for (uint32_t slot = 0; slot < rows; ++slot)
        plan.sequences.push_back({slot, position, {last[slot]}, 1});
      backend_->take();
      gpu::StepOutput result;
      const Seconds took = bench::time_of([&] { result = engine_.run(plan, {}); });
      for (size_t slot = 0; slot < last.size(); ++slot)
        last[slot] = result.result.sequences.at(slot).tokens.at(0).id;
      if (i < 0) continue;
      wall.push_back(took.wall), cpu.push_back(took.cpu);
      const auto took_in = backend_->take();
      for (size_t p = 0; p < phases.size(); ++p) phases[p].push_back(took_in[p]);
    }
    const auto median = [](std::vector<double>& sorted) {
      std::ranges::sort(sorted);
      return sorted[sorted.size() / 2];
    };
    out.median = {median(wall), median(cpu)}, out.best = {wall[0], cpu[0]};
    std::ranges::transform(phases, out.phases.begin(), median);
    return out;
  }

 private:
  std::shared_ptr<const model::Checkpoint> checkpoint_;
  std::optional<model::DType> kv_type_;  // else the backend's choice
  uint32_t blocks_;
  TimedBackend* backend_ = nullptr;  // the device's
  gpu::Engine engine_;
  uint64_t number_ = 0;
};

}  // namespace

int main(int argc, char** argv) try {
  std::string path, backend = "cpu";
  int threads = 1;
  int64_t steps = 16;
  std::vector<int64_t> rows_list{1, 2, 4, 8, 16, 32, 64}, contexts{64};
  float temperature = 0;
  bool phases = false;
  std::optional<model::DType> kv_type;
  CLI::App app{"Measures steps of several decodes of a checkpoint in one process"};
  app.add_option("--model", path, "checkpoint: a directory or a GGUF file")->required();
  app.add_option("--backend", backend)->check(CLI::IsMember({"cpu", "cpu-reference"}));
  app.add_option("--threads", threads)->check(CLI::Range(1, 256));
  app.add_option("--rows", rows_list, "sequences of a step")->check(CLI::Range(1, 1024));
  app.add_option("--contexts", contexts, "tokens in each sequence's cache")->check(CLI::Range(1, 1 << 20));
  app.add_option("--steps", steps, "of each measurement")->check(CLI::Range(1, 1 << 20));
  app.add_option("--temperature", temperature)->check(CLI::Range(0.f, 100.f));
  app.add_option("--kv-type", kv_type, "of cached keys and values (default: the backend's choice)")
      ->transform(CLI::CheckedTransformer(gpu::kv_types_by_name()));
  app.add_flag("--phases", phases, "what each operation takes of a step, of the processor");
  CLI11_PARSE(app, argc, argv);

  const int64_t sequences = std::ranges::max(rows_list);
  const gpu::Kernels kernels = backend == "cpu" ? gpu::Kernels::fast : gpu::Kernels::reference;
  Batches batches(path, kernels, threads, sequences, std::ranges::max(contexts) + steps, kv_type);
  for (const int64_t context : contexts) {
    batches.fill(sequences, context, temperature);
    for (const int64_t rows : rows_list) {
      const Steps took = batches.decode(rows, context, steps);
      const auto count = static_cast<double>(rows);
      boost::json::object line{{"threads", threads},
                               {"rows", rows},
                               {"context_tokens", context},
                               {"kv_type", std::string(model::info(batches.kv_type()).name)},
                               {"temperature", temperature},
                               {"tokens_per_s", count / took.median.wall},
                               {"tokens_per_s_best", count / took.best.wall},
                               {"cpu_ms_per_token", took.median.cpu * 1e3 / count},
                               {"cpu_ms_per_token_best", took.best.cpu * 1e3 / count}};
      if (phases) {
        boost::json::object of_step;
        for (size_t p = 0; p < took.phases.size(); ++p)
          if (took.phases[p] > 0) of_step[TimedBackend::names[p]] = took.phases[p] * 1e3;
        line["step_cpu_ms"] = std::move(of_step);
      }
      std::cout << boost::json::serialize(line) << std::endl;
    }
  }
} catch (const std::exception& e) {
  std::cerr << "convoy_bench_batch: " << e.what() << '\n';
  return 1;
}
