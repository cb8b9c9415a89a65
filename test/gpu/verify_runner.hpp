#pragma once
// Runs `convoy verify` as a user does and holds what it prints against what a golden file stores.

#include <sys/wait.h>

#include <array>
#include <boost/json.hpp>
#include <boost/test/unit_test.hpp>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

namespace convoy::test {

inline std::string environment(const char* name) {
  const char* value = std::getenv(name);
  BOOST_REQUIRE_MESSAGE(value != nullptr, name << " is not set: run this through ctest");
  return value;
}

inline std::string golden_models() { return environment("CONVOY_SOURCE_DIR") + "/test/golden/models/"; }

struct Run {
  int exit_code = 0;
  std::string output;  // both streams
};

inline Run run_convoy(const std::string& arguments) {
  const std::string command = "'" + environment("CONVOY_BINARY") + "' " + arguments + " 2>&1";
  FILE* pipe = popen(command.c_str(), "r");
  BOOST_REQUIRE(pipe != nullptr);
  Run run;
  std::array<char, 4096> buffer;
  while (size_t n = std::fread(buffer.data(), 1, buffer.size(), pipe)) run.output.append(buffer.data(), n);
  const int status = pclose(pipe);
  run.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return run;
}

/// The JSON lines must hold what the golden file stores, whatever the exit code says.
inline void require_golden(const std::string& arguments, double tolerance,
                           const std::vector<int64_t>& positions, const std::vector<int64_t>& greedy) {
  BOOST_TEST_CONTEXT(arguments) {
    const Run run = run_convoy(arguments + " --json --max-rel " + std::to_string(tolerance));
    BOOST_TEST(run.exit_code == 0, run.output);
    std::istringstream lines(run.output);
    std::string line;
    size_t prompts = 0;
    while (std::getline(lines, line)) {
      const boost::json::value result = boost::json::parse(line);
      if (result.as_object().contains("prompts")) continue;  // of all
      BOOST_REQUIRE_MESSAGE(prompts < positions.size(), run.output);
      const auto number = [&](const char* key) { return result.at(key).to_number<double>(); };
      BOOST_TEST(number("prompt") == static_cast<double>(prompts));
      BOOST_TEST(number("positions") == static_cast<double>(positions[prompts]));
      BOOST_TEST(number("greedy_total") == static_cast<double>(greedy[prompts]));
      BOOST_TEST(number("greedy_equal") == number("greedy_total"));
      BOOST_TEST(number("max_rel") <= tolerance);
      BOOST_TEST(number("max_rel") > 0);  // bit-identical to another implementation: nothing was compared
      BOOST_TEST(number("mean_rel") <= number("max_rel"));
      BOOST_TEST(number("mean_kl") < 1e-6);
      prompts++;
    }
    BOOST_TEST(prompts == positions.size(), run.output);
  }
}

}  // namespace convoy::test
