// convoy verify --golden: holds a checkpoint's forward pass against stored logits and tokens. Needs no
// cluster.

#include "cli/verify.hpp"

#include <boost/json.hpp>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>

#include "actors/config/plan_limits.hpp"
#include "cli/commands.hpp"
#include "cli/local_pipeline.hpp"
#include "gpu/devices.hpp"
#include "gpu/kv_types.hpp"
#include "model/error.hpp"
#include "model/format/safetensors.hpp"

namespace convoy::cli {
namespace {

constexpr ErrorLimits golden_limits{.max_rel = 1e-3, .median_rel = {}, .mean_kl = {}};
constexpr const char* float32_backend = "cpu-reference";

struct GoldenPrompt {
  std::vector<int32_t> prompt, greedy;
  size_t rows = 0;
  std::vector<float> logits;  // [rows, vocab]: of the prompt's last positions
};

std::vector<int32_t> read_tokens(const model::SafetensorsFile& file, const std::string& name,
                                 const std::string& where, int64_t vocab) {
  const model::Tensor& tensor = file.tensor(name);
  if (tensor.type != model::DType::i64 || tensor.shape.size() != 1 || tensor.shape[0] == 0)
    throw InputError("is not a list of int64", where + " " + name, "see the format of golden files");
  std::vector<int64_t> wide(static_cast<size_t>(tensor.shape[0]));
  std::memcpy(wide.data(), tensor.bytes.data(), tensor.bytes.size());
  for (int64_t id : wide)
    if (id < 0 || id >= vocab)
      throw InputError(
          "token " + std::to_string(id) + " is not below the vocabulary's size " + std::to_string(vocab),
          where + " " + name, "use the golden file of this model");
  return {wide.begin(), wide.end()};
}

GoldenPrompt read_golden(const model::SafetensorsFile& file, const std::string& where, size_t index,
                         const model::Config& config) {
  GoldenPrompt golden;
  const std::string suffix = std::to_string(index);
  golden.prompt = read_tokens(file, "prompt_" + suffix, where, config.vocab);
  golden.greedy = read_tokens(file, "greedy_" + suffix, where, config.vocab);
  const model::Tensor& logits = file.tensor("logits_" + suffix);
  if (logits.type != model::DType::f32 || logits.shape.size() != 2 || logits.shape[0] == 0 ||
      logits.shape[0] > static_cast<int64_t>(golden.prompt.size()) || logits.shape[1] != config.vocab)
    throw InputError("is not float32 [1 to " + std::to_string(golden.prompt.size()) + ", " +
                         std::to_string(config.vocab) + "]",
                     where + " logits_" + suffix, "use the golden file of this model");
  golden.rows = static_cast<size_t>(logits.shape[0]);
  golden.logits.resize(logits.bytes.size() / sizeof(float));
  std::memcpy(golden.logits.data(), logits.bytes.data(), logits.bytes.size());
  for (float logit : golden.logits)
    if (!std::isfinite(logit))
      throw InputError("is not finite", where + " logits_" + suffix, "make it again");
  const size_t tokens = golden.prompt.size() + golden.greedy.size();
  if (static_cast<int64_t>(tokens) > config.context)
    throw InputError(
        std::to_string(tokens) + " tokens are more than the context of " + std::to_string(config.context),
        where + " prompt_" + suffix, "use the golden file of this model");
  return golden;
}

/// Whether the text is a number from 0 to count − 1, as std::to_string writes it.
bool is_index(std::string_view text, size_t count) {
  for (size_t i = 0; i < count; i++)
    if (text == std::to_string(i)) return true;
  return false;
}

struct Verdict {
  LogitErrors errors;
  size_t greedy_equal = 0, greedy_excused = 0, greedy_total = 0;
  size_t rows = 0, differing_rows = 0;  // beside the float32 run, of a model with experts

  size_t greedy_lost() const { return greedy_total - greedy_equal - greedy_excused; }
  double experts_differ() const {
    return rows == 0 ? 0 : static_cast<double>(differing_rows) / static_cast<double>(rows);
  }
  void add(const Verdict& other) {
    errors.add(other.errors);
    greedy_equal += other.greedy_equal, greedy_excused += other.greedy_excused;
    greedy_total += other.greedy_total, rows += other.rows, differing_rows += other.differing_rows;
  }
};

/// What is checked and, if experts are compared or replayed, the run in float32 beside it.
struct Runs {
  LocalPipeline checked;
  std::optional<LocalPipeline> float32;
  bool replay = false;

