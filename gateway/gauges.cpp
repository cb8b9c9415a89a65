#include "gateway/gauges.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <ctime>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "actors/process/log.hpp"
#include "model/version.hpp"

namespace convoy::gateway {

namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<ClientMetric::Label>;

MetricFamily family(const char* name, const char* help, MetricType type = MetricType::Gauge) {
  return {name, help, type, {}};
}

void add(MetricFamily& family, double value, Labels labels = {}) {
  ClientMetric metric;
  metric.label = std::move(labels);
  (family.type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
  family.metric.push_back(std::move(metric));
}

MetricFamily single(const char* name, const char* help, double value, MetricType type = MetricType::Gauge) {
  MetricFamily one = family(name, help, type);
  add(one, value);
  return one;
}

double seconds(const timeval& t) {
  return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
}

double seconds_of(clockid_t clock) {
  timespec t{};
  ::clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

/// Unix seconds. The kernel counts from its boot (proc(5), stat's field 22).
double process_start() {
  std::string line;
  std::getline(std::ifstream("/proc/self/stat") >> std::ws, line);
  std::istringstream fields(line.substr(line.rfind(')') + 2));
  std::string field;
  for (int i = 3; i <= 22; ++i) fields >> field;
  const double since_boot = std::stod(field) / static_cast<double>(::sysconf(_SC_CLK_TCK));
  return seconds_of(CLOCK_REALTIME) - seconds_of(CLOCK_BOOTTIME) + since_boot;
}

double open_files() {
  std::error_code ec;
  const std::filesystem::directory_iterator files("/proc/self/fd", ec);
  return ec ? 0 : static_cast<double>(std::distance(begin(files), end(files))) - 1;  // but for its own
}

}  // namespace

std::vector<MetricFamily> cluster_gauges(const Readiness& readiness, Readiness::Clock::time_point now) {
  MetricFamily running = family("convoy_requests_running", "Sequences that have their place in the KV cache");
  MetricFamily waiting =
      family("convoy_requests_waiting", "Sequences that wait for such a place, by what they lack");
  MetricFamily estimate =
      family("convoy_wait_estimate_seconds", "How long one more would wait until it begins");
  MetricFamily overloaded = family("convoy_overloaded", "1: one more request would be rejected");
  MetricFamily used = family("convoy_kv_blocks_used", "Blocks of 64 tokens that are taken, of each stage");
  MetricFamily blocks = family("convoy_kv_blocks", "Blocks of 64 tokens that each stage has");
  MetricFamily cached = family("convoy_kv_blocks_cached", "Blocks that can be found again by what they hold");
  MetricFamily prompt_tokens =
      family("convoy_prompt_tokens_total", "Tokens of prompts of sequences that began, or began again",
             MetricType::Counter);
  MetricFamily cached_tokens =
      family("convoy_prompt_cached_tokens_total", "Of these, those found in KV blocks of earlier ones",
             MetricType::Counter);
  MetricFamily preemptions =
      family("convoy_preemptions_total", "Sequences that lost their place to another", MetricType::Counter);
  MetricFamily drafted =
      family("convoy_drafted_tokens_total", "Tokens that were guessed ahead", MetricType::Counter);
  MetricFamily accepted =
      family("convoy_accepted_tokens_total", "Of these, those that proved right", MetricType::Counter);
  MetricFamily saved = family("convoy_kv_blocks_saved_total", "Blocks that went to the stages' second tier",
                              MetricType::Counter);
  MetricFamily loaded =
      family("convoy_kv_blocks_loaded_total", "Blocks that came back from there", MetricType::Counter);
  MetricFamily steps =
      family("convoy_steps_in_flight", "Steps that were sent to the stages and are not back");
  MetricFamily batches = family("convoy_micro_batches", "Steps in flight that sample");
  MetricFamily rows = family("convoy_rows_per_step", "Rows of the latest steps of requests, on average");
  MetricFamily up = family("convoy_stage_up", "1: the stage is loaded, linked and heard of lately");
  MetricFamily bubbles =
      family("convoy_stage_bubble_ratio", "Share of the latest second or so without a step to compute");
  MetricFamily restarts = family("convoy_stage_restarts_total", "Processes that took an earlier one's place",
                                 MetricType::Counter);
  for (const auto& [name, view] : readiness.pipelines(now)) {
    const Labels labels{{"model", view.model}, {"pipeline", name}};
    add(running, view.running, labels);
    for (const char* what : {"slots", "blocks"}) {
      Labels lacks = labels;
      lacks.push_back({"for", what});
      add(waiting, view.waiting_for == what ? view.waiting : 0, lacks);
    }
    add(estimate, 1e-3 * view.wait_estimate_ms, labels);
    add(overloaded, view.overloaded, labels);
    add(used, view.kv_blocks_used, labels);
    add(blocks, view.kv_blocks, labels);
    add(cached, view.kv_blocks_cached, labels);
    add(prompt_tokens, static_cast<double>(view.counters.prompt_tokens), labels);
    add(cached_tokens, static_cast<double>(view.counters.cached_tokens), labels);
    add(preemptions, static_cast<double>(view.counters.preemptions), labels);
    add(drafted, static_cast<double>(view.counters.drafted_tokens), labels);
    add(accepted, static_cast<double>(view.counters.accepted_tokens), labels);
    add(saved, static_cast<double>(view.counters.saved_blocks), labels);
    add(loaded, static_cast<double>(view.counters.loaded_blocks), labels);
    add(steps, view.steps_in_flight, labels);
    add(batches, view.micro_batches, labels);
    add(rows, view.rows_per_step, labels);
    for (size_t i = 0; i < view.stages.size(); ++i) {
      Labels stage = labels;
      stage.push_back({"stage", std::to_string(i)});
      add(up, view.stages[i].ready, stage);
      add(bubbles, view.stages[i].bubble_ratio, stage);
      add(restarts, view.stages[i].restarts, stage);
    }
  }
  return {single("convoy_ready", "1: /readyz says yes", readiness.why_not(now).empty()),
          std::move(running),
          std::move(waiting),
          std::move(estimate),
          std::move(overloaded),
          std::move(used),
          std::move(blocks),
          std::move(cached),
          std::move(prompt_tokens),
          std::move(cached_tokens),
          std::move(preemptions),
          std::move(drafted),
          std::move(accepted),
          std::move(saved),
          std::move(loaded),
          std::move(steps),
          std::move(batches),
          std::move(rows),
          std::move(up),
          std::move(bubbles),
          std::move(restarts)};
}

std::vector<MetricFamily> process_gauges() {
  static const double started = process_start();
  rusage use{};
  ::getrusage(RUSAGE_SELF, &use);
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  double virtual_pages = 0, resident_pages = 0;
  std::ifstream("/proc/self/statm") >> virtual_pages >> resident_pages;
  const auto page = static_cast<double>(::sysconf(_SC_PAGESIZE));
  MetricFamily build = family("convoy_build_info", "1, and what runs");
  add(build, 1, {{"version", std::string(version())}, {"commit", std::string(commit())}});
  return {single("process_cpu_seconds_total", "Time on a core, of user and system",
                 seconds(use.ru_utime) + seconds(use.ru_stime), MetricType::Counter),
          single("process_resident_memory_bytes", "Memory in use", resident_pages * page),
          single("process_virtual_memory_bytes", "Memory mapped", virtual_pages * page),
          single("process_open_fds", "File descriptors that are open", open_files()),
          single("process_max_fds", "File descriptors that may be", static_cast<double>(files.rlim_cur)),
          single("convoy_log_lines_lost_total", "Lines of the log that could not be written",
                 static_cast<double>(log::lines_lost()), MetricType::Counter),
          single("process_start_time_seconds", "Unix time of the process's start", started),
          std::move(build)};
}

}  // namespace convoy::gateway
