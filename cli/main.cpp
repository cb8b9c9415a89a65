// convoy: one binary. Reads its arguments, runs one command, maps what went wrong to one line and an exit
// code.

#include <algorithm>
#include <boost/system/system_error.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <new>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "actors/process/log.hpp"
#include "cli/commands.hpp"
#include "cli/unavailable.hpp"
#include "model/error.hpp"
#include "model/nearest.hpp"
#include "model/out_of_memory.hpp"
#include "model/scarce.hpp"
#include "model/version.hpp"

namespace {

/// The command that the first arguments name, word by word, or the program itself. words: how many they are.
const CLI::App& command_in(const CLI::App& app, int argc, char** argv, int& words) {
  const CLI::App* command = &app;
  for (words = 0; words + 1 < argc; ++words) {
    const auto named = [&](const CLI::App* c) { return c->get_name() == argv[words + 1]; };
    const auto found = command->get_subcommands(named);
    if (found.empty()) break;
    command = found.front();
  }
  return *command;
}

/// "unknown command `statsu`; did you mean `status`?" for the first argument that no command and no option of
/// the command is.
std::string meant(const CLI::App& app, int argc, char** argv) {
  int words = 0;
  const CLI::App& command = command_in(app, argc, argv, words);
  std::string path;
  for (int i = 1; i <= words; ++i) path += std::string(argv[i]) + " ";
  std::vector<std::string> names;
  if (&command == &app)
    for (const CLI::App* known : app.get_subcommands([](const CLI::App*) { return true; }))
      if (!known->get_group().empty()) names.push_back(known->get_name());
  for (const CLI::Option* option : command.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  const std::vector<std::string_view> known(names.begin(), names.end());
  for (int i = words + 1; i < argc; ++i) {
    const std::string_view given = std::string_view(argv[i]).substr(0, std::string_view(argv[i]).find('='));
    const bool is_option = given.starts_with("--"), is_command = &command == &app && i == 1 && !is_option;
    if ((!is_option && !is_command) || std::find(known.begin(), known.end(), given) != known.end()) continue;
    const std::string_view near = convoy::model::nearest(given, known);
    return (is_command ? "unknown command `" : "unknown option `") + std::string(given) + "`" +
           (near.empty() ? "" : "; did you mean `" + std::string(near) + "`?") + " (`convoy " + path +
           "--help` lists them)";
  }
  return "";
}

/// Nobody foresaw it: a fault of ours, unless the system has no more to give.
int refused_by_system(const char* what, int error) {
  const std::string_view mend = convoy::mend_of_scarce(error);
  if (mend.empty()) {
    std::fprintf(stderr, "convoy: internal fault: %s\n", what);
    return convoy::cli::internal;
  }
  std::fprintf(stderr, "convoy: the system refused: %s; %s\n", what, mend.data());
  return convoy::cli::failed;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace convoy;
  CLI::App app{"convoy: an inference cluster on your own machines", "convoy"};
  app.require_subcommand(1);
  app.set_version_flag("--version", "convoy " + std::string(version()) + " (" + std::string(commit()) + ")");
  app.footer("Exit codes: 0 ok, 1 failed, 2 usage, 3 bad input, 4 unavailable, 70 internal fault.");
  int exit_code = cli::ok;
  log::configure("warn", false, "convoy");  // nodes and stages configure it anew
  for (const auto add :
       {cli::add_up,      cli::add_down,         cli::add_status,  cli::add_members,    cli::add_plan,
        cli::add_chat,    cli::add_check_config, cli::add_init,    cli::add_ca,         cli::add_token,
        cli::add_join,    cli::add_key,          cli::add_inspect, cli::add_make_model, cli::add_quantize,
        cli::add_verify,  cli::add_tokenize,     cli::add_render,  cli::add_node,       cli::add_head,
        cli::add_gateway, cli::add_stage})
    add(app, exit_code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e) == 0 ? cli::ok : cli::usage;  // --help, --version
    if (const std::string text = meant(app, argc, argv); !text.empty()) {
      std::fprintf(stderr, "convoy: %s\n", text.c_str());
      return cli::usage;
    }
    return app.exit(e), cli::usage;
  } catch (const InputError& e) {
    std::fprintf(stderr, "convoy: %s\n", e.what());
    return cli::bad_input;
  } catch (const cli::CheckFailed& e) {
    std::fprintf(stderr, "convoy: %s\n", e.what());
    return cli::failed;
  } catch (const std::bad_alloc& e) {
    std::fprintf(stderr, "convoy: %s\n", reason_of(e).c_str());
    return cli::failed;
  } catch (const std::filesystem::filesystem_error& e) {
    std::string path = e.path2().empty() ? e.path1().string() : e.path2().string();
    if (path.empty()) path = "the current folder";  // that it was deleted is all that names no path
    std::fprintf(stderr, "convoy: %s: %s\n", path.c_str(), e.code().message().c_str());
    return cli::bad_input;
  } catch (const cli::Unavailable& e) {
    std::fprintf(stderr, "convoy: %s\n", e.what());
    return cli::unavailable;
  } catch (const std::system_error& e) {
    return refused_by_system(e.what(), e.code().value());
  } catch (const boost::system::system_error& e) {
    return refused_by_system(e.what(), e.code().value());
  } catch (const std::exception& e) {
    std::fprintf(stderr, "convoy: internal fault: %s\n", e.what());
    return cli::internal;
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout)) {
    std::fprintf(stderr, "convoy: standard output: cannot be written: %s\n", std::strerror(errno));
    return cli::failed;
  }
  return exit_code;
}