  void start(size_t prompt_tokens, size_t tokens) {
    checked.start(prompt_tokens, tokens);
    if (float32) float32->start(prompt_tokens, tokens);
  }
  /// A step of both.
  void feed(std::span<const int32_t> tokens, size_t wanted, Verdict& verdict,
            const LocalPipeline::UseLogits& use) {
    constexpr size_t none = SIZE_MAX;
    if (float32) float32->feed(tokens, none, {});
    if (replay) checked.replay(float32->routing());
    checked.feed(tokens, wanted, use);
    if (!float32 || checked.routing().of_row == 0) return;
    verdict.rows += tokens.size();
    verdict.differing_rows += checked.routing().differing_rows(float32->routing());
  }
};

/// The prompt, then the reference's own tokens one by one. A token other than the reference's is excused if
/// the two logits are closer than the errors seen on the prompt's stored positions explain.
Verdict judge(const GoldenPrompt& golden, Runs& runs, size_t vocab) {
  Verdict verdict{.errors = {}, .greedy_total = golden.greedy.size()};
  const size_t prompt_tokens = golden.prompt.size(), stored = prompt_tokens - golden.rows;
  std::vector<float> next;  // the logits that decide the next token
  runs.start(prompt_tokens, prompt_tokens + golden.greedy.size());
  for (const auto step : LocalPipeline::steps_of(golden.prompt))
    runs.feed(step, stored, verdict, [&](size_t position, std::span<const float> own) {
      verdict.errors.add(std::span(golden.logits).subspan((position - stored) * vocab, vocab), own);
      next.assign(own.begin(), own.end());
    });
  for (size_t i = 0; i < golden.greedy.size(); i++) {
    const auto token = static_cast<size_t>(golden.greedy[i]);
    const size_t own = arg_max(next);
    if (own == token)
      verdict.greedy_equal++;
    else if (next[own] - next[token] <= 2 * verdict.errors.largest_difference())
      verdict.greedy_excused++;
    if (i + 1 < golden.greedy.size())
      runs.feed(std::span(golden.greedy).subspan(i, 1), 0, verdict,
                [&](size_t, std::span<const float> logits) { next.assign(logits.begin(), logits.end()); });
  }
  return verdict;
}

/// Of one prompt, or of all.
void print(const std::string& what, size_t value, const Verdict& v, bool json) {
  const LogitErrors& e = v.errors;
  if (json) {
    boost::json::object line{{what, value},
                             {"positions", e.positions()},
                             {"max_rel", e.max_rel()},
                             {"median_rel", e.median_rel()},
                             {"mean_rel", e.mean_rel()},
                             {"mean_kl", e.mean_kl()},
                             {"greedy_equal", v.greedy_equal},
                             {"greedy_excused", v.greedy_excused},
                             {"greedy_total", v.greedy_total}};
    if (v.rows > 0) line["experts_differ"] = v.experts_differ();
    std::printf("%s\n", boost::json::serialize(line).c_str());
    return;
  }
  std::printf(
      "%s %zu: %zu positions, rel max %.2e, median %.2e, mean %.2e, mean KL %.2e, greedy %zu of %zu equal, "
      "%zu excused",
      what.c_str(), value, e.positions(), e.max_rel(), e.median_rel(), e.mean_rel(), e.mean_kl(),
      v.greedy_equal, v.greedy_total, v.greedy_excused);
  if (v.rows > 0) std::printf(", experts differ at %.2f %% of positions", 100 * v.experts_differ());
  std::printf("\n");
}

}  // namespace

int complain(const std::vector<std::string>& faults) {
  for (const std::string& fault : faults) std::fprintf(stderr, "convoy: %s\n", fault.c_str());
  return faults.empty() ? ok : failed;
}

std::optional<std::string> replay_fault(const VerifyOptions& options, double experts_differ) {
  if (options.routing != RoutingRule::replay || experts_differ == 0) return std::nullopt;
  return "rows went to other experts than those that were replayed: the backend did not heed them";
}

int verify_golden(const VerifyOptions& options) {
  const auto checkpoint = model::Checkpoint::open(options.model.model);
  const model::Config& config = checkpoint->config();
  const auto file = model::SafetensorsFile::open(options.golden);
  std::vector<GoldenPrompt> prompts;
  size_t longest = 0;
  while (file.contains("prompt_" + std::to_string(prompts.size()))) {
    prompts.push_back(read_golden(file, options.golden, prompts.size(), config));
    longest = std::max(longest, prompts.back().prompt.size() + prompts.back().greedy.size());
  }
  if (prompts.empty())
    throw InputError("has no prompt_0", options.golden, "give a file with reference prompts");
  for (const auto& [name, tensor] : file.tensors())
    if (name.starts_with("prompt_") && !is_index(std::string_view(name).substr(7), prompts.size()))
      throw InputError("prompts are not numbered from 0 without gaps", options.golden + " " + name,
                       "renumber them");

  const auto pipeline = [&](const std::string& backend, std::optional<model::DType> kv_type) {
    return LocalPipeline(checkpoint, gpu::device_named(backend, options.threads), options.split,
                         static_cast<int64_t>(longest), kv_type);
  };
  Runs runs{.checked = pipeline(options.backend.name.empty() ? float32_backend : options.backend.name,
                                options.kv_type),
            .replay = options.routing == RoutingRule::replay};
  if (options.routing) runs.float32.emplace(pipeline(float32_backend, std::nullopt));
  Verdict all;
  for (size_t i = 0; i < prompts.size(); i++) {
    const Verdict verdict = judge(prompts[i], runs, static_cast<size_t>(config.vocab));
    print("prompt", i, verdict, options.json);
    all.add(verdict);
  }
  print("prompts", prompts.size(), all, options.json);
  auto faults = all.errors.above(options.limits.or_else(runs.replay ? replay_limits : golden_limits));
  if (all.greedy_lost() > 0)
    faults.push_back(std::to_string(all.greedy_lost()) +
                     " tokens are neither the reference's nor as good within the errors that were seen");
  if (const auto fault = replay_fault(options, all.experts_differ())) faults.push_back(*fault);
  return complain(faults);
}

void add_verify(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<VerifyOptions>();
  CLI::App* command = app.add_subcommand("verify", "Check a model's forward pass against reference logits");
  options->model.add_to(*command, true);
  CLI::Option* golden =
      command->add_option("--golden", options->golden, "Reference prompts, logits and tokens (.safetensors)");
  command->add_option("--split", options->split, "First layers of further stages, such as 3,7")
      ->delimiter(',');
  options->backend.add_to(*command, "What to check (default cpu-reference; with --against auto)");
  CLI::Option* against =
      options->against.add_to(*command, "Another backend to compare it with over a text", "--against")
          ->excludes(golden);
  command
      ->add_option_function<std::string>(
          "--kv-type", [options](const std::string& name) { options->kv_type = actors::kv_type_named(name); },
          "How what is checked keeps keys and values (default: its device's choice)")
      ->check(CLI::IsMember(gpu::kv_types_by_name()));
  command->add_option("--text", options->text, "The text to compare over (default: one of our own)")
      ->needs(against);
  command
      ->add_option_function<std::string>(
          "--routing",
          [options](const std::string& rule) {
            options->routing = rule == "own" ? RoutingRule::own : RoutingRule::replay;
          },
          "Also run in float32 (with --against that backend, else cpu-reference) and print where experts "
          "differ (own), or send rows to the experts chosen there (replay)")
      ->check(CLI::IsMember({"own", "replay"}));
  const auto limit = [&](const char* name, std::optional<double>& value, const char* help) {
    command->add_option(name, value, help)->check(CLI::NonNegativeNumber);
  };
  limit("--max-rel", options->limits.max_rel,
        "Largest relative error of a position's logits (default with --golden 1e-3, with replay 0.25)");
  limit("--max-median-rel", options->limits.median_rel, "Median relative error (default with replay 4e-2)");
  limit("--max-kl", options->limits.mean_kl,
        "Mean KL divergence (default with --against 0.01, with replay 4e-3)");
  command->add_option("--threads", options->threads, "Threads to compute with")->check(CLI::Range(1, 1024));
  command->add_flag("--json", options->json, "One JSON object a line");
  command->callback([options, &exit_code] {
    if (options->golden.empty() && options->against.name.empty())
      throw CLI::RequiredError("--golden FILE, or --against BACKEND");
    exit_code = options->against.name.empty() ? verify_golden(*options) : verify_text(*options);
  });
}

}  // namespace convoy::cli
