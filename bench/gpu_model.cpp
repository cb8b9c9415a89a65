// A model's steps on a GPU, in one process and without a cluster: prompts in chunks, then batches of decodes
// whose tokens are fed back on the device, with as many steps in flight as it takes. Prints JSON lines, each
// with the least time that the card's measured ceilings allow (bench/step_floor.hpp).

#include <dlfcn.h>
#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <vector>

#include "bench/seconds.hpp"
#include "bench/step_floor.hpp"
#include "gpu/devices.hpp"
#include "gpu/engine.hpp"
#include "gpu/kv_types.hpp"
#include "model/checkpoint/checkpoint.hpp"

namespace {

using namespace convoy;

constexpr std::chrono::seconds step_limit{60};
constexpr int64_t warm_steps = 8;  // before the clock runs: graphs are captured, caches warm

/// Tells a profiler that waits for it (ncu --profile-from-start off) what to look at.
void profile(bool begin) {
  void* const driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  auto* const function =
      driver ? reinterpret_cast<int (*)()>(dlsym(driver, begin ? "cuProfilerStart" : "cuProfilerStop"))
             : nullptr;
  if (!function || function() != 0) throw std::runtime_error("the driver knows no profiler");
}

struct Took {
  double median_s = 0, best_s = 0;  // of a step
};

class Steps {
 public:
  Steps(const std::string& path, const std::string& backend, const gpu::EngineLimits& limits, int64_t tokens)
      : checkpoint_(model::Checkpoint::open(path)),
        blocks_(static_cast<uint32_t>(gpu::kv_blocks_for(tokens))),
        engine_(gpu::device_named(backend, 1), checkpoint_, {0, checkpoint_->config().layers - 1}, limits,
                [this](uint64_t done, uint64_t) {
                  loaded_.push_back({done, bench::seconds_now(CLOCK_MONOTONIC)});
                }) {
    engine_.bind_thread();
  }

  /// How far the weights were on their way from the file's pages (of random ones: from memory) to the device.
  struct Loaded {
    uint64_t bytes = 0;
    double at_s = 0;
    double gb_per_s_to(const Loaded& later) const {
      return static_cast<double>(later.bytes - bytes) / (later.at_s - at_s) / 1e9;
    }
  };
  /// Before the first layer, behind each, and behind the ends.
  const std::vector<Loaded>& loaded() const { return loaded_; }

  const model::Checkpoint& checkpoint() const { return *checkpoint_; }
  std::string_view variant() const { return engine_.variant(); }

  /// Starts sequences anew and feeds each `context` tokens, in steps of so many rows. Seconds for all.
  double fill(uint32_t sequences, int64_t context, int64_t rows, float temperature) {
    engine_.reset();
    lengths_.assign(sequences, static_cast<uint32_t>(context));
    const double begin = bench::seconds_now(CLOCK_MONOTONIC);
    gpu::StepPlan plan{.step = ++number_};
    int64_t room = rows;
    const auto send = [&] {
      submit(plan);
      plan = {.step = ++number_}, room = rows;
    };
    for (uint32_t slot = 0; slot < sequences; ++slot) {
      plan.starts.push_back({slot, 1, {.temperature = temperature, .seed = slot}});
      for (uint32_t b = 0; b < blocks_; ++b) plan.block_changes.push_back({slot, b, slot * blocks_ + b});
      for (int64_t at = 0; at < context;) {
        const int64_t end = std::min(context, at + room);
        std::vector<int32_t> ids;
        for (int64_t i = at; i < end; ++i)
          ids.push_back(static_cast<int32_t>((i * 7919 + 11 + slot) % checkpoint_->config().vocab));
        plan.sequences.push_back({slot, static_cast<uint32_t>(at), std::move(ids), end == context});
        room -= end - at, at = end;
        if (room == 0) send();
      }
    }
    if (plan.rows() > 0) send();
    drain();
    return bench::seconds_now(CLOCK_MONOTONIC) - begin;
  }

  /// Steps in which the first `rows` sequences bring one token each, the one that they sampled last.
  Took decode(uint32_t rows, int64_t warm, int64_t steps) {
    std::vector<double> done;
    for (int64_t i = 0; i < warm + steps; ++i) {
      gpu::StepPlan plan{.step = ++number_};
      for (uint32_t slot = 0; slot < rows; ++slot)
        plan.sequences.push_back({slot, lengths_[slot]++, {gpu::token_fed_back}, 1});
      submit(plan, &done);
    }
    drain(&done);
    std::vector<double> took;
    for (auto i = static_cast<size_t>(warm); i < done.size(); ++i) took.push_back(done[i] - done[i - 1]);
    std::ranges::sort(took);
    return {took[took.size() / 2], took.front()};
  }

 private:
  void take(std::vector<double>* done) {
    const auto result = engine_.next_done(step_limit);
    if (!result) throw std::runtime_error("no step was done within a minute");
    for (const gpu::SampledTokens& s : result->sequences)
      if (s.fault() != gpu::RowFault::none) throw std::runtime_error("a row's logits are not finite");
    if (done) done->push_back(bench::seconds_now(CLOCK_MONOTONIC));
  }
  void submit(const gpu::StepPlan& plan, std::vector<double>* done = nullptr) {
    while (engine_.in_flight() >= engine_.depth()) take(done);
    engine_.submit(plan, {}, {});
  }
  void drain(std::vector<double>* done = nullptr) {
    while (engine_.in_flight() > 0) take(done);
  }

