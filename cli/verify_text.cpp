// convoy verify --against BACKEND: one backend and another over a text.

#include <boost/json.hpp>
#include <cstdio>

#include "cli/commands.hpp"
#include "cli/comparison.hpp"
#include "cli/local_pipeline.hpp"
#include "cli/verify.hpp"
#include "gpu/devices.hpp"
#include "model/error.hpp"
#include "model/tokenizer/tokenizer.hpp"

namespace convoy::cli {
namespace {

constexpr double kl_tolerance = 0.01;  // of the mean KL divergence

}  // namespace

int verify_text(const VerifyOptions& options) {
  const auto checkpoint = model::Checkpoint::open(options.model.model);
  const auto tokenizer = model::Tokenizer::load(options.model.model);
  const std::vector<int32_t> tokens = tokens_of(read_text(options.text), *tokenizer, options.text);

  const int64_t window = std::min(window_tokens_max, checkpoint->config().context);
  const std::string backend = options.backend.name.empty() ? "auto" : options.backend.name;
  const auto pipeline = [&](const std::string& name) {
    return LocalPipeline(checkpoint, gpu::device_named(name, options.threads), options.split, window);
  };
  LocalPipeline reference = pipeline(options.against.name), checked = pipeline(backend);
  Comparison c;
  c.add(tokens, window, reference, checked);
  if (options.json) {
    const boost::json::object line{{"tokens", c.positions()},
                                   {"mean_kl", c.mean_kl()},
                                   {"top1_agreement", c.top1_agreement()},
                                   {"perplexity_against", c.reference_perplexity()},
                                   {"perplexity", c.other_perplexity()}};
    std::printf("%s\n", boost::json::serialize(line).c_str());
  } else {
    std::printf("%zu tokens: mean KL %.3e, top-1 agreement %.2f %%, perplexity %.4f with %s, %.4f with %s\n",
                c.positions(), c.mean_kl(), 100 * c.top1_agreement(), c.reference_perplexity(),
                options.against.name.c_str(), c.other_perplexity(), backend.c_str());
  }
  const double tolerance = options.tolerance.value_or(kl_tolerance);
  if (c.mean_kl() <= tolerance) return ok;
  std::fprintf(stderr, "convoy: the mean KL divergence is above the tolerance %g\n", tolerance);
  return failed;
}

}  // namespace convoy::cli
