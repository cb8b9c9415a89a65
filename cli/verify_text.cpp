// convoy verify --against reference: the fast kernels over a text.

#include <boost/json.hpp>
#include <cstdio>
#include <fstream>
#include <iterator>

#include "cli/commands.hpp"
#include "cli/local_pipeline.hpp"
#include "cli/verify.hpp"
#include "model/error.hpp"
#include "model/tokenizer.hpp"

namespace convoy::cli {
namespace {

constexpr double default_tolerance = 0.01;  // of the mean KL divergence
constexpr int64_t window_tokens_max =
    1024;  // a longer text is cut into pieces that know nothing of each other
constexpr uint64_t text_bytes_max = 16 << 20;

std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  if (!in) throw InputError("cannot be read", path, "give a text file");
  const auto bytes = static_cast<uint64_t>(in.tellg());
  if (bytes > text_bytes_max)
    throw InputError(std::to_string(bytes) + " bytes of text", path,
                     "at most " + std::to_string(text_bytes_max) + " are compared");
  in.seekg(0);
  return {std::istreambuf_iterator<char>(in), {}};
}

struct Comparison {
  double kl = 0, reference_loss = 0, fast_loss = 0;
  size_t positions = 0, same_top = 0, predicted = 0;

  void add(std::span<const int32_t> piece, LocalPipeline& reference, LocalPipeline& fast) {
    reference.start(piece.size(), piece.size());
    fast.start(piece.size(), piece.size());
    // Step by step, so that only one step's logits are kept.
    for (size_t at = 0; at < piece.size(); at += LocalPipeline::rows_per_step) {
      const auto chunk = piece.subspan(at, std::min(LocalPipeline::rows_per_step, piece.size() - at));
      std::vector<std::vector<float>> expected;
      reference.feed(chunk, at, [&](size_t, std::span<const float> logits) {
        expected.emplace_back(logits.begin(), logits.end());
      });
      fast.feed(chunk, at, [&](size_t position, std::span<const float> logits) {
        add(expected[position - at], logits);
        if (position + 1 == piece.size()) return;  // nothing to predict
        const auto next = static_cast<size_t>(piece[position + 1]);
        predicted++;
        reference_loss += log_sum_exp(expected[position - at]) - expected[position - at][next];
        fast_loss += log_sum_exp(logits) - logits[next];
      });
    }
  }

  void add(std::span<const float> reference, std::span<const float> fast) {
    positions++;
    kl += kl_divergence(reference, fast);
    same_top += arg_max(reference) == arg_max(fast);
  }
};

}  // namespace

int verify_text(const VerifyOptions& options) {
  const auto checkpoint = model::Checkpoint::open(options.model.model);
  const auto tokenizer = model::Tokenizer::load(options.model.model);
  const std::vector<int32_t> tokens = tokenizer->encode(read_text(options.text), false);
  if (tokens.size() < 2) throw InputError("has fewer than 2 tokens", options.text, "give a longer text");

  const int64_t window = std::min(window_tokens_max, checkpoint->config().context);
  LocalPipeline reference(checkpoint, gpu::Kernels::reference, options.threads, options.split, window);
  LocalPipeline fast(checkpoint, gpu::Kernels::fast, options.threads, options.split, window);
  Comparison c;
  for (size_t begin = 0; begin < tokens.size(); begin += static_cast<size_t>(window)) {
    const auto rest = std::span(tokens).subspan(begin);
    c.add(rest.first(std::min(static_cast<size_t>(window), rest.size())), reference, fast);
  }
  const auto count = static_cast<double>(c.positions), targets = static_cast<double>(c.predicted);
  const double mean_kl = c.kl / count, agreement = static_cast<double>(c.same_top) / count;
  const double reference_perplexity = std::exp(c.reference_loss / targets);
  const double fast_perplexity = std::exp(c.fast_loss / targets);
  if (options.json) {
    const boost::json::object line{{"tokens", c.positions},
                                   {"mean_kl", mean_kl},
                                   {"top1_agreement", agreement},
                                   {"perplexity_reference", reference_perplexity},
                                   {"perplexity_fast", fast_perplexity}};
    std::printf("%s\n", boost::json::serialize(line).c_str());
  } else {
    std::printf("%zu tokens: mean KL %.3e, top-1 agreement %.2f %%, perplexity %.4f reference, %.4f fast\n",
                c.positions, mean_kl, 100 * agreement, reference_perplexity, fast_perplexity);
  }
  const double tolerance = options.tolerance.value_or(default_tolerance);
  if (mean_kl <= tolerance) return ok;
  std::fprintf(stderr, "convoy: the mean KL divergence is above the tolerance %g\n", tolerance);
  return failed;
}

}  // namespace convoy::cli
