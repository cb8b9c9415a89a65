#pragma once
// Whether a cluster is ready: every model that it serves has a pipeline that is. Pure; what /readyz and
// `convoy status` say follows from it.

#include <string>
#include <vector>

namespace convoy::actors {

/// What a pipeline said last.
struct PipelineHealth {
  std::string name, model;
  bool silent = false;  // for too long
  bool ready = false;
  std::string reason;  // why not
};

/// Empty if each of these models has a pipeline that is ready; else which has not, and why.
std::string why_not_ready(const std::vector<std::string>& models,
                          const std::vector<PipelineHealth>& pipelines);

}  // namespace convoy::actors
