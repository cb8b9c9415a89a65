// convoy verify --against BACKEND: one backend and another over a text.

#include <boost/json.hpp>
#include <cstdio>

#include "cli/commands.hpp"
#include "cli/comparison.hpp"
#include "cli/local_pipeline.hpp"
#include "cli/verify.hpp"
#include "gpu/devices.hpp"
#include "model/error.hpp"

namespace convoy::cli {
namespace {

constexpr ErrorLimits text_limits{.max_rel = {}, .median_rel = {}, .mean_kl = 0.01};

}  // namespace

int verify_text(const VerifyOptions& options) {
  const auto checkpoint = model::Checkpoint::open(options.model.model);
  const std::vector<int32_t> tokens = tokens_to_compare(options.model.model, *checkpoint, options.text);
  const int64_t window = std::min(window_tokens_max, checkpoint->config().context);
  const std::string backend = options.backend.name.empty() ? "auto" : options.backend.name;
  const auto pipeline = [&](const std::string& name, std::optional<model::DType> kv_type) {
    return LocalPipeline(checkpoint, gpu::device_named(name, options.threads), options.split, window,
                         kv_type);
  };
  LocalPipeline reference = pipeline(options.against.name, std::nullopt),
                checked = pipeline(backend, options.kv_type);
  const bool replay = options.routing == RoutingRule::replay, experts = checkpoint->config().moe.has_value();
  Comparison c;
  c.add(tokens, window, reference, checked, replay);
  const LogitErrors& e = c.errors();
  if (options.json) {
    boost::json::object line{{"tokens", c.positions()},
                             {"max_rel", e.max_rel()},
                             {"median_rel", e.median_rel()},
                             {"mean_kl", e.mean_kl()},
                             {"top1_agreement", c.top1_agreement()},
                             {"perplexity_against", c.reference_perplexity()},
                             {"perplexity", c.other_perplexity()}};
    if (experts) line["experts_differ"] = c.experts_differ();
    std::printf("%s\n", boost::json::serialize(line).c_str());
  } else {
    std::printf(
        "%zu tokens: rel max %.3e, median %.3e, mean KL %.3e, top-1 agreement %.2f %%, perplexity %.4f with "
        "%s, %.4f with %s",
        c.positions(), e.max_rel(), e.median_rel(), e.mean_kl(), 100 * c.top1_agreement(),
        c.reference_perplexity(), options.against.name.c_str(), c.other_perplexity(), backend.c_str());
    if (experts) std::printf(", experts differ at %.2f %% of positions", 100 * c.experts_differ());
    std::printf("\n");
  }
  auto faults = e.above(options.limits.or_else(replay ? replay_limits : text_limits));
  if (const auto fault = replay_fault(options, c.experts_differ())) faults.push_back(*fault);
  return complain(faults);
}

}  // namespace convoy::cli
