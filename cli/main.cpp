// convoy: one binary. Reads its arguments, runs one command, maps what went wrong to one line and an exit
// code.

#include <cstdio>
#include <exception>
#include <string>

#include "actors/log.hpp"
#include "cli/commands.hpp"
#include "model/error.hpp"
#include "model/version.hpp"

int main(int argc, char** argv) {
  using namespace convoy;
  CLI::App app{"convoy: an inference cluster on your own machines", "convoy"};
  app.require_subcommand(1);
  app.set_version_flag("--version", "convoy " + std::string(version()) + " (" + std::string(commit()) + ")");
  app.footer("Exit codes: 0 ok, 1 failed, 2 usage, 3 bad input, 4 unavailable, 70 internal fault.");
  int exit_code = cli::ok;
  log::configure("warn", false, "convoy");  // nodes and stages configure it anew
  for (const auto add : {cli::add_up, cli::add_down, cli::add_status, cli::add_chat, cli::add_check_config,
                         cli::add_inspect, cli::add_make_model, cli::add_quantize, cli::add_verify,
                         cli::add_tokenize, cli::add_render, cli::add_node, cli::add_stage})
    add(app, exit_code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? cli::ok : cli::usage;
  } catch (const InputError& e) {
    std::fprintf(stderr, "convoy: %s\n", e.what());
    return cli::bad_input;
  } catch (const cli::CheckFailed& e) {
    std::fprintf(stderr, "convoy: %s\n", e.what());
    return cli::failed;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "convoy: internal fault: %s\n", e.what());
    return cli::internal;
  }
  return exit_code;
}
