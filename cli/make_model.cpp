// convoy make-model: a checkpoint of random weights with the dimensions of a published model.

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <map>

#include "cli/commands.hpp"
#include "model/rewrite/checkpoint_writer.hpp"

namespace convoy::cli {

namespace {

using model::DType;

const std::map<std::string, DType> types{
    {"bf16", DType::bf16}, {"f32", DType::f32}, {"fp8-block", DType::f8_e4m3}};

/// One line that changes on a terminal, a line every ten seconds elsewhere.
class Progress {
 public:
  void operator()(uint64_t done, uint64_t all) {
    const auto now = Clock::now();
    if (now - shown_ < (terminal_ ? std::chrono::milliseconds(200) : std::chrono::seconds(10))) return;
    shown_ = now;
    constexpr double gigabyte = 1e9;
    std::fprintf(stderr, terminal_ ? "\r\033[K%.1f of %.1f GB" : "%.1f of %.1f GB\n",
                 static_cast<double>(done) / gigabyte, static_cast<double>(all) / gigabyte);
  }
  void end() const {
    if (terminal_) std::fprintf(stderr, "\r\033[K");
  }

 private:
  using Clock = std::chrono::steady_clock;
  const bool terminal_ = isatty(STDERR_FILENO) != 0;
  Clock::time_point shown_ = Clock::now();
};

}  // namespace

void add_make_model(CLI::App& app, int& exit_code) {
  struct Arguments {
    model::RandomModel model;
    std::string out, type = "bf16";
  };
  auto args = std::make_shared<Arguments>();
  CLI::App* command =
      app.add_subcommand("make-model", "Write a checkpoint of random weights, like a published model");
  command->add_option("--like", args->model.like, "Whose dimensions it has")
      ->check(CLI::IsMember(model::random_model_names()))
      ->required();
  command->add_option("--layers", args->model.layers, "How many of its layers (default: all)")
      ->check(CLI::PositiveNumber);
  command->add_option("--out", args->out, "The directory to write; may exist if it is empty")->required();
  command->add_option("--type", args->type, "How matrices are stored")
      ->check(CLI::IsMember(types))
      ->capture_default_str();
  command->add_option("--seed", args->model.seed, "Another seed gives other weights")->capture_default_str();
  command->callback([args, &exit_code] {
    args->model.type = types.at(args->type);
    Progress progress;
    model::write_checkpoint(args->model, args->out, std::ref(progress));
    progress.end();
    std::printf("%s: %s, with a tokenizer of bytes and the chat template `made`\n", args->out.c_str(),
                args->model.like.c_str());
    exit_code = ok;
  });
}

}  // namespace convoy::cli
