// What /metrics looks up: what the pipelines said, and this process.

#include "gateway/gauges.hpp"

#include <boost/test/unit_test.hpp>
#include <chrono>
#include <stdexcept>

namespace convoy::gateway {

namespace {

using namespace std::chrono_literals;
using Families = std::vector<prometheus::MetricFamily>;

/// The sample of that name and those labels, in the order in which they are given.
double sample(const Families& families, const std::string& name,
              const std::vector<std::string>& labels = {}) {
  for (const auto& family : families)
    for (const auto& metric : family.metric) {
      std::vector<std::string> values;
      for (const auto& label : metric.label) values.push_back(label.value);
      if (family.name == name && values == labels)
        return family.type == prometheus::MetricType::Counter ? metric.counter.value : metric.gauge.value;
    }
  throw std::runtime_error("no " + name);
}

PipelineView view(bool ready) {
  PipelineView v;
  v.model = "m";
  v.ready = ready;
  v.running = 3;
  v.waiting = 2;
  v.waiting_for = "blocks";
  v.wait_estimate_ms = 1500;
  v.overloaded = true;
  v.kv_blocks_used = 40;
  v.kv_blocks = 64;
  v.kv_blocks_cached = 50;
  v.counters = {1000, 640, 3, 20, 15, 12, 11};
  v.steps_in_flight = 3;
  v.micro_batches = 2;
  v.rows_per_step = 7.5f;
  v.stages = {{true, 0}, {ready, 5, "", 0.25f}};
  return v;
}

}  // namespace

BOOST_AUTO_TEST_CASE(what_a_pipeline_said_is_shown_by_pipeline_and_stage) {
  Readiness readiness(1000ms, {"m"});
  const Readiness::Clock::time_point now{};
  readiness.heard("4", view(true), now);
  const Families families = cluster_gauges(readiness, now);
  BOOST_TEST(sample(families, "convoy_ready") == 1);
  BOOST_TEST(sample(families, "convoy_requests_running", {"m", "4"}) == 3);
  BOOST_TEST(sample(families, "convoy_requests_waiting", {"m", "4", "blocks"}) == 2);
  BOOST_TEST(sample(families, "convoy_requests_waiting", {"m", "4", "slots"}) == 0);
  BOOST_TEST(sample(families, "convoy_wait_estimate_seconds", {"m", "4"}) == 1.5);
  BOOST_TEST(sample(families, "convoy_overloaded", {"m", "4"}) == 1);
  BOOST_TEST(sample(families, "convoy_kv_blocks_cached", {"m", "4"}) == 50);
  BOOST_TEST(sample(families, "convoy_prompt_tokens_total", {"m", "4"}) == 1000);
  BOOST_TEST(sample(families, "convoy_prompt_cached_tokens_total", {"m", "4"}) == 640);
  BOOST_TEST(sample(families, "convoy_preemptions_total", {"m", "4"}) == 3);
  BOOST_TEST(sample(families, "convoy_drafted_tokens_total", {"m", "4"}) == 20);
  BOOST_TEST(sample(families, "convoy_accepted_tokens_total", {"m", "4"}) == 15);
  BOOST_TEST(sample(families, "convoy_kv_blocks_saved_total", {"m", "4"}) == 12);
  BOOST_TEST(sample(families, "convoy_kv_blocks_loaded_total", {"m", "4"}) == 11);
  BOOST_TEST(sample(families, "convoy_stage_bubble_ratio", {"m", "4", "1"}) == 0.25);
  BOOST_TEST(sample(families, "convoy_kv_blocks_used", {"m", "4"}) == 40);
  BOOST_TEST(sample(families, "convoy_kv_blocks", {"m", "4"}) == 64);
  BOOST_TEST(sample(families, "convoy_steps_in_flight", {"m", "4"}) == 3);
  BOOST_TEST(sample(families, "convoy_micro_batches", {"m", "4"}) == 2);
  BOOST_TEST(sample(families, "convoy_rows_per_step", {"m", "4"}) == 7.5);
  BOOST_TEST(sample(families, "convoy_stage_up", {"m", "4", "1"}) == 1);
  BOOST_TEST(sample(families, "convoy_stage_restarts_total", {"m", "4", "1"}) == 5);
}

BOOST_AUTO_TEST_CASE(a_pipeline_that_fell_silent_is_not_up) {
  Readiness readiness(1000ms, {"m"});
  const Readiness::Clock::time_point now{};
  BOOST_TEST(sample(cluster_gauges(readiness, now), "convoy_ready") == 0);
  readiness.heard("0", view(true), now);
  const Families silent = cluster_gauges(readiness, now + 1001ms);
  BOOST_TEST(sample(silent, "convoy_ready") == 0);
  BOOST_TEST(sample(silent, "convoy_stage_up", {"m", "0", "0"}) == 0);
  readiness.heard("0", view(false), now + 1002ms);
  const Families half = cluster_gauges(readiness, now + 1002ms);
  BOOST_TEST(sample(half, "convoy_ready") == 0);
  BOOST_TEST(sample(half, "convoy_stage_up", {"m", "0", "0"}) == 1);
  BOOST_TEST(sample(half, "convoy_stage_up", {"m", "0", "1"}) == 0);
}

BOOST_AUTO_TEST_CASE(a_gateway_is_overloaded_if_all_pipelines_that_are_ready_are) {
  Readiness readiness(1000ms, {"m"});
  const Readiness::Clock::time_point now{};
  BOOST_TEST(!readiness.overload(now).has_value());
  const auto hear = [&](uint32_t pipeline, bool ready, bool overloaded, uint32_t retry_after_ms) {
    PipelineView v = view(ready);
    v.overloaded = overloaded;
    v.retry_after_ms = retry_after_ms;
    v.reason = "reason " + std::to_string(pipeline);
    readiness.heard(std::to_string(pipeline), v, now);
  };
  hear(0, true, true, 4000);
  hear(1, true, true, 3000);
  hear(2, false, false, 0);
  const auto overload = readiness.overload(now);
  BOOST_TEST_REQUIRE(overload.has_value());
  BOOST_TEST(overload->reason == "reason 1");
  BOOST_TEST(overload->retry_after_ms == 3000u);
  BOOST_TEST(!readiness.overload(now + 1001ms).has_value());  // nobody knows any more
  hear(0, true, false, 0);
  BOOST_TEST(!readiness.overload(now).has_value());
}

BOOST_AUTO_TEST_CASE(of_several_models_each_has_an_overload_and_variants_of_its_own) {
  Readiness readiness(1000ms, {"m", "n"});
  const Readiness::Clock::time_point now{};
  const auto hear = [&](const char* pipeline, const char* model, bool overloaded,
                        const std::string& variant) {
    PipelineView v = view(true);
    v.model = model;
    v.overloaded = overloaded;
    v.stages = {{true, 0, variant}};
    readiness.heard(pipeline, v, now);
  };
  hear("m1", "m", true, "x");
  BOOST_TEST(readiness.why_not(now) == "model n: no pipeline has reported yet");
  BOOST_TEST(readiness.overload(now).has_value());
  hear("n1", "n", false, "y");
  BOOST_TEST(readiness.why_not(now).empty());
  BOOST_TEST(!readiness.overload(now).has_value());
  BOOST_TEST(readiness.overload(now, "m").has_value());
  BOOST_TEST(!readiness.overload(now, "n").has_value());
  hear("m2", "m", false, "");  // whose stage is not there yet
  BOOST_TEST(!readiness.overload(now, "m").has_value());
  BOOST_TEST(readiness.kernel_variants("m").text == "x\n");
  const uint64_t before = readiness.variants_revision("m"), of_other = readiness.variants_revision("n");
  hear("m2", "m", false, "x");
  BOOST_TEST(readiness.kernel_variants("m").text == "x\n");
  hear("m2", "m", false, "z");  // two replicas would answer with different bits
  BOOST_TEST(readiness.kernel_variants("m").text.empty());
  BOOST_TEST(readiness.kernel_variants("n").text == "y\n");
  BOOST_TEST(readiness.variants_revision("m") > before);
  BOOST_TEST(readiness.variants_revision("n") == of_other);
}

BOOST_AUTO_TEST_CASE(the_process_says_what_it_uses_under_the_usual_names) {
  const Families families = process_gauges();
  const double now =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  const double started = sample(families, "process_start_time_seconds");
  BOOST_TEST(started <= now + 1);
  BOOST_TEST(started > now - 24 * 3600);
  BOOST_TEST(sample(families, "process_cpu_seconds_total") > 0);
  BOOST_TEST(sample(families, "process_resident_memory_bytes") > 1e6);
  BOOST_TEST(sample(families, "process_virtual_memory_bytes") >
             sample(families, "process_resident_memory_bytes"));
  BOOST_TEST(sample(families, "process_open_fds") >= 3);
  BOOST_TEST(sample(families, "process_open_fds") < sample(families, "process_max_fds"));
}

}  // namespace convoy::gateway
