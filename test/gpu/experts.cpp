// A layer's experts against two plain loops, and what may not be touched.

#include <sys/mman.h>

#include <cstring>
#include <set>

#include "gpu/routing.hpp"
#include "test/gpu/device_rows.hpp"
#include "test/patience.hpp"

using namespace convoy;
using namespace convoy::gpu;
using namespace convoy::gpu::test;
using model::DType;
using model::Routing;

namespace {

constexpr int64_t hidden = 64, width = 96;

const Routing greedy{.experts = 12, .chosen = 3, .scale = 1.5};
const Routing grouped{.experts = 12, .chosen = 3, .groups = 4, .groups_chosen = 2, .scale = 2};
const Routing biased{.experts = 12,
                     .chosen = 4,
                     .groups = 3,
                     .groups_chosen = 2,
                     .scoring = model::Scoring::sigmoid,
                     .group_score = model::GroupScore::best_two,
                     .biased = true,
                     .normalised = true,
                     .scale = 2.5};

struct Layer {
  Layer(const Routing& routing, DType type) {
    TensorMaker maker(51);
    router = maker.make({routing.experts, hidden}, DType::f32, 0.5f);
    if (routing.biased) bias = maker.make({routing.experts}, DType::f32, 0.2f);
    for (int64_t e = 0; e < routing.experts; e++) {
      gate.push_back(maker.make({width, hidden}, type, 0.5f));
      up.push_back(maker.make({width, hidden}, type, 0.5f));
      down.push_back(maker.make({hidden, width}, type, 0.5f));
    }
  }
  model::Tensor router;
  std::optional<model::Tensor> bias;
  std::vector<model::Tensor> gate, up, down;
};

/// out of Backend::experts for these rows; `shared` lies in out before, as the forward pass has it, or apart.
std::vector<float> run(Backend& backend, const Layer& layer, const Routing& routing,
                       const std::vector<float>& h, const std::vector<float>& shared, bool in_place,
                       const RoutingTrace& trace = {}) {
  const auto all = [&](const std::vector<model::Tensor>& tensors) {
    std::vector<Weight> weights;
    for (const model::Tensor& tensor : tensors) weights.push_back(backend.adopt(tensor));
    return weights;
  };
  const Weight router = backend.adopt(layer.router),
               bias = layer.bias ? backend.adopt(*layer.bias) : Weight{};
  const std::vector<Weight> gate = all(layer.gate), up = all(layer.up), down = all(layer.down);
  const auto rows = static_cast<int64_t>(h.size()) / hidden;
  DeviceRows input(backend, rows, hidden, h), before(backend, rows, hidden, shared),
      out(backend, rows, hidden);
  backend.experts(input.view, {&router, layer.bias ? &bias : nullptr, gate, up, down}, routing, trace,
                  before.view, in_place ? before.view : out.view);
  BOOST_TEST(input.read() == h);
  if (!in_place) BOOST_TEST(before.read() == shared);
  return in_place ? before.read() : out.read();
}

/// Where each row goes, from scores in double.
std::vector<std::vector<ExpertChoice>> choices(const Layer& layer, const Routing& routing,
                                               const std::vector<float>& h) {
  const std::vector<float> bias = layer.bias ? widened(*layer.bias) : std::vector<float>{};
  const std::vector<double> scores = product(h, widened(layer.router), hidden);
  std::vector<std::vector<ExpertChoice>> of_rows;
  for (auto row = scores.begin(); row != scores.end(); row += routing.experts)
    of_rows.push_back(route(std::vector<float>(row, row + routing.experts), bias, routing));
  return of_rows;
}

std::vector<double> by_definition(const Layer& layer, const std::vector<std::vector<ExpertChoice>>& of_rows,
                                  const std::vector<float>& h, const std::vector<float>& shared) {
  std::vector<double> out(shared.begin(), shared.end());
  for (size_t r = 0; r < of_rows.size(); r++)
    for (const auto& [expert, weight] : of_rows[r]) {
      const auto e = static_cast<size_t>(expert);
      const std::vector<float> row(h.begin() + static_cast<ptrdiff_t>(r) * hidden,
                                   h.begin() + static_cast<ptrdiff_t>(r + 1) * hidden);
      const auto gates = product(row, widened(layer.gate[e]), hidden),
                 ups = product(row, widened(layer.up[e]), hidden);
      const std::vector<float> down = widened(layer.down[e]);
      for (size_t o = 0; o < hidden; o++)
        for (size_t i = 0; i < width; i++)
          out[r * hidden + o] +=
              double{weight} * gates[i] / (1 + std::exp(-gates[i])) * ups[i] * down[o * width + i];
    }
  return out;
}

/// All bits set: whoever computes with it gets no numbers.
model::Tensor spoiled(model::Tensor tensor) {
  const auto bytes = std::make_shared<std::vector<std::byte>>(tensor.bytes.size(), std::byte{0xff});
  tensor.bytes = *bytes;
  tensor.owner = std::shared_ptr<const model::Mapping>(bytes, nullptr);
  return tensor;
}

/// Bytes that end the process when they are read.
model::Tensor unreadable(model::Tensor tensor) {
  const size_t bytes = tensor.bytes.size();
  void* const pages = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  BOOST_REQUIRE(pages != MAP_FAILED);
  const std::shared_ptr<void> owner(pages, [bytes](void* p) { munmap(p, bytes); });
  tensor.bytes = {static_cast<const std::byte*>(pages), bytes};
  tensor.owner = std::shared_ptr<const model::Mapping>(owner, nullptr);
  return tensor;
}

}  // namespace

