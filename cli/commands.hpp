#pragma once
// The commands of the one binary. Each lives in a file of its own and adds itself to the command line; its
// callback stores the exit code. main() turns exceptions into one line and a code.

#include <CLI/CLI.hpp>
#include <stdexcept>
#include <string>

namespace convoy::cli {

/// Exit codes, also printed by `convoy --help`.
enum ExitCode : int {
  ok = 0,
  failed = 1,       // the work itself failed: a check did not hold, the cluster is not ready
  usage = 2,        // wrong arguments
  bad_input = 3,    // a file, a configuration or a model is wrong (InputError)
  unavailable = 4,  // the cluster, a port or a service cannot be reached or is taken
  internal = 70,    // a fault of ours
};

/// A check that a command made did not hold: main() says why and ends with `failed`.
struct CheckFailed : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// "`convoy up`" as a hint names it, with the configuration that the user named if it is not the usual one.
inline std::string hint(const std::string& command, const std::string& config) {
  return "`convoy " + command + (config == "cluster.conf" ? "" : " --config " + config) + "`";
}

void add_inspect(CLI::App& app, int& exit_code);
void add_make_model(CLI::App& app, int& exit_code);
void add_verify(CLI::App& app, int& exit_code);
void add_quantize(CLI::App& app, int& exit_code);
void add_tokenize(CLI::App& app, int& exit_code);
void add_render(CLI::App& app, int& exit_code);
void add_check_config(CLI::App& app, int& exit_code);
void add_init(CLI::App& app, int& exit_code);
void add_ca(CLI::App& app, int& exit_code);
void add_token(CLI::App& app, int& exit_code);
void add_join(CLI::App& app, int& exit_code);
void add_key(CLI::App& app, int& exit_code);
void add_up(CLI::App& app, int& exit_code);
void add_down(CLI::App& app, int& exit_code);
void add_node(CLI::App& app, int& exit_code);
void add_head(CLI::App& app, int& exit_code);     // hidden: a node starts it
void add_gateway(CLI::App& app, int& exit_code);  // as well
void add_stage(CLI::App& app, int& exit_code);    // as well
void add_status(CLI::App& app, int& exit_code);
/// drain, undrain, add-node, remove.
void add_members(CLI::App& app, int& exit_code);
/// Asks the head, and computes what would be.
void add_plan(CLI::App& app, int& exit_code);
void add_chat(CLI::App& app, int& exit_code);

}  // namespace convoy::cli
