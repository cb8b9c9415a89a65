// Round trips, throughput and control's latency beside it, of links and of what could carry frames instead:
// bench/run links starts the two processes of each way in turn. Prints one JSON line.

#include "bench/links.hpp"

#include <sched.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <cerrno>
#include <cstring>
#include <iostream>
#include <map>
#include <system_error>
#include <thread>

#include "bench/seconds.hpp"

namespace {

using namespace convoy::bench;
namespace json = boost::json;

// Hidden states of R1-Distill-Qwen-7B in bfloat16, [rows, 3584]: a step of 128 decodes, a chunk of 1,024
// tokens of a prompt.
constexpr size_t hidden_bytes[] = {128 * 3584 * 2, 1024 * 3584 * 2};
constexpr size_t window = 4;  // messages of the stream on their way: several times what the connection takes

const Way* const ways[] = {&link_way,      &link_tcp_way, &link_tls_way,  &asio_way,
                           &asio_unix_way, &basp_way,     &basp_tuned_way};

json::object quantiles_of(std::vector<double> us) {
  std::sort(us.begin(), us.end());
  const auto at = [&us](double share) { return us[static_cast<size_t>(share * double(us.size() - 1))]; };
  return {{"count", us.size()}, {"p50", at(0.5)}, {"p99", at(0.99)}};
}

json::object round_trips(Carrier& carrier, Message message, double seconds) {
  Exchange exchange({.message = std::move(message), .seconds = seconds});
  carrier.run(exchange);
  return quantiles_of(exchange.round_trips_us());
}

json::object stream(Carrier& carrier, double seconds) {
  Exchange exchange({.message = large_message(Ask::take, hidden_bytes[1]),
                     .window = window,
                     .seconds = seconds,
                     .pings = true});
  carrier.run(exchange);
  return {{"bytes_per_s", exchange.bytes_per_s()}, {"control_us", quantiles_of(exchange.pings_us())}};
}

json::object measured(Carrier& carrier, double seconds) {
  json::object trips;
  const auto add = [&](const Message& message) {
    trips[std::to_string(message.bytes->size())] = round_trips(carrier, message, seconds);
  };
  add(small_message(Ask::echo));
  for (const size_t bytes : hidden_bytes) add(large_message(Ask::echo, bytes));
  return {{"round_trip_us", std::move(trips)}, {"stream", stream(carrier, seconds)}};
}

/// How fast one core copies what no cache of its own holds. Sockets cannot be faster: each byte is copied
/// into the kernel by one process and out of it by the other, at the same time at best.
double copy_bytes_per_s(double seconds) {
  std::vector<std::byte> from(hidden_bytes[1], std::byte{7}), to(hidden_bytes[1]);
  double best = 0;
  for (const double end = seconds_now(CLOCK_MONOTONIC) + seconds; seconds_now(CLOCK_MONOTONIC) < end;) {
    const auto took = time_of([&] {
      std::memcpy(to.data(), from.data(), from.size());
      asm volatile("" : : "r"(to.data()) : "memory");  // it is read
    });
    best = std::max(best, static_cast<double>(from.size()) / took.wall);
  }
  return best;
}

void check(ssize_t result) {
  if (result != 1) throw std::system_error(errno, std::generic_category(), "a pipe of one byte");
}

/// To the first or the last of the cores that the process may use.
void bind_thread(bool last) {
  cpu_set_t all, one;
  CPU_ZERO(&one);
  if (sched_getaffinity(0, sizeof all, &all) != 0) throw std::system_error(errno, std::generic_category());
  for (int core = 0; core < CPU_SETSIZE && (last || CPU_COUNT(&one) == 0); ++core) {
    if (!CPU_ISSET(core, &all)) continue;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
  }
  if (sched_setaffinity(0, sizeof one, &one) != 0) throw std::system_error(errno, std::generic_category());
}

/// Two threads, each on a core of its own if there are two, wake each other by a byte.
json::object wake_ups(double seconds) {
  int there[2], back[2];
  if (pipe(there) != 0 || pipe(back) != 0) throw std::system_error(errno, std::generic_category(), "pipe");
  std::thread other([&] {
    bind_thread(true);
    for (char byte; read(there[0], &byte, 1) == 1;) check(write(back[1], &byte, 1));
  });
  bind_thread(false);
  std::vector<double> us;
  for (const double end = seconds_now(CLOCK_MONOTONIC) + seconds; seconds_now(CLOCK_MONOTONIC) < end;) {
    char byte = 0;
    const auto took = time_of([&] {
      check(write(there[1], &byte, 1));
      check(read(back[0], &byte, 1));
    });
    us.push_back(took.wall * 1e6);
  }
  close(there[1]);
  other.join();
  for (const int end : {there[0], back[0], back[1]}) close(end);
  return quantiles_of(std::move(us));
}

json::object limit(double seconds) {
  const double bytes_per_s = copy_bytes_per_s(seconds);
  json::object trips{{std::to_string(small_message(Ask::echo).bytes->size()), wake_ups(seconds)}};
  for (const size_t bytes : hidden_bytes) {
    const size_t size = large_message(Ask::echo, bytes).bytes->size();
    trips[std::to_string(size)] = json::object{{"p50", 2e6 * static_cast<double>(size) / bytes_per_s}};
  }
  return {{"round_trip_us", std::move(trips)}, {"stream", {{"bytes_per_s", bytes_per_s}}}};
}

void wait_for_end_of_input() {
  for (char byte; read(STDIN_FILENO, &byte, 1) > 0;) {
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::map<std::string, const Way*> by_name;
  for (const Way* way : ways) by_name[way->name] = way;
  std::string name;
  uint16_t port = 0;
  double seconds = 1;
  CLI::App app{"Measures links between two processes, and what could be in their place"};
  app.require_subcommand(1);
  auto* serve = app.add_subcommand("serve", "answers until its input ends, at the port that it prints");
  auto* measure = app.add_subcommand("measure", "asks one that answers");
  auto* limits = app.add_subcommand("limit", "what this machine's memory and wake-ups allow");
  for (auto* command : {serve, measure})
    command->add_option("--way", name)->required()->check(CLI::IsMember(by_name));
  measure->add_option("--port", port)->required();
  for (auto* command : {measure, limits})
    command->add_option("--seconds", seconds, "of each measurement")->check(CLI::Range(0.05, 60.0));
  CLI11_PARSE(app, argc, argv);
  try {
    if (*serve) {
      by_name.at(name)->serve([](uint16_t at) {
        std::cout << at << std::endl;
        wait_for_end_of_input();
      });
      return 0;
    }
    const json::object line = *limits ? limit(seconds) : measured(*by_name.at(name)->connect(port), seconds);
    std::cout << json::serialize(line) << std::endl;
    return 0;
  } catch (const std::exception& e) {
    std::cerr << "convoy_bench_links: " << e.what() << "\n";
    return 1;
  }
}
