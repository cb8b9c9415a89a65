#pragma once
// The options that name a model, the same for every command that takes one.

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

namespace convoy::cli {

struct ModelOption {
  std::string model;  // a path, or random:NAME[:LAYERS]; empty: none was given

  /// --model, or `names` if they say more, and --random --like NAME [--layers N], which says random:NAME[:N].
  /// Must live as long as the command.
  void add_to(CLI::App& command, bool required, const std::string& names = "--model",
              const std::string& help = "A checkpoint's directory, a GGUF file, or random:NAME[:LAYERS]");

 private:
  bool random_ = false;
  std::string like_;
  int64_t layers_ = 0;
};

}  // namespace convoy::cli
