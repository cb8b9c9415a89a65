// Of config_check.hpp: models, the pipelines that serve them, and whose stages these have.

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <map>
#include <set>
#include <system_error>
#include <tuple>

#include "actors/config/plain_name.hpp"
#include "actors/config_check.hpp"
#include "actors/pipeline_name.hpp"
#include "model/chat/chat_template.hpp"
#include "model/checkpoint/random_model.hpp"
#include "model/error.hpp"
#include "model/json.hpp"
#include "model/nearest.hpp"

namespace convoy::actors {

namespace {

using Conflicts = std::vector<ConfigConflict>;

/// Where the configuration says that of a model: in the list, or with the keys of a cluster of one.
std::string key_of(const ClusterConfig& config, size_t index, const std::string& field) {
  if (config.cluster.model.empty()) return "cluster.models[" + std::to_string(index) + "]." + field;
  return "cluster." + (field == "path" ? "model" : field == "id" ? "model_id" : field);
}

void check_names(const ClusterConfig& config, Conflicts& conflicts) {
  std::map<std::string, std::string> known;  // key of the first that has the name
  const auto add = [&](const std::string& name, const std::string& key) {
    const auto [first, fresh] = known.emplace(name, key);
    if (!fresh)
      conflicts.push_back({key,
                           "two models can be asked for as \"" + name + "\", here and in `" + first->second +
                               "`; give each its own names",
                           {first->second}});
  };
  const auto& models = config.cluster.models;
  for (size_t i = 0; i < models.size(); ++i) {
    add(models[i].id, key_of(config, i, "id"));
    for (const std::string& alias : models[i].aliases) {
      if (alias.empty())
        conflicts.push_back({key_of(config, i, "aliases"), "an empty alias; leave it out"});
      else
        add(alias, key_of(config, i, "aliases"));
    }
  }
}

void check_template_name(const ModelConfig& model, const std::string& key, Conflicts& conflicts) {
  const auto templates = model::ChatTemplate::names();
  const std::string& chosen = model.chat_template;
  if (chosen.empty() || model::ChatTemplate::is_path(chosen) ||
      std::find(templates.begin(), templates.end(), chosen) != templates.end())
    return;
  conflicts.push_back(
      {key, "`" + key + "` is " + model::in_quotes(chosen) +
                ", which is no template that comes with Convoy, nor a file's path (which ends "
                "in .jinja or has a slash)" +
                model::suggestion(chosen, templates)});
}

void check_random_model(const ModelConfig& model, const std::string& key, Conflicts& conflicts) {
  if (!model::names_random_model(model.path)) return;
  try {
    model::random_config_json(model::parse_random_model(model.path));
  } catch (const InputError& e) {
    conflicts.push_back({key, "`" + key + "` is \"" + model.path + "\": " + e.problem() + "; " + e.mend()});
  }
}

void check_pipelines(const ClusterConfig& config, Conflicts& conflicts) {
  const auto& [models, pipelines] = std::tie(config.cluster.models, config.cluster.pipelines);
  std::vector<std::string_view> ids;
  for (const ModelConfig& model : models) ids.push_back(model.id);
  std::set<std::string> names, served;
  std::map<uint32_t, std::string> instances;
  for (size_t i = 0; i < pipelines.size(); ++i) {
    const std::string path = "cluster.pipelines[" + std::to_string(i) + "]";
    const PipelineConfig& pipeline = pipelines[i];
    if (!names.insert(pipeline.name).second)
      conflicts.push_back(
          {path + ".name", "two pipelines are named \"" + pipeline.name + "\"; give each its own name"});
    if (const auto& first = instances.emplace(pipeline_instance(pipeline.name), pipeline.name).first->second;
        first != pipeline.name)
      conflicts.push_back({path + ".name", "pipelines \"" + first + "\" and \"" + pipeline.name +
                                               "\" cannot be told apart on links; rename one"});
    // One that is named after its model is called as that is.
    if (!is_plain_name(pipeline.name) && pipeline.name != pipeline.model)
      conflicts.push_back({path + ".name", "pipeline name \"" + pipeline.name + "\"; " + plain_name_rule});
    if (std::find(ids.begin(), ids.end(), pipeline.model) == ids.end())
      conflicts.push_back({path + ".model", "`" + path + ".model` is \"" + pipeline.model +
                                                "\", which is the id of no model" +
                                                model::suggestion(pipeline.model, ids)});
    served.insert(pipeline.model);
  }
  // Of a misspelt one nobody knows whose it was meant to be.
  if (std::ranges::any_of(served, [&](const auto& id) { return std::ranges::find(ids, id) == ids.end(); }))
    return;
  for (size_t i = 0; i < models.size(); ++i)
    if (!served.contains(models[i].id))
      conflicts.push_back({key_of(config, i, "id"),
                           "no pipeline serves the model \"" + models[i].id +
                               "\"; add one to `cluster.pipelines`, or leave the model out",
                           {"cluster.pipelines"}});
}

void check_stages_of_pipelines(const ClusterConfig& config, Conflicts& conflicts) {
  const auto& [pipelines, nodes] = std::tie(config.cluster.pipelines, config.cluster.nodes);
  std::vector<std::string_view> names;
  for (const PipelineConfig& pipeline : pipelines) names.push_back(pipeline.name);
  std::map<std::string, uint32_t> stages;
  std::vector<std::string> keys{"cluster.pipelines", "cluster.models"};
  for (size_t i = 0; i < nodes.size(); ++i) {
    const std::string path = "cluster.nodes[" + std::to_string(i) + "]";
    keys.push_back(path + ".pipeline");
    keys.push_back(path + ".stages");
    if (config.find_pipeline(nodes[i].pipeline))
      stages[config.pipeline_of(nodes[i])] += nodes[i].stages;
    else
      conflicts.push_back({path + ".pipeline",
                           "`" + path + ".pipeline` is \"" + nodes[i].pipeline + "\", which is no pipeline" +
                               model::suggestion(nodes[i].pipeline, names),
                           {"cluster.pipelines", "cluster.models"}});
  }
  if (pipelines.size() < 2) return;  // that no node has stages is said anyway
  for (const PipelineConfig& pipeline : pipelines)
    if (stages[pipeline.name] == 0)
      conflicts.push_back({"cluster.nodes",
                           "no node has stages of pipeline \"" + pipeline.name +
                               "\"; give one `pipeline = \"" + pipeline.name + "\"` and `stages = 1` or more",
                           keys});
}

/// What is wrong with a model that should be there; empty: nothing.
std::string model_problem(const std::filesystem::path& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (error || !std::filesystem::exists(status))
    return (error ? error : std::make_error_code(std::errc::no_such_file_or_directory)).message();
  const bool folder = std::filesystem::is_directory(status);
  const auto first = folder ? path / "config.json" : path;
  std::ifstream file(first, std::ios::binary);
  if (!file) {
    const std::error_code reason(errno, std::generic_category());
    return folder ? "the folder's config.json: " + reason.message() : reason.message();
  }
  std::string magic(4, '\0');
  if (!folder && (!file.read(magic.data(), 4) || magic != "GGUF"))
    return "is neither a GGUF file nor a folder with config.json and safetensors";
  return "";
}

void check_template_file(const ModelConfig& model, const std::string& key,
                         const std::filesystem::path& folder, Conflicts& conflicts) {
  const std::string& chosen = model.chat_template;
  if (!model::ChatTemplate::is_path(chosen)) return;
  try {
    model::ChatTemplate::named((folder / chosen).string(), {});
  } catch (const InputError& e) {
    conflicts.push_back({key, "`" + key + "` is " + model::in_quotes(chosen) + ": " + e.where() + ": " +
                                  e.problem() + "; " + e.mend()});
  }
}

void check_model_file(const ModelConfig& model, const std::string& key, const std::filesystem::path& folder,
                      Conflicts& conflicts) {
  if (model::names_random_model(model.path)) return;
  const std::string path = model::resolve_model(model.path, folder);
  const std::string problem = model_problem(path);
  if (problem.empty()) return;
  conflicts.push_back({key, "`" + key + "` is \"" + model.path + "\": " + path + ": " + problem +
                                "; give the path of a model (scripts/fetch-model fetches one)"});
}

}  // namespace

Conflicts check_forms(const ClusterConfig& config) {
  Conflicts conflicts;
  const auto& cluster = config.cluster;
  if (cluster.models.empty()) return conflicts;
  const std::pair<const char*, const std::string&> keys[] = {
      {"model", cluster.model}, {"model_id", cluster.model_id}, {"chat_template", cluster.chat_template}};
  for (const auto& [name, value] : keys)
    if (!value.empty())
      conflicts.push_back({std::string("cluster.") + name,
                           std::string("`cluster.") + name +
                               "` is of a cluster of one model, and `cluster.models` lists them; keep one of "
                               "the two",
                           {"cluster.models"}});
  return conflicts;
}

void check_models(const ClusterConfig& config, Conflicts& conflicts) {
  const auto& models = config.cluster.models;
  for (size_t i = 0; i < models.size(); ++i) {
    check_template_name(models[i], key_of(config, i, "chat_template"), conflicts);
    check_random_model(models[i], key_of(config, i, "path"), conflicts);
  }
  // One that is missing is said already.
  if (models.empty() || std::ranges::any_of(models, [](const auto& m) { return m.path.empty(); })) return;
  check_names(config, conflicts);
  check_pipelines(config, conflicts);
  check_stages_of_pipelines(config, conflicts);
}

Conflicts check_files(const ClusterConfig& config, const std::filesystem::path& folder) {
  Conflicts conflicts;
  const auto& models = config.cluster.models;
  for (size_t i = 0; i < models.size(); ++i) {
    check_template_file(models[i], key_of(config, i, "chat_template"), folder, conflicts);
    check_model_file(models[i], key_of(config, i, "path"), folder, conflicts);
  }
  return conflicts;
}

}  // namespace convoy::actors