BOOST_AUTO_TEST_CASE(experts_add_up_to_what_two_plain_loops_give) {
  for_each_backend([](const BackendChoice& choice, Backend& backend) {
    for (const Routing& routing : {greedy, grouped, biased})
      for (const DType type : weight_types)
        for (const int64_t rows : {1, 5, 33}) {
          if (convoy::test::sanitized && rows == 5) continue;
          if (hidden % model::info(type).block_values != 0) continue;  // operations.cpp has these
          BOOST_TEST_CONTEXT(model::info(type).name << ", " << rows << " rows") {
            const Layer layer(routing, type);
            TensorMaker maker(52);
            const std::vector<float> h = maker.values(rows * hidden), shared = maker.values(rows * hidden);
            const auto expected = by_definition(layer, choices(layer, routing, h), h, shared);
            const auto own = run(backend, layer, routing, h, shared, false);
            BOOST_TEST(error_of(own, expected) < 2 * tolerance(choice, type));
            BOOST_TEST(run(backend, layer, routing, h, shared, true) == own);
          }
        }
  });
}

BOOST_AUTO_TEST_CASE(the_experts_that_rows_chose_are_recorded) {
  for_each_backend([](const BackendChoice&, Backend& backend) {
    for (const Routing& routing : {greedy, grouped, biased}) {
      const Layer layer(routing, DType::f32);
      TensorMaker maker(55);
      const int64_t rows = 33;
      const std::vector<float> h = maker.values(rows * hidden), shared = maker.values(rows * hidden);
      std::vector<int32_t> recorded(static_cast<size_t>(rows * routing.chosen), -1), expected;
      for (const auto& of_row : choices(layer, routing, h))
        for (const ExpertChoice& choice : of_row) expected.push_back(choice.expert);
      const auto own = run(backend, layer, routing, h, shared, true, {.recorded = recorded.data()});
      BOOST_TEST(recorded == expected, boost::test_tools::per_element());
      BOOST_TEST(run(backend, layer, routing, h, shared, true, {.replayed = recorded.data()}) == own);
    }
  });
}

