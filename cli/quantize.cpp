// convoy quantize: writes a checkpoint with weights of another type, and measures what that lost.

#include <boost/json.hpp>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>

#include "cli/backend_option.hpp"
#include "cli/commands.hpp"
#include "cli/comparison.hpp"
#include "gpu/devices.hpp"
#include "model/error.hpp"
#include "model/parallel.hpp"
#include "model/rewrite/rewrite.hpp"

namespace convoy::cli {
namespace {

namespace fs = std::filesystem;

struct QuantizeOptions {
  std::string model, to, out, text;
  BackendOption backend{"cpu-reference"};
  std::optional<double> kl_max;
  uint64_t shard_bytes = model::RewriteOptions{}.shard_bytes_max;
  int threads = static_cast<int>(model::all_cores());
  bool force = false, no_measurement = false, json = false;
};

/// Says now and then how far it is.
class ProgressLine {
 public:
  void operator()(const model::Rewriter::Progress& p) {
    kept_ += p.kept;
    const auto now = std::chrono::steady_clock::now();
    if (now < next_ && p.bytes_done < p.bytes_total) return;
    next_ = now + interval;
    constexpr double mib = 1 << 20;
    std::fprintf(stderr, "convoy: %.0f of %.0f MiB, %s\n", static_cast<double>(p.bytes_done) / mib,
                 static_cast<double>(p.bytes_total) / mib, std::string(p.tensor).c_str());
  }
  size_t kept() const { return kept_; }

 private:
  static constexpr std::chrono::seconds interval{5};
  std::chrono::steady_clock::time_point next_ = std::chrono::steady_clock::now() + interval;
  size_t kept_ = 0;
};

Comparison measure(const QuantizeOptions& options, const fs::path& written) {
  const auto source = model::Checkpoint::open(options.model), result = model::Checkpoint::open(written);
  const gpu::DeviceFactory device = gpu::device_named(options.backend.name, options.threads);
  const int64_t window = std::min(window_tokens_max, source->config().context);
  LocalPipeline before(source, device, {}, window);
  LocalPipeline after(result, device, {}, window);
  Comparison comparison;
  comparison.add(tokens_to_compare(options.model, *source, options.text), window, before, after);
  return comparison;
}

using Losses = std::array<model::RewriteLoss, model::weight_kinds>;

void print(const Losses& losses, const std::optional<Comparison>& c, size_t kept, bool json) {
  if (json) {
    boost::json::object errors;
    for (size_t kind = 0; kind < losses.size(); ++kind)
      if (losses[kind].power > 0) errors[model::weight_kind_names[kind]] = losses[kind].relative();
    boost::json::object line{{"tensors_kept", kept}, {"weight_error", errors}};
    if (c) {
      line["tokens"] = c->positions();
      line["mean_kl"] = c->errors().mean_kl();
      line["top1_agreement"] = c->top1_agreement();
      line["perplexity_ratio"] = c->other_perplexity() / c->reference_perplexity();
    }
    std::printf("%s\n", boost::json::serialize(line).c_str());
    return;
  }
  if (kept > 0) std::printf("%zu tensors were kept from an interrupted run\n", kept);
  std::printf("relative error of the weights:\n");
  for (size_t kind = 0; kind < losses.size(); ++kind)
    if (losses[kind].power > 0)
      std::printf("  %-20s %.3e\n", model::weight_kind_names[kind].data(), losses[kind].relative());
  if (c)
    std::printf(
        "%zu tokens: mean KL %.3e, top-1 agreement %.2f %%, perplexity %.4f before, %.4f after (%+.3f %%)\n",
        c->positions(), c->errors().mean_kl(), 100 * c->top1_agreement(), c->reference_perplexity(),
        c->other_perplexity(), 100 * (c->other_perplexity() / c->reference_perplexity() - 1));
}

int quantize(const QuantizeOptions& options) {
  const auto target = std::ranges::find(model::rewrite_targets, options.to) - model::rewrite_targets.begin();
  model::Rewriter rewriter({.source = options.model,
                            .out = options.out,
                            .target = static_cast<model::RewriteTarget>(target),
                            .force = options.force,
                            .threads = options.threads,
                            .shard_bytes_max = options.shard_bytes});
  for (const std::string& note : rewriter.notes()) std::fprintf(stderr, "convoy: note: %s\n", note.c_str());
  ProgressLine progress;
  rewriter.run(std::ref(progress));
  std::optional<Comparison> comparison;
  if (!options.no_measurement) comparison = measure(options, rewriter.partial());
  print(rewriter.losses(), comparison, progress.kept(), options.json);
  if (options.kl_max && !(comparison->errors().mean_kl() <= *options.kl_max)) {  // NaN is no agreement
    std::fprintf(
        stderr,
        "convoy: the mean KL divergence is above --max-kl %g; what was written stays at %s, and a run "
        "that allows more takes it up\n",
        *options.kl_max, rewriter.partial().c_str());
    return failed;
  }
  rewriter.finish();
  return ok;
}

}  // namespace

void add_quantize(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<QuantizeOptions>();
  CLI::App* command =
      app.add_subcommand("quantize", "Write a model with smaller weights, and measure the loss");
  command->add_option("--model", options->model, "A checkpoint's directory or a GGUF file")->required();
  command
      ->add_option("--to", options->to,
                   "bf16, fp8-block and int8 give a directory of safetensors; q8_0 and q4_k a GGUF")
      ->required()
      ->check(CLI::IsMember(
          std::vector<std::string>(model::rewrite_targets.begin(), model::rewrite_targets.end())));
  command->add_option("--out", options->out, "The directory or file to write; an interrupted run goes on")
      ->required();
  command->add_flag("--force", options->force,
                    "Leave out what a GGUF cannot say of a tokenizer, instead of refusing");
  command->add_option("--text", options->text, "The text to measure over (default: one of our own)");
  CLI::Option* kl_max =
      command
          ->add_option("--max-kl", options->kl_max, "Fail if the mean KL divergence of a token is above this")
          ->check(CLI::NonNegativeNumber);
  command->add_flag("--no-measurement", options->no_measurement, "Write only")->excludes(kl_max);
  command->add_option("--shard-bytes", options->shard_bytes,
                      "Largest safetensors file, unless a layer has more");
  options->backend.add_to(*command, "What to measure with");
  command->add_option("--threads", options->threads, "Threads to compute with")->check(CLI::Range(1, 1024));
  command->add_flag("--json", options->json, "One JSON object");
  command->callback([options, &exit_code] { exit_code = quantize(*options); });
}

}  // namespace convoy::cli
