#pragma once
// The option that names a model, the same for every command that takes one.

#include <CLI/CLI.hpp>
#include <string>

namespace convoy::cli {

struct ModelOption {
  std::string model;  // a path, or random:NAME[:LAYERS]; empty: none was given

  /// --model, or `names` if they say more. Must live as long as the command.
  void add_to(CLI::App& command, bool required, const std::string& names = "--model",
              const std::string& help = "A checkpoint's directory, a GGUF file, or random:NAME[:LAYERS]");
};

}  // namespace convoy::cli