  std::shared_ptr<const model::Checkpoint> checkpoint_;
  uint32_t blocks_;
  std::vector<Loaded> loaded_;
  gpu::Engine engine_;
  std::vector<uint32_t> lengths_;  // of the sequences
  uint64_t number_ = 0;
};

}  // namespace

int main(int argc, char** argv) try {
  std::string path, backend = "cuda";
  int64_t steps = 64, prompt_rows = 2048, context = 1024;
  std::vector<uint32_t> rows_list{1, 8, 32, 64, 256};
  float temperature = 0;
  model::DType kv_type = model::DType::bf16;
  CLI::App app{"Measures prompts and batches of decodes on a GPU, beside the floor of an H200"};
  app.add_option("--model", path, "checkpoint: a directory, a GGUF file or random:NAME")->required();
  app.add_option("--backend", backend)->check([](const std::string& name) {
    return gpu::is_device_name(name) ? std::string() : "there is no such device";
  });
  app.add_option("--rows", rows_list, "sequences of a step")->check(CLI::Range(1, 4096));
  app.add_option("--context", context, "tokens in each sequence's cache")->check(CLI::Range(1, 1 << 20));
  app.add_option("--prompt-rows", prompt_rows, "of a step")->check(CLI::Range(1, 1 << 16));
  app.add_option("--steps", steps, "of each measurement")->check(CLI::Range(1, 1 << 16));
  app.add_option("--temperature", temperature)->check(CLI::Range(0.f, 100.f));
  app.add_option("--kv-type", kv_type)->transform(CLI::CheckedTransformer(gpu::kv_types_by_name()));
  bool profiled = false;
  bool deterministic = false;
  app.add_flag("--deterministic", deterministic, "a row's bits depend on itself alone (stage.deterministic)");
  app.add_flag("--profile", profiled, "decodes run between cuProfilerStart and cuProfilerStop");
  CLI11_PARSE(app, argc, argv);

  const uint32_t sequences = std::ranges::max(rows_list);
  const int64_t tokens = context + static_cast<int64_t>(rows_list.size()) * (steps + warm_steps);
  const double begin = bench::seconds_now(CLOCK_MONOTONIC);
  Steps run(path, backend,
            {.kv_blocks = static_cast<uint32_t>(gpu::kv_blocks_for(tokens)) * sequences,
             .slots = sequences,
             .context_tokens = tokens,
             .rows_per_step = std::max<int64_t>(prompt_rows, sequences),
             .kv_type = kv_type,
             .deterministic = deterministic},
            tokens);
  const auto print = [&](boost::json::object line) {
    line["model"] = path, line["backend"] = backend, line["variant"] = std::string(run.variant());
    line["kv_type"] = std::string(model::info(kv_type).name);
    std::cout << boost::json::serialize(line) << std::endl;
  };
  const double ready = bench::seconds_now(CLOCK_MONOTONIC);
  run.fill(1, 1, prompt_rows, temperature);
  // The first layer pays for the driver's beginning.
  const auto &first = run.loaded().front(), &second = run.loaded()[1], &last = run.loaded().back();
  print({{"open_s", first.at_s - begin},
         {"load_s", last.at_s - first.at_s},
         {"load_bytes", last.bytes},
         {"load_gb_per_s", first.gb_per_s_to(last)},
         {"load_gb_per_s_behind_first_layer", second.gb_per_s_to(last)},
         {"prepare_s", ready - last.at_s},
         {"first_token_s", bench::seconds_now(CLOCK_MONOTONIC) - begin}});
  const double value_bytes = static_cast<double>(model::info(kv_type).block_bytes);
  const auto floor_of = [&](double rows, double sampled, double in_cache, double caches) {
    return bench::step_floor(run.checkpoint(),
                             {.rows = rows,
                              .sampled_rows = sampled,
                              .context_tokens = in_cache,
                              .sequences = caches,
                              .kv_value_bytes = value_bytes},
                             bench::h200);
  };

  // A prompt alone, twice: the first one captures and warms.
  run.fill(1, prompt_rows < context ? prompt_rows : context, prompt_rows, temperature);
  const int64_t prompt = std::min(prompt_rows, tokens);
  const double took = run.fill(1, prompt, prompt_rows, temperature);
  const double least = floor_of(static_cast<double>(prompt), 1, static_cast<double>(prompt) / 2, 1);
  print({{"prompt_tokens", prompt},
         {"prompt_tokens_per_s", static_cast<double>(prompt) / took},
         {"percent_of_floor", 100 * least / took}});

  run.fill(sequences, context, prompt_rows, temperature);
  const int64_t at = context + steps / 2;
  for (const uint32_t rows : rows_list) {
    if (profiled) profile(true);
    const Took decode = run.decode(rows, profiled ? 1 : warm_steps, steps);  // a profiler is slow
    if (profiled) profile(false);
    const double floor = floor_of(rows, rows, static_cast<double>(at), rows);
    print({{"rows", rows},
           {"context_tokens", at},
           {"temperature", temperature},
           {"step_ms", decode.median_s * 1e3},
           {"step_ms_best", decode.best_s * 1e3},
           {"floor_ms", floor * 1e3},
           {"tokens_per_s", rows / decode.median_s},
           {"percent_of_floor", 100 * floor / decode.median_s}});
  }
} catch (const std::exception& e) {
  std::cerr << "convoy_bench_gpu: " << e.what() << '\n';
  return 1;
}
