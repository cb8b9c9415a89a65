// How busy the production scheduler keeps a pipeline's stages (bench/pipeline_sim.cpp says more).

#include <boost/test/unit_test.hpp>

#include "test/sim/utilisation.hpp"

namespace {

using namespace sim;

constexpr uint64_t seed = 1;
constexpr uint32_t stage_counts[]{1, 2, 4, 8, 16, 64};

}  // namespace

BOOST_AUTO_TEST_CASE(p_stages_with_p_times_the_batch_decode_all_the_time) {
  for (const uint32_t stages : stage_counts) BOOST_TEST_CONTEXT(stages << " stages") {
      const auto u =
          utilisation(cpu_machine, stages, Policy::ours, decode_load(stages * cpu_machine.batch), seed);
      BOOST_CHECK_GE(u.busy_mean, 0.97);
      BOOST_CHECK_LE(u.busy_max, 1);
    }
}

// Where reading the weights is half of a step, stages that wait cost less than steps that keep them busy.
BOOST_AUTO_TEST_CASE(stages_are_not_kept_busy_for_fewer_tokens) {
  const Load alone = decode_load(h200_machine.batch);
  const double best = ideal(h200_machine, alone, seed).tokens_per_s();
  for (const uint32_t stages : {2, 4, 8, 16}) BOOST_TEST_CONTEXT(stages << " stages") {
      const auto u =
          utilisation(h200_machine, stages, Policy::ours, decode_load(stages * h200_machine.batch), seed);
      BOOST_CHECK_GE(u.tokens_per_s(), 0.89 * best);
    }
}

BOOST_AUTO_TEST_CASE(a_prompt_of_32768_tokens_fills_four_stages) {
  for (const Machine& machine : {cpu_machine, h200_machine}) BOOST_TEST_CONTEXT(machine.name) {
      const double best = ideal(machine, long_prompt_load(), seed).first_token_us.p50;
      const auto u = utilisation(machine, 4, Policy::ours, long_prompt_load(), seed);
      BOOST_CHECK_LE(u.first_token_us.p99, best / 0.85);
    }
}

BOOST_AUTO_TEST_CASE(prompts_that_keep_coming_leave_few_bubbles) {
  for (const Machine& machine : {cpu_machine, h200_machine}) {
    const double best = ideal(machine, steady_load(machine.batch), seed).tokens_per_s();
    for (const uint32_t stages : {2, 4, 8, 16})
      BOOST_TEST_CONTEXT(machine.name << ", " << stages << " stages") {
        const auto u = utilisation(machine, stages, Policy::ours, steady_load(stages * machine.batch), seed);
        BOOST_CHECK_GE(u.tokens_per_s(), 0.88 * best);
      }
  }
}

// What all of this is measured against, and would look like if it were done wrong.
BOOST_AUTO_TEST_CASE(with_one_batch_at_a_time_one_stage_is_busy) {
  for (const Load& load : {decode_load(4 * cpu_machine.batch), long_prompt_load()})
    BOOST_TEST_CONTEXT(load.name) {
      const auto u = utilisation(cpu_machine, 4, Policy::one_batch, load, seed);
      BOOST_CHECK_CLOSE(u.busy_mean, 0.25, 2);
      BOOST_CHECK_CLOSE(u.steps_in_flight, 1, 0.1);
    }
}
