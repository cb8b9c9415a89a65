// Of cluster_config.hpp: the models of a cluster, its pipelines, and what one of these sees.

#include <algorithm>
#include <cassert>

#include "actors/config/cluster_config.hpp"
#include "model/error.hpp"
#include "model/format/gguf_parts.hpp"

namespace convoy::actors {

const PipelineConfig* ClusterConfig::find_pipeline(std::string_view name) const {
  for (const PipelineConfig& pipeline : cluster.pipelines)
    if (name.empty() || pipeline.name == name) return &pipeline;
  return nullptr;
}

const ModelConfig& ClusterConfig::model_of(const PipelineConfig& pipeline) const {
  const auto found = std::ranges::find(cluster.models, pipeline.model, &ModelConfig::id);
  assert(found != cluster.models.end());  // checked by check_models
  return *found;
}

const std::string& ClusterConfig::pipeline_of(const NodeConfig& node) const {
  return node.pipeline.empty() ? cluster.pipelines.front().name : node.pipeline;
}

ClusterConfig ClusterConfig::of_pipeline(const PipelineConfig& pipeline) const {
  ClusterConfig view = *this;
  const ModelConfig& served = model_of(pipeline);
  view.cluster.model = served.path;
  view.cluster.model_id = served.id;
  view.cluster.chat_template = served.chat_template;
  view.cluster.models = {served};
  view.cluster.pipelines = {pipeline};
  for (const NodeConfig& node : cluster.nodes)
    if (pipeline_of(node) != pipeline.name) view.cluster.others.push_back(node);
  std::erase_if(view.cluster.nodes, [&](const NodeConfig& node) {
    return pipeline_of(node) != pipeline.name && !node.has_role("pipeline");
  });
  for (NodeConfig& node : view.cluster.nodes) {
    node.pipeline = pipeline_of(node);
    if (node.pipeline != pipeline.name) node.stages = 0;
  }
  return view;
}

void complete_models(ClusterConfig::Cluster& cluster) {
  if (cluster.models.empty() && !cluster.model.empty())
    cluster.models.push_back({cluster.model_id, cluster.model, {}, cluster.chat_template});
  for (ModelConfig& model : cluster.models)
    if (model.id.empty()) model.id = default_model_id(model.path);
  if (cluster.models.empty()) return;
  if (cluster.pipelines.empty())
    for (const ModelConfig& model : cluster.models) cluster.pipelines.push_back({model.id, model.id});
  for (PipelineConfig& pipeline : cluster.pipelines)
    if (pipeline.model.empty()) pipeline.model = cluster.models.front().id;
}

std::string default_model_id(const std::filesystem::path& model) {
  const auto named = model.has_filename() ? model : model.parent_path();
  return named.extension() == ".gguf" ? std::string(model::without_part(named.stem().string()))
                                      : named.filename().string();
}

void replace_model(ClusterConfig& config, const std::string& path) {
  auto& models = config.cluster.models;
  if (models.size() != 1)
    throw InputError("the cluster serves " + std::to_string(models.size()) + " models, not one",
                     config.file.string() + ": cluster.models", "leave out --model, and change the list");
  const std::string id = default_model_id(path);
  for (PipelineConfig& pipeline : config.cluster.pipelines)
    if (pipeline.model == models[0].id) pipeline.model = id;
  models[0].path = path;
  models[0].id = id;
  if (config.cluster.model.empty()) return;
  config.cluster.model = path;
  config.cluster.model_id = id;
}

}  // namespace convoy::actors
