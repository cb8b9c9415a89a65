// convoy verify --golden: holds a checkpoint's forward pass against stored logits and tokens. Needs no
// cluster.

#include "cli/verify.hpp"

#include <boost/json.hpp>
#include <cstdio>
#include <cstring>
#include <memory>

#include "cli/commands.hpp"
#include "cli/local_pipeline.hpp"
#include "gpu/devices.hpp"
#include "model/error.hpp"
#include "model/format/safetensors.hpp"

namespace convoy::cli {
namespace {

constexpr double logits_tolerance = 1e-3;  // of ‖out − ref‖/‖ref‖ at a position

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
  size_t index = 0, positions = 0, greedy_equal = 0, greedy_excused = 0, greedy_total = 0;
  double max_rel = 0, mean_rel = 0, mean_kl = 0;
  bool holds(double tolerance) const {
    return max_rel <= tolerance && greedy_equal + greedy_excused == greedy_total;
  }
};

/// The prompt, then the reference's own tokens one by one. A token other than the reference's is excused if
/// the two logits are closer than the errors seen on the prompt's stored positions explain.
Verdict judge(const GoldenPrompt& golden, size_t index, LocalPipeline& pipeline, size_t vocab) {
  Verdict verdict{.index = index, .positions = golden.rows, .greedy_total = golden.greedy.size()};
  const size_t prompt_tokens = golden.prompt.size(), stored = prompt_tokens - golden.rows;
  const auto positions = static_cast<double>(golden.rows);
  float error = 0;
  std::vector<float> next;  // the logits that decide the next token
  const auto compare = [&](size_t position, std::span<const float> own) {
    const std::span<const float> reference =
        std::span(golden.logits).subspan((position - stored) * vocab, vocab);
    double difference = 0, norm = 0;
    for (size_t i = 0; i < vocab; i++) {
      const double d = double{own[i]} - reference[i];
      difference += d * d, norm += double{reference[i]} * reference[i];
      error = std::max(error, std::abs(own[i] - reference[i]));
    }
    const double rel = difference == 0 ? 0 : std::sqrt(difference / norm);
    verdict.max_rel = std::max(verdict.max_rel, rel);
    verdict.mean_rel += rel / positions;
    verdict.mean_kl += kl_divergence(reference, own) / positions;
    next.assign(own.begin(), own.end());
  };
  pipeline.start(prompt_tokens, prompt_tokens + golden.greedy.size());
  pipeline.feed(golden.prompt, stored, compare);
  for (size_t i = 0; i < golden.greedy.size(); i++) {
    const auto token = static_cast<size_t>(golden.greedy[i]);
    const size_t own = arg_max(next);
    if (own == token)
      verdict.greedy_equal++;
    else if (next[own] - next[token] <= 2 * error)
      verdict.greedy_excused++;
    if (i + 1 < golden.greedy.size())
      pipeline.feed(std::span(golden.greedy).subspan(i, 1), 0, [&](size_t, std::span<const float> logits) {
        next.assign(logits.begin(), logits.end());
      });
  }
  return verdict;
}

void print(const Verdict& v, bool json, double tolerance) {
  if (json) {
    const boost::json::object line{{"prompt", v.index},
                                   {"positions", v.positions},
                                   {"max_rel", v.max_rel},
                                   {"mean_rel", v.mean_rel},
                                   {"mean_kl", v.mean_kl},
                                   {"greedy_equal", v.greedy_equal},
                                   {"greedy_excused", v.greedy_excused},
                                   {"greedy_total", v.greedy_total}};
    std::printf("%s\n", boost::json::serialize(line).c_str());
  } else {
    std::printf(
        "prompt %zu: %zu positions, max rel %.2e, mean rel %.2e, mean KL %.2e, greedy %zu of %zu equal, "
        "%zu excused: %s\n",
        v.index, v.positions, v.max_rel, v.mean_rel, v.mean_kl, v.greedy_equal, v.greedy_total,
        v.greedy_excused, v.holds(tolerance) ? "ok" : "outside the tolerance");
  }
}

}  // namespace

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

  const std::string backend = options.backend.name.empty() ? "cpu-reference" : options.backend.name;
  LocalPipeline pipeline(checkpoint, gpu::device_named(backend, options.threads), options.split,
                         static_cast<int64_t>(longest));
  const double tolerance = options.tolerance.value_or(logits_tolerance);
  size_t held = 0;
  for (size_t i = 0; i < prompts.size(); i++) {
    const Verdict verdict = judge(prompts[i], i, pipeline, static_cast<size_t>(config.vocab));
    print(verdict, options.json, tolerance);
    held += verdict.holds(tolerance);
  }
  if (held == prompts.size()) return ok;
  std::fprintf(stderr, "convoy: %zu of %zu prompts are outside the tolerance %g\n", prompts.size() - held,
               prompts.size(), tolerance);
  return failed;
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
  CLI::Option* text =
      command->add_option("--text", options->text, "The text to compare over")->needs(against);
  against->needs(text);
  command
      ->add_option("--tolerance", options->tolerance,
                   "Largest relative error of a position (default 1e-3); with --against the largest mean KL "
                   "divergence (default 0.01)")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--threads", options->threads, "Threads to compute with")->check(CLI::Range(1, 1024));
  command->add_flag("--json", options->json, "One JSON object a line");
  command->callback([options, &exit_code] {
    if (options->golden.empty() && options->against.name.empty())
      throw CLI::RequiredError("--golden FILE, or --against BACKEND --text FILE");
    exit_code = options->against.name.empty() ? verify_golden(*options) : verify_text(*options);
  });
}

}  // namespace convoy::cli
