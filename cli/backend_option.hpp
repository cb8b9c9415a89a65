#pragma once
// The option that names what computes, the same for every command that does: the names of stage.backend.

#include <CLI/CLI.hpp>
#include <string>

namespace convoy::cli {

struct BackendOption {
  std::string name;  // before add_to() its default; empty: the command decides

  CLI::Option* add_to(CLI::App& command, const std::string& help, const std::string& option = "--backend");
};

}  // namespace convoy::cli
