// Time that sampling one row takes on one thread, for vocabularies and parameters that requests come with, as
// JSON lines. Logits fall off as those of language models do: few tokens hold most of the mass.

#include <time.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <iostream>
#include <random>
#include <vector>

#include "gpu/cpu/memory.hpp"
#include "gpu/sampler.hpp"

namespace {

using namespace convoy;

struct Case {
  const char* name;
  model::Sampling sampling;
  float spread = 3;  // standard deviation of the logits
};
const Case cases[] = {
    {"greedy", {}},
    {"temperature", {.temperature = 1}},
    {"top_p", {.temperature = 1, .top_p = 0.95f}},
    {"top_p, flat", {.temperature = 1, .top_p = 0.95f}, 0.5f},
    {"top_k", {.temperature = 1, .top_k = 40}},
    {"top_k 1000, top_p", {.temperature = 1, .top_k = 1000, .top_p = 0.95f}},
    {"min_p", {.temperature = 1, .min_p = 0.05f}},
    {"greedy, penalties", {.presence_penalty = 0.5f, .repetition_penalty = 1.1f}},
    {"top_p, penalties",
     {.temperature = 1, .top_p = 0.95f, .presence_penalty = 0.5f, .repetition_penalty = 1.1f}},
    {"temperature, logprobs", {.temperature = 1, .logprobs = true, .top_logprobs = 5}},
};

/// What the thread spent on its core: others use the machine too.
double thread_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<int64_t> vocabs{49'152, 129'280};
  int repeats = 200;
  int64_t history = 1000;
  CLI::App app{"Measures how long sampling a row takes"};
  app.add_option("--vocab", vocabs)->check(CLI::Range(int64_t{1}, model::vocab_max));
  app.add_option("--repeats", repeats, "the best of so many is kept")->check(CLI::Range(1, 100'000));
  app.add_option("--history", history, "tokens that are penalised")->check(CLI::Range(0, 1 << 20));
  CLI11_PARSE(app, argc, argv);

  for (const int64_t vocab : vocabs) {
    std::mt19937 random(1);
    gpu::TokenCounts counts;
    for (int64_t i = 0; i < history; ++i)
      counts.add(static_cast<int32_t>(random() % static_cast<uint64_t>(vocab)), gpu::TokenCounts::Of::output);
    const gpu::Buffer scratch = gpu::allocate_aligned(gpu::sample_scratch_bytes(vocab));
    for (const Case& c : cases) {
      std::normal_distribution<float> normal(0, c.spread);
      std::vector<float> logits(static_cast<size_t>(vocab));
      double best = 1e9;
      for (int i = 0; i < repeats; ++i) {
        if (i % 20 == 0) std::generate(logits.begin(), logits.end(), [&] { return normal(random); });
        std::vector<float> row = logits;
        const gpu::SampleRow sample{&c.sampling, static_cast<uint64_t>(i), static_cast<uint32_t>(history),
                                    &counts};
        const double start = thread_seconds();
        gpu::sample_token(row, sample, static_cast<std::byte*>(scratch.get()));
        best = std::min(best, thread_seconds() - start);
      }
      std::cout << boost::json::serialize(
                       boost::json::object{{"vocab", vocab}, {"case", c.name}, {"us_per_row", best * 1e6}})
                << std::endl;
    }
  }
}
