#include "cli/model_option.hpp"

namespace convoy::cli {

void ModelOption::add_to(CLI::App& command, bool required, const std::string& names,
                         const std::string& help) {
  command.add_option(names, model, help)->required(required);
}

}  // namespace convoy::cli