// Whatever their scores say: the last experts, which few would choose.
BOOST_AUTO_TEST_CASE(rows_go_to_the_experts_that_are_replayed_with_the_weights_of_their_scores) {
  for_each_backend([](const BackendChoice& choice, Backend& backend) {
    for (const Routing& routing : {greedy, grouped, biased}) {
      const Layer layer(routing, DType::f32);
      TensorMaker maker(56);
      const int64_t rows = 9;
      const std::vector<float> h = maker.values(rows * hidden), shared = maker.values(rows * hidden);
      std::vector<int32_t> replayed;
      for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < routing.chosen; i++)
          replayed.push_back(static_cast<int32_t>(routing.experts - routing.chosen + i));
      // By definition: a bias leaves no other choice, and weights do not see it.
      std::vector<float> bias(static_cast<size_t>(routing.experts), -1e9f);
      std::fill(bias.end() - routing.chosen, bias.end(), 1e9f);
      Routing alone = routing;
      alone.groups = alone.groups_chosen = 1;
      std::vector<std::vector<ExpertChoice>> of_rows;
      const std::vector<double> scores = product(h, widened(layer.router), hidden);
      for (auto row = scores.begin(); row != scores.end(); row += routing.experts)
        of_rows.push_back(route(std::vector<float>(row, row + routing.experts), bias, alone));
      const auto expected = by_definition(layer, of_rows, h, shared);
      std::vector<int32_t> recorded(replayed.size());
      const auto own = run(backend, layer, routing, h, shared, true,
                           {.replayed = replayed.data(), .recorded = recorded.data()});
      BOOST_TEST(error_of(own, expected) < 2 * tolerance(choice, DType::f32));
      BOOST_TEST(recorded == replayed);
      BOOST_TEST(own != run(backend, layer, routing, h, shared, true));
    }
  });
}

BOOST_AUTO_TEST_CASE(without_shared_experts_the_sum_begins_at_zero) {
  for_each_backend([](const BackendChoice&, Backend& backend) {
    const Layer layer(greedy, DType::f32);
    TensorMaker maker(54);
    const std::vector<float> h = maker.values(5 * hidden), zeros(5 * hidden, 0.0f);
    const Weight router = backend.adopt(layer.router);
    std::vector<Weight> gate, up, down;
    for (size_t e = 0; e < layer.gate.size(); e++)
      gate.push_back(backend.adopt(layer.gate[e])), up.push_back(backend.adopt(layer.up[e])),
          down.push_back(backend.adopt(layer.down[e]));
    DeviceRows input(backend, 5, hidden, h), out(backend, 5, hidden, h);  // what was there must not show
    backend.experts(input.view, {&router, nullptr, gate, up, down}, greedy, {}, Rows{}, out.view);
    BOOST_TEST(out.read() == run(backend, layer, greedy, h, zeros, true));
  });
}

BOOST_AUTO_TEST_CASE(a_row_gets_the_same_bits_whoever_shares_its_experts) {
  for_each_backend([](const BackendChoice& choice, Backend& backend) {
    for (const DType type : {DType::f32, DType::bf16, DType::q8_0}) {
      const Layer layer(biased, type);
      TensorMaker maker(53);
      const int64_t rows = 40;
      const std::vector<float> h = maker.values(rows * hidden), shared = maker.values(rows * hidden);
      const auto together = run(backend, layer, biased, h, shared, true);
      BOOST_TEST(run(*BackendChoice{choice.kernels, 1}.make(), layer, biased, h, shared, true) == together);
      for (const int64_t r : {0, 17, 39}) {
        const auto row = [&](const std::vector<float>& of) {
          return std::vector<float>(of.begin() + r * hidden, of.begin() + (r + 1) * hidden);
        };
        BOOST_TEST(run(backend, layer, biased, row(h), row(shared), true) == row(together));
      }
    }
  });
}

BOOST_AUTO_TEST_CASE(experts_that_nobody_chose_are_not_computed_with) {
  for_each_backend([](const BackendChoice&, Backend& backend) {
    for (const Routing& routing : {greedy, biased}) {
      Layer layer(routing, DType::q8_0);
      TensorMaker maker(54);
      const std::vector<float> h = maker.values(2 * hidden), shared(2 * hidden, 0.0f);
      const auto expected = run(backend, layer, routing, h, shared, true);
      std::set<int32_t> chosen;
      for (const auto& of_row : choices(layer, routing, h))
        for (const ExpertChoice& choice : of_row) chosen.insert(choice.expert);
      BOOST_REQUIRE(chosen.size() < static_cast<size_t>(routing.experts));
      for (int32_t e = 0; e < routing.experts; e++) {
        if (chosen.contains(e)) continue;
        for (auto* tensors : {&layer.gate, &layer.up, &layer.down}) {
          model::Tensor& tensor = (*tensors)[static_cast<size_t>(e)];
          tensor = backend.copies_weights() ? spoiled(tensor) : unreadable(tensor);
        }
      }
      BOOST_TEST(run(backend, layer, routing, h, shared, true) == expected);
    }
  });
}
