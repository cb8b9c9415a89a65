// Steps whose rows go to experts that another device chose.

#include <set>

#include "test/cuda/shaped_checkpoint.hpp"
#include "test/gpu/random_routing.hpp"
#include "test/gpu/tiny_model.hpp"

using namespace convoy;
using namespace convoy::gpu;
using namespace convoy::gpu::test;

namespace {

constexpr uint32_t rows = 60;

/// As many tokens of one sequence, each with logits.
StepPlan one_prompt(const model::Checkpoint& checkpoint) {
  TensorMaker maker(5);
  return {.starts = {{0, rows, {}}},
          .block_changes = {{0, 0, 0}},
          .sequences = {{0, 0, maker.ids(rows, checkpoint.config().vocab), rows}}};
}

struct Outcome {
  std::vector<float> logits;     // [rows, vocab]
  std::vector<int32_t> routing;  // [layers with experts, rows, experts of a row]
};

/// Through two stages if `split` is above 0; `replayed`: of all layers, or nothing.
Outcome run(const std::shared_ptr<const model::Checkpoint>& checkpoint, Kernels kernels,
            std::span<const int32_t> replayed = {}, int64_t split = 0) {
  const StepPlan plan = one_prompt(*checkpoint);
  const int64_t layers = checkpoint->config().layers, chosen = checkpoint->config().moe->routing.chosen;
  Outcome outcome;
  std::vector<float> hidden;
  EngineLimits limits = tiny_limits;
  limits.kv_type = model::DType::f32;
  for (int64_t first = 0; first < layers;) {
    const int64_t end = split > first ? split : layers;
    Engine engine(cpu_device(kernels, 2), checkpoint, {first, end - 1}, limits);
    int64_t with_experts = 0;
    for (int64_t l = first; l < end; l++) with_experts += model::has_experts(checkpoint->config(), l);
    engine.keep_logits(end == layers), engine.record_routing(true);
    if (!replayed.empty())
      engine.replay_routing(
          replayed.subspan(outcome.routing.size(), static_cast<size_t>(with_experts * rows * chosen)));
    const StepOutput out = engine.run(plan, hidden);
    outcome.routing.insert(outcome.routing.end(), engine.routing().begin(), engine.routing().end());
    hidden.assign(out.hidden.begin(), out.hidden.end());
    outcome.logits.assign(engine.logits().begin(), engine.logits().end());
    first = end;
  }
  return outcome;
}

std::shared_ptr<const model::Checkpoint> deepseek() {
  return std::make_shared<TinyCheckpoint>(model::DType::f32, Tiny::deepseek);
}

/// So many that rounding alone makes some rows choose others.
ModelShape many_experts() {
  return {.name = "many experts",
          .layers = 4,
          .moe = model::Experts{.routing = {.experts = 64, .chosen = 6, .normalised = true}, .width = 64},
          .type = model::DType::q8_0};
}

std::vector<int32_t> any_routing(const model::Checkpoint& checkpoint, uint32_t seed) {
  const model::Config& config = checkpoint.config();
  return random_routing(config.layers - config.moe->dense_layers, rows, config.moe->routing, seed);
}

/// ‖own − reference‖/‖reference‖ of each row, in order of size.
std::vector<double> errors_of(const Outcome& own, const Outcome& reference, size_t vocab) {
  std::vector<double> errors;
  for (size_t row = 0; row < own.logits.size(); row += vocab) {
    double difference = 0, norm = 0;
    for (size_t i = row; i < row + vocab; i++) {
      difference += std::pow(double{own.logits[i]} - reference.logits[i], 2);
      norm += std::pow(double{reference.logits[i]}, 2);
    }
    errors.push_back(std::sqrt(difference / norm));
  }
  std::ranges::sort(errors);
  return errors;
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_recorded_routing_that_is_replayed_changes_no_bit) {
  const auto checkpoint = deepseek();
  const Outcome own = run(checkpoint, Kernels::reference);
  const auto& routing = checkpoint->config().moe->routing;
  BOOST_REQUIRE(own.routing.size() == static_cast<size_t>(2 * rows * routing.chosen));  // one layer is dense
  BOOST_TEST(std::set(own.routing.begin(), own.routing.end()).size() == static_cast<size_t>(routing.experts));
  for (const int64_t split : {0, 1, 2}) {
    const Outcome replayed = run(checkpoint, Kernels::reference, own.routing, split);
    BOOST_TEST(replayed.logits == own.logits, "split at " << split);
    BOOST_TEST(replayed.routing == own.routing);
  }
}

BOOST_AUTO_TEST_CASE(any_routing_is_replayed_in_every_layer_and_by_every_backend) {
  const auto checkpoint = deepseek();
  const auto vocab = static_cast<size_t>(checkpoint->config().vocab);
  const auto routing = any_routing(*checkpoint, 1);
  const Outcome expected = run(checkpoint, Kernels::reference, routing);
  BOOST_TEST(expected.routing == routing);
  BOOST_TEST(errors_of(run(checkpoint, Kernels::reference), expected, vocab).front() > 1e-3);
  // Another one from some layer on gives other logits: no layer goes its own way.
  const size_t of_layer = routing.size() / 2;
  const auto other = any_routing(*checkpoint, 2);
  for (const size_t layer : {0, 1}) {
    std::vector<int32_t> mixed = routing;
    std::copy_n(other.begin() + static_cast<ptrdiff_t>(layer * of_layer), of_layer,
                mixed.begin() + static_cast<ptrdiff_t>(layer * of_layer));
    BOOST_TEST(run(checkpoint, Kernels::reference, mixed).logits != expected.logits, "layer " << layer);
  }
  if (std::ranges::none_of(backends(), [](const BackendChoice& c) { return c.kernels == Kernels::fast; }))
    return;
  for (const int64_t split : {0, 1, 2})
    BOOST_TEST(errors_of(run(checkpoint, Kernels::fast, routing, split), expected, vocab).back() < 1e-4);
}

// Activations in int8 send some rows elsewhere, and those are far off. Where all go the same way, what is
// left is rounding.
BOOST_AUTO_TEST_CASE(int8_is_near_float32_where_the_experts_of_float32_are_replayed) {
  if (std::ranges::none_of(backends(), [](const BackendChoice& c) { return c.kernels == Kernels::fast; }))
    return;
  const auto checkpoint = std::make_shared<ShapedCheckpoint>(many_experts(), 7);
  const auto vocab = static_cast<size_t>(checkpoint->config().vocab);
  const Outcome reference = run(checkpoint, Kernels::reference), own = run(checkpoint, Kernels::fast),
                replayed = run(checkpoint, Kernels::fast, reference.routing);
  BOOST_TEST(own.routing != reference.routing);
  BOOST_TEST(replayed.routing == reference.routing);
  const auto own_errors = errors_of(own, reference, vocab), errors = errors_of(replayed, reference, vocab);
  BOOST_TEST_MESSAGE("median " << errors[rows / 2] << ", most " << errors.back() << "; without replay "
                               << own_errors[rows / 2] << ", " << own_errors.back());
  BOOST_TEST(errors[rows / 2] <= 2e-2);
  BOOST_TEST(errors.back() <= 5e-2);
  BOOST_TEST(errors.front() > 0);
  BOOST_TEST(errors.back() < own_errors.back());
}

BOOST_AUTO_TEST_CASE(a_routing_is_replayed_once) {
  const auto checkpoint = deepseek();
  const StepPlan plan = one_prompt(*checkpoint);
  Engine engine(cpu_device(Kernels::reference, 1), checkpoint, {0, 2}, tiny_limits);
  engine.record_routing(true);
  engine.run(plan, {});
  const std::vector<int32_t> own(engine.routing().begin(), engine.routing().end());
  const auto routing = any_routing(*checkpoint, 3);
  engine.replay_routing(routing);
  engine.run(plan, {});
  BOOST_TEST(std::ranges::equal(engine.routing(), routing));
  engine.run(plan, {});
  BOOST_TEST(std::ranges::equal(engine.routing(), own));
}

BOOST_AUTO_TEST_CASE(what_can_be_no_routing_is_refused) {
  const auto checkpoint = deepseek();
  const StepPlan plan = one_prompt(*checkpoint);
  const auto routing = any_routing(*checkpoint, 4);
  const auto refused = [&](std::vector<int32_t> bad) {
    Engine engine(cpu_device(Kernels::reference, 1), checkpoint, {0, 2}, tiny_limits);
    engine.replay_routing(bad);
    BOOST_CHECK_THROW(engine.run(plan, {}), std::runtime_error);
  };
  refused({routing.begin(), routing.end() - 1});
  for (const int32_t expert : {-1, 8}) {
    auto bad = routing;
    bad[expert < 0 ? 3 : 5] = expert;  // the first and the last of the second row
    refused(bad);
  }
  auto twice = routing;
  twice[1] = twice[0];
  refused(twice);
  const auto llama = std::make_shared<TinyCheckpoint>(model::DType::f32);
  Engine engine(cpu_device(Kernels::reference, 1), llama, {0, 2}, tiny_limits);
  engine.record_routing(true);
  engine.run(one_prompt(*llama), {});
  BOOST_TEST(engine.routing().empty());
  engine.replay_routing(routing);
  BOOST_CHECK_THROW(engine.run(one_prompt(*llama), {}), std::runtime_error);
}
