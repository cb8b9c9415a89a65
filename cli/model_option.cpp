#include "cli/model_option.hpp"

#include "model/random_model.hpp"

namespace convoy::cli {

void ModelOption::add_to(CLI::App& command, bool required, const std::string& names,
                         const std::string& help) {
  CLI::Option* named = command.add_option(names, model, help);
  CLI::Option* random = command.add_flag("--random", random_, "Random weights, made in memory; with --like");
  CLI::Option* like = command.add_option("--like", like_, "Whose dimensions the random weights have")
                          ->check(CLI::IsMember(model::random_model_names()))
                          ->needs(random);
  command.add_option("--layers", layers_, "How many of its layers (default: all)")
      ->check(CLI::PositiveNumber)
      ->needs(like);
  random->needs(like)->excludes(named);
  command.parse_complete_callback([this, required, names] {
    if (random_) model = "random:" + like_ + (layers_ > 0 ? ":" + std::to_string(layers_) : "");
    if (required && model.empty()) throw CLI::RequiredError(names + ", or --random --like NAME");
  });
}

}  // namespace convoy::cli
