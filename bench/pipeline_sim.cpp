// How busy the stages of a pipeline are, by their number and the load, as JSON lines: the production
// scheduler in virtual time (test/sim/utilisation.hpp), beside the same work with one batch at a time, and
// beside ours with steps that never take longer than others of their kind.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <iostream>
#include <string>
#include <vector>

#include "test/sim/utilisation.hpp"

namespace {

using namespace sim;
namespace json = boost::json;

/// Four digits: more say nothing of a simulation with jitter.
double rounded(double value) {
  if (value == 0) return 0;
  const double scale = std::pow(10, 3 - std::floor(std::log10(std::abs(value))));
  return std::round(value * scale) / scale;
}

json::object milliseconds(const Quantiles& us) {
  return {{"p50", rounded(us.p50 * 1e-3)}, {"p99", rounded(us.p99 * 1e-3)}};
}

Load load_of(const std::string& name, uint32_t requests) {
  if (name == "decodes") return decode_load(requests);
  if (name == "steady") return steady_load(requests);
  return name == "bursts" ? burst_load(requests) : long_prompt_load();
}

json::object line(const Utilisation& u, const Utilisation& best) {
  return {
      {"of_ideal", rounded(u.tokens_per_s() / best.tokens_per_s())},
      {"prompt_tokens_per_s", rounded(u.prompt_tokens_per_s)},
      {"answer_tokens_per_s", rounded(u.answer_tokens_per_s)},
      {"busy", {{"min", rounded(u.busy_min)}, {"mean", rounded(u.busy_mean)}, {"max", rounded(u.busy_max)}}},
      {"first_token_ms", milliseconds(u.first_token_us)},
      {"between_tokens_ms", milliseconds(u.between_tokens_us)},
      {"steps_in_flight", rounded(u.steps_in_flight)},
      {"rows_per_step", rounded(u.rows_per_step)},
      {"seconds", rounded(u.seconds)}};
}

struct Way {
  const char* name;
  Policy policy;
  bool jitter;
};
constexpr Way ways[]{{"ours", Policy::ours, true},
                     {"ours, even steps", Policy::ours, false},
                     {"one batch at a time", Policy::one_batch, true}};

}  // namespace

int main(int argc, char** argv) {
  std::vector<uint32_t> stages{1, 2, 4, 8, 16, 64};
  std::vector<std::string> loads{"decodes", "steady", "bursts", "long prompts"};
  uint64_t seed = 1;
  CLI::App app{"Simulates pipelines in virtual time and says how busy their stages are"};
  app.add_option("--stages", stages, "how many")->check(CLI::Range(1, 256));
  app.add_option("--loads", loads)->check(CLI::IsMember(loads));
  app.add_option("--seed", seed);
  CLI11_PARSE(app, argc, argv);

  for (const Machine& machine : {cpu_machine, h200_machine})
    for (const std::string& load : loads) {
      const Utilisation best = ideal(machine, load_of(load, machine.batch), seed);
      for (const uint32_t count : stages)
        for (const Way& way : ways) {
          Machine one = machine;
          if (!way.jitter) one.costs.jitter = 0;
          json::object about{
              {"stages", count}, {"load", load}, {"costs", machine.name}, {"policy", way.name}};
          for (auto& [key, value] :
               line(utilisation(one, count, way.policy, load_of(load, count * machine.batch), seed), best))
            about[key] = value;
          std::cout << json::serialize(about) << std::endl;
        }
    }
}
