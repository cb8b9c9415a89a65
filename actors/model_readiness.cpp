#include "actors/model_readiness.hpp"

#include <algorithm>

namespace convoy::actors {

namespace {

std::string reason_of(const PipelineHealth& pipeline) {
  const std::string name = "pipeline " + pipeline.name;
  if (pipeline.silent) return name + " has not reported lately";
  return name + (pipeline.reason.empty() ? " is not ready" : ": " + pipeline.reason);
}

}  // namespace

std::string why_not_ready(const std::vector<std::string>& models,
                          const std::vector<PipelineHealth>& pipelines) {
  for (const std::string& model : models) {
    std::string reasons;
    bool ready = false;
    for (const PipelineHealth& pipeline : pipelines) {
      if (pipeline.model != model) continue;
      ready |= pipeline.ready && !pipeline.silent;
      reasons += (reasons.empty() ? "" : "; ") + reason_of(pipeline);
    }
    if (ready) continue;
    if (reasons.empty()) reasons = "no pipeline has reported yet";
    return models.size() > 1 ? "model " + model + ": " + reasons : reasons;
  }
  return {};
}

}  // namespace convoy::actors
