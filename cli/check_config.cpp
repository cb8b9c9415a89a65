// convoy check-config: reads a configuration and says everything that is wrong with it, or prints the
// documentation.

#include <cstdio>

#include "actors/config/cluster_config.hpp"
#include "cli/commands.hpp"

namespace convoy::cli {

void add_check_config(CLI::App& app, int& exit_code) {
  CLI::App* command =
      app.add_subcommand("check-config", "Check a configuration: every problem with its line");
  auto file = std::make_shared<std::string>();
  auto no_model = std::make_shared<bool>(false);
  auto print_docs = std::make_shared<bool>(false);
  auto* docs =
      command->add_flag("--print-docs", *print_docs, "Print the page of all keys (docs/configuration.md)");
  auto* path = command->add_option("FILE", *file, "The configuration, usually cluster.conf");
  path->excludes(docs);
  command->add_flag("--no-model", *no_model, "The model, and a chat template's file, need not be there yet");
  command->callback([=, &exit_code] {
    if (*print_docs) {
      std::fputs(actors::configuration_page().c_str(), stdout);
      return;
    }
    if (file->empty()) throw CLI::RequiredError("FILE");
    const actors::ClusterConfig config =
        actors::load_cluster_config(*file, !*no_model);  // InputError: main prints it
    std::string models;
    for (const actors::ModelConfig& model : config.cluster.models)
      models += ", model \"" + model.id + "\" from " + model.path;
    std::printf("%s: ok: cluster \"%s\"%s, %zu node(s), %u stage(s)\n", file->c_str(),
                config.cluster.name.c_str(), models.c_str(), config.cluster.nodes.size(),
                config.stage_count());
    exit_code = ok;
    if (config.cluster.pipelines.size() < 2) return;
    for (const actors::PipelineConfig& pipeline : config.cluster.pipelines)
      std::printf("pipeline \"%s\" of model \"%s\": %u stage(s)\n", pipeline.name.c_str(),
                  pipeline.model.c_str(), config.of_pipeline(pipeline).stage_count());
  });
}

}  // namespace convoy::cli
