// The forward pass of the CUDA device against the CPU's reference, in fresh random models: every type of
// weight, every kind of layer, sizes at and beside the edges of tiles, rows in any company.

#include <algorithm>
#include <chrono>
#include <thread>

#include "gpu/kv_types.hpp"
#include "test/cuda/rig.hpp"
#include "test/gpu/random_routing.hpp"

using namespace convoy;
using namespace convoy::gpu;
using namespace convoy::gpu::test;
using cuda::Activations;
using model::DType;

namespace {

// Of ‖own − reference‖/‖reference‖ at a position. float32 differs in the order of additions and in exp().
constexpr double f32_tolerance = 3e-5;
// bf16 activations round to 2^-9 at each product's input; a few layers add up. Of experts a row may choose
// others where two are nearly equal, so the median is what tells.
constexpr double bf16_tolerance = 6e-2, bf16_median = 3e-2;
// Where it is told which experts to choose: their weights are still its own.
constexpr double replayed_tolerance = 0.25;
// A key or value that lies between two of a narrow type's may be rounded to either.
constexpr double narrow_tolerance = 4e-3;
// Of 8 bits they are up to an eighth apart: few lie so near the middle that float32's last bits decide, but
// where one does, and is one of few that are attended to, it shows. Most positions see none, so the median
// tells: what the cache itself costs against one in float32 is 5e-3 to 9e-3 of these models.
constexpr double f8_tolerance = 4e-2, f8_median = 1e-3;

model::LatentAttention latent_of(int64_t q_rank, int64_t latent, int64_t nope, int64_t rope, int64_t value) {
  return {.q_rank = q_rank, .latent = latent, .nope = nope, .rope = rope, .value = value};
}

/// All kinds of layers.
std::vector<ModelShape> families() {
  std::vector<ModelShape> all;
  all.push_back({.name = "llama"});
  all.push_back({.name = "interleaved, all biases",
                 .pairs = model::RopePairs::interleaved,
                 .qkv_bias = true,
                 .o_bias = true,
                 .mlp_bias = true});
  all.push_back(
      {.name = "qwen2, seven queries a key", .heads = 14, .kv_heads = 2, .head_dim = 64, .qkv_bias = true});
  all.push_back({.name = "qwen3", .heads = 4, .kv_heads = 4, .head_dim = 128, .qk_norm = true});
  all.push_back({.name = "one key for all", .heads = 24, .kv_heads = 1, .head_dim = 40});
  all.push_back({.name = "wide heads", .heads = 9, .kv_heads = 1, .head_dim = 256});
  all.push_back(
      {.name = "softmax experts, none shared",
       .moe = model::Experts{.routing = {.experts = 6, .chosen = 2, .normalised = true}, .width = 64}});
  all.push_back({.name = "deepseek v2 lite",
                 .heads = 6,
                 .kv_heads = 6,
                 .pairs = model::RopePairs::interleaved,
                 .latent = latent_of(0, 64, 32, 16, 32),
                 .moe = model::Experts{.routing = {.experts = 16, .chosen = 6, .scale = 1.5},
                                       .width = 64,
                                       .shared = 2,
                                       .dense_layers = 1}});
  const model::Routing v2{.experts = 16, .chosen = 4, .groups = 4, .groups_chosen = 2, .scale = 4};
  all.push_back({.name = "deepseek v2, split",
                 .pairs = model::RopePairs::interleaved,
                 .latent = latent_of(96, 64, 32, 16, 64),
                 .split_latent = true,
                 .moe = model::Experts{.routing = v2, .width = 32, .shared = 1}});
  const model::Routing v3{.experts = 32,
                          .chosen = 5,
                          .groups = 8,
                          .groups_chosen = 3,
                          .scoring = model::Scoring::sigmoid,
                          .group_score = model::GroupScore::best_two,
                          .biased = true,
                          .normalised = true,
                          .scale = 2.5};
  all.push_back({.name = "deepseek v3",
                 .layers = 3,
                 .pairs = model::RopePairs::interleaved,
                 .latent = latent_of(64, 512, 128, 64, 128),
                 .moe = model::Experts{.routing = v3, .width = 64, .shared = 1, .dense_layers = 1}});
  return all;
}

/// Widths at, below and above what kernels take at once.
std::vector<ModelShape> odd_sizes() {
  std::vector<ModelShape> all;
  for (const int64_t width : {8, 31, 33, 63, 65, 127, 129, 250, 257})
    all.push_back({.name = "odd widths",
                   .layers = 1,
                   .hidden = width,
                   .intermediate = width + 1,
                   .vocab = width + 3,
                   .heads = 3,
                   .kv_heads = 1,
                   .head_dim = 2 * (width % 13 + 1)});
  return all;
}

/// Decodes, prompts that fill tiles and do not, and one of 900 tokens that attention cuts into parts.
const std::vector<size_t> ragged =
    few() ? std::vector<size_t>{1, 7, 8, 9, 33} : std::vector<size_t>{1, 7, 8, 9, 63, 64, 65, 150, 129};

/// Of all positions, in order of size.
std::vector<double> all_errors(const std::vector<std::vector<float>>& own,
                               const std::vector<std::vector<float>>& reference, int64_t vocab) {
  std::vector<double> errors;
  for (size_t i = 0; i < own.size(); i++)
    std::ranges::copy(row_errors(own[i], reference[i], static_cast<size_t>(vocab)),
                      std::back_inserter(errors));
  std::ranges::sort(errors);
  return errors;
}

void compare(const ModelShape& shape, const DeviceFactory& device, const EngineLimits& limits,
             const std::vector<size_t>& lengths, std::initializer_list<size_t> chunks, double tolerance,
             double median) {
  const uint32_t seed = fresh_seed();
  const auto checkpoint = std::make_shared<ShapedCheckpoint>(shape, seed);
  const auto feeds = feeds_of(lengths, shape.vocab, seed);
  const model::LayerRange all{0, shape.layers - 1};
  Engine expected(reference(), checkpoint, all, limits);
  const auto reference_logits = logits_of(expected, feeds, 700 / lengths.size());
  for (const size_t chunk : chunks) {
    if (few() && std::ranges::max(lengths) / chunk > few_steps) continue;
    BOOST_TEST_CONTEXT(shape.name << ", " << model::info(shape.type).name << ", hidden " << shape.hidden
                                  << ", chunks of " << chunk << ", kv " << model::info(*limits.kv_type).name
                                  << ", seed " << seed) {
      Engine own(device, checkpoint, all, limits);
      const auto errors = all_errors(logits_of(own, feeds, chunk), reference_logits, shape.vocab);
      BOOST_TEST_MESSAGE(shape.name << ' ' << model::info(shape.type).name << " chunk " << chunk
                                    << ": median " << errors[errors.size() / 2] << ", most "
                                    << errors.back());
      BOOST_TEST(errors.back() <= tolerance);
      BOOST_TEST(errors[errors.size() / 2] <= median);
      BOOST_TEST(errors.back() > 0);  // or the same device ran twice
    }
  }
}

/// Steps' routings, in their order: kept when a run records, and gone through when one replays.
struct Routings {
  std::vector<std::vector<int32_t>> steps;
  size_t next = 0;
};

/// As logits_of, with the experts that rows went to.
std::vector<std::vector<float>> recorded(Engine& engine, const std::vector<Feed>& feeds, size_t chunk,
                                         Routings& routings) {
  engine.record_routing(true);
  return logits_of(engine, feeds, chunk, [&](const auto& run) {
    run();
    routings.steps.emplace_back(engine.routing().begin(), engine.routing().end());
  });
}
/// With rows that go to these experts.
std::vector<std::vector<float>> replayed(Engine& engine, const std::vector<Feed>& feeds, size_t chunk,
                                         Routings routings) {
  engine.record_routing(true);
  return logits_of(engine, feeds, chunk, [&](const auto& run) {
    const std::vector<int32_t>& routing = routings.steps.at(routings.next++);
    engine.replay_routing(routing);
    run();
    BOOST_TEST(std::ranges::equal(engine.routing(), routing));
  });
}

constexpr DType all_types[] = {DType::f32,    DType::f16,  DType::bf16, DType::f8_e4m3,
                               DType::i8,     DType::q8_0, DType::q4_0, DType::q4_1,
                               DType::iq4_nl, DType::q4_k, DType::q5_k, DType::q6_k};

/// Every row of a weight is whole blocks.
ModelShape in_type(ModelShape shape, DType type) {
  shape.type = type;
  if (model::info(type).block_values > 32) {
    shape.hidden = 256, shape.intermediate = 512;
    shape.heads = 4, shape.kv_heads = 2, shape.head_dim = 64;
  }
  return shape;
}

/// Latents and experts, two shared, whose parts of one matrix are whole blocks and units.
ModelShape deepseek_in(DType type, bool split) {
  const int64_t block = std::max<int64_t>(128, model::info(type).block_values);
  return {.name = "deepseek",
          .hidden = block,
          .intermediate = block,
          .pairs = model::RopePairs::interleaved,
          .latent = latent_of(block, block, block, 16, block),
          .split_latent = split,
          .moe = model::Experts{.routing = {.experts = 8, .chosen = 3, .normalised = true},
                                .width = block,
                                .shared = 2,
                                .dense_layers = 1},
          .type = type};
}

}  // namespace

BOOST_AUTO_TEST_CASE(every_kind_of_layer_in_float32) {
  if (!find_library()) return;
  for (const ModelShape& shape : families())
    compare(shape, on_card(Activations::f32), limits_of(), ragged, {1, 7, 77}, f32_tolerance, f32_tolerance);
}

namespace {

/// Until the step in flight is done.
void finish(Engine& engine) { BOOST_REQUIRE(engine.next_done(std::chrono::seconds(30))); }

}  // namespace

// Between two stages on cards hidden states are rounded to what products round them to anyway.
BOOST_AUTO_TEST_CASE(hidden_states_are_handed_over_in_bf16) {
  if (!find_library()) return;
  for (const int64_t hidden : {256, 250}) {
    ModelShape shape{.name = "two stages", .layers = 4, .hidden = hidden, .type = DType::bf16};
    const uint32_t seed = fresh_seed();
    const auto checkpoint = std::make_shared<ShapedCheckpoint>(shape, seed);
    const auto feeds = feeds_of(ragged, shape.vocab, seed);
    const DeviceFactory device = on_card(Activations::bf16);
    Engine whole(device, checkpoint, {0, 3}, limits_of()), first(device, checkpoint, {0, 1}, limits_of()),
        last(device, checkpoint, {2, 3}, limits_of());
    BOOST_REQUIRE(first.hidden_form() == HiddenForm::bf16);
    whole.keep_logits(true), last.keep_logits(true);
    StepPlan plan = start(feeds);
    for (const Feed& f : feeds) plan.sequences.push_back({f.slot, 0, f.tokens, 1});
    const auto values = static_cast<size_t>(plan.rows() * hidden);
    std::vector<std::byte> narrow(2 * values);
    whole.run(plan, {});
    first.submit(plan, {}, {narrow, HiddenForm::bf16}), finish(first);
    last.submit(plan, {narrow, HiddenForm::bf16}, {}), finish(last);
    const auto logits = [](const Engine& e) { return std::vector(e.logits().begin(), e.logits().end()); };
    const auto errors = row_errors(logits(last), logits(whole), static_cast<size_t>(shape.vocab));
    BOOST_TEST_CONTEXT("hidden " << hidden << ", seed " << seed) {
      BOOST_TEST(*std::ranges::max_element(errors) <= bf16_tolerance);
      BOOST_TEST(*std::ranges::max_element(errors) > 0);  // or nothing was rounded
    }
  }
}

namespace {

/// Two stages on two cards, and an edge between them.
struct TwoCards {
  std::shared_ptr<const ShapedCheckpoint> checkpoint;
  Engine whole, first, last;
  std::vector<Feed> feeds;

  TwoCards(std::shared_ptr<const ShapedCheckpoint> c, const DeviceFactory& a, const DeviceFactory& b,
           uint32_t seed)
      : checkpoint(c),
        whole(a, c, {0, 3}, limits_of()),
        first(a, c, {0, 1}, limits_of()),
        last(b, c, {2, 3}, limits_of()),
        feeds(feeds_of(ragged, c->config().vocab, seed)) {
    whole.keep_logits(true), last.keep_logits(true);
  }

  void connect() {
    last.join_edge(first.offer_edge());
    const auto up = [](Engine& engine, EdgeEnd end) {
      const EdgeStatus edge = engine.edge_status(end);
      BOOST_REQUIRE_MESSAGE(edge.state != EdgeState::failed, edge.reason);
      return edge.state == EdgeState::up;
    };
    const auto begin = std::chrono::steady_clock::now();
    bool both = false;
    while (!both && std::chrono::steady_clock::now() - begin < std::chrono::seconds(30)) {
      const bool one = up(first, EdgeEnd::to_next);
      both = up(last, EdgeEnd::from_before) && one;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    BOOST_REQUIRE(both);
    BOOST_TEST_MESSAGE("an edge took "
                       << std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count()
                       << " s");
  }
  /// All sequences in chunks, the receiving stage first; the logits of each one's last position compared.
  void compare() {
    whole.reset();
    StepPlan plan = start(feeds);
    for (size_t at = 0; at < 150; at += 30) {
      for (const Feed& f : feeds) {
        if (at >= f.tokens.size()) continue;
        const size_t end = std::min(at + 30, f.tokens.size());
        plan.sequences.push_back(
            {f.slot,
             static_cast<uint32_t>(at),
             {f.tokens.begin() + static_cast<ptrdiff_t>(at), f.tokens.begin() + static_cast<ptrdiff_t>(end)},
             1});
      }
      last.submit(plan, {{}, HiddenForm::edge}, {});
      first.submit(plan, {}, {{}, HiddenForm::edge});
      whole.run(plan, {});
      finish(first), finish(last);
      const auto logits = [](const Engine& e) { return std::vector(e.logits().begin(), e.logits().end()); };
      const auto errors =
          row_errors(logits(last), logits(whole), static_cast<size_t>(checkpoint->config().vocab));
      BOOST_TEST(*std::ranges::max_element(errors) <= bf16_tolerance);
      plan = {.step = plan.step + 1};
    }
  }
};

}  // namespace

BOOST_AUTO_TEST_CASE(hidden_states_go_by_an_edge_from_card_to_card) {
  const auto library = find_library();
  if (!library) return;
  const std::vector<int32_t> cards = library->cards();
  for (const Activations activations : {Activations::bf16, Activations::f32}) {
    const auto on = [&](size_t i) {
      return cuda_device(library, {.ordinal = cards[i], .activations = activations, .poison = true});
    };
    const uint32_t seed = fresh_seed();
    const auto checkpoint = std::make_shared<const ShapedCheckpoint>(
        ModelShape{.name = "two stages", .layers = 4, .type = DType::bf16}, seed);
    const bool edges = on(0)(stage_shape(checkpoint->config(), {0, 1}, false))->facts().edges;
    if (cards.size() < 2 || !edges) {
      BOOST_TEST_MESSAGE("no second card, or no NCCL: no edges are tested");
      return;
    }
    BOOST_TEST_CONTEXT("seed " << seed) {
      TwoCards two(checkpoint, on(0), on(1), seed);
      two.connect();
      two.compare();
      // A new epoch while a receive waits for what will not come.
      StepPlan plan = start(two.feeds);
      plan.sequences.push_back({two.feeds[0].slot, 0, two.feeds[0].tokens, 1});
      two.last.reset();
      two.connect();
      two.last.submit(plan, {{}, HiddenForm::edge}, {});
      const auto begin = std::chrono::steady_clock::now();
      two.last.reset(), two.first.reset();
      BOOST_TEST_MESSAGE("giving it up took "
                         << std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count()
                         << " s");
      two.connect();
      two.compare();
    }
  }
}

// With weights in bf16 too, few rows are streamed and many go to cuBLASLt.
BOOST_AUTO_TEST_CASE(every_kind_of_layer_in_bf16) {
  if (!find_library()) return;
  for (const DType type : {DType::f32, DType::bf16})
    for (ModelShape shape : families()) {
      shape.type = type;
      compare(shape, on_card(Activations::bf16), limits_of(), ragged, {1, 3, 77},
              shape.moe ? 2.0 : bf16_tolerance, bf16_median);
    }
}

// What is left of the errors where rows go to the experts that they chose in float32.
BOOST_AUTO_TEST_CASE(bf16_with_the_experts_of_float32_replayed) {
  if (!find_library()) return;
  std::vector<ModelShape> shapes;
  for (const DType type : {DType::f32, DType::bf16})
    for (ModelShape shape : families())
      if (shape.moe) shape.type = type, shapes.push_back(shape);
  for (const DType type : all_types) shapes.push_back(deepseek_in(type, false));
  for (const ModelShape& shape : shapes)
    for (const size_t chunk : {1, 3, 77}) {
      const uint32_t seed = fresh_seed();
      BOOST_TEST_CONTEXT(shape.name << ' ' << model::info(shape.type).name << ", chunks of " << chunk
                                    << ", seed " << seed) {
        const auto checkpoint = std::make_shared<ShapedCheckpoint>(shape, seed);
        const auto feeds = feeds_of(ragged, shape.vocab, seed);
        const model::LayerRange all{0, shape.layers - 1};
        Engine expected(reference(), checkpoint, all, limits_of()),
            own(on_card(Activations::bf16), checkpoint, all, limits_of());
        Routings routings;
        const auto reference_logits = recorded(expected, feeds, chunk, routings);
        const auto errors = all_errors(replayed(own, feeds, chunk, routings), reference_logits, shape.vocab);
        BOOST_TEST_MESSAGE(shape.name << ' ' << model::info(shape.type).name << " replayed, chunk " << chunk
                                      << ": median " << errors[errors.size() / 2] << ", most "
                                      << errors.back());
        BOOST_TEST(errors.back() <= replayed_tolerance);
        BOOST_TEST(errors[errors.size() / 2] <= bf16_median);
        BOOST_TEST(errors.front() > 0);
      }
    }
}

// In float32 hardly a row has scores so near each other that it chooses otherwise; and any routing, however
// unlikely, gives what it gives on the CPU.
BOOST_AUTO_TEST_CASE(experts_are_recorded_and_any_are_replayed_in_float32) {
  if (!find_library()) return;
  for (const ModelShape& shape : families()) {
    if (!shape.moe) continue;
    for (const size_t chunk : {1, 77}) {
      const uint32_t seed = fresh_seed();
      BOOST_TEST_CONTEXT(shape.name << ", chunks of " << chunk << ", seed " << seed) {
        const auto checkpoint = std::make_shared<ShapedCheckpoint>(shape, seed);
        const auto feeds = feeds_of(ragged, shape.vocab, seed);
        const model::LayerRange all{0, shape.layers - 1};
        Engine expected(reference(), checkpoint, all, limits_of()),
            own(on_card(Activations::f32), checkpoint, all, limits_of());
        Routings chosen, on_cpu, any;
        recorded(own, feeds, chunk, chosen);
        recorded(expected, feeds, chunk, on_cpu);
        BOOST_REQUIRE(chosen.steps.size() == on_cpu.steps.size());
        size_t values = 0, other = 0;
        for (size_t s = 0; s < chosen.steps.size(); s++) {
          BOOST_REQUIRE(chosen.steps[s].size() == on_cpu.steps[s].size());
          values += chosen.steps[s].size();
          for (size_t i = 0; i < chosen.steps[s].size(); i++)
            other += chosen.steps[s][i] != on_cpu.steps[s][i];
        }
        BOOST_TEST(static_cast<double>(other) <= 0.01 * static_cast<double>(values));
        const int64_t layers = shape.layers - shape.moe->dense_layers;
        for (const auto& step : chosen.steps)
          any.steps.push_back(
              random_routing(layers, static_cast<int64_t>(step.size()) / (layers * shape.moe->routing.chosen),
                             shape.moe->routing, seed + static_cast<uint32_t>(any.steps.size())));
        const auto reference_logits = replayed(expected, feeds, chunk, any);
        const auto errors = all_errors(replayed(own, feeds, chunk, any), reference_logits, shape.vocab);
        BOOST_TEST(errors.back() <= f32_tolerance);
        BOOST_TEST(errors.back() > 0);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(attention_on_tensor_cores) {
  if (!find_library()) return;
  std::vector<ModelShape> shapes;
  for (const auto& [heads, kv_heads, width] :
       {std::array{14, 2, 64}, std::array{8, 8, 128}, std::array{3, 1, 128}, std::array{40, 2, 64},
        std::array{32, 2, 128}})
    shapes.push_back({.name = "grouped, " + std::to_string(heads) + " heads",
                      .heads = heads,
                      .kv_heads = kv_heads,
                      .head_dim = width});
  shapes.push_back({.name = "grouped, pairs of neighbours, normalised heads",
                    .heads = 6,
                    .kv_heads = 2,
                    .head_dim = 128,
                    .pairs = model::RopePairs::interleaved,
                    .qk_norm = true});
  for (const int64_t heads : {3, 16, 20})
    shapes.push_back({.name = "latents, " + std::to_string(heads) + " heads",
                      .heads = heads,
                      .kv_heads = heads,
                      .pairs = model::RopePairs::interleaved,
                      .latent = latent_of(0, 512, 32, 64, 32)});
  // One token, shares of less than a block's warps, a block's edge, and far beyond; alone and in company.
  for (const ModelShape& shape : shapes)
    for (const std::vector<size_t>& lengths : {std::vector<size_t>{1100},
                                               {1100, 257, 256, 3},
                                               {1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 200, 33}})
      compare(shape, on_card(Activations::bf16), limits_of(false, DType::bf16), lengths, {1, 8, 9, 58},
              bf16_tolerance, bf16_median);
  // So long that several clusters share a row.
  EngineLimits far = limits_of(false, DType::bf16);
  far.context_tokens = 2048;
  for (const ModelShape& shape : {shapes[2], shapes[6]})
    compare(shape, on_card(Activations::bf16), far, {1900}, {1, 8}, bf16_tolerance, bf16_median);
}

BOOST_AUTO_TEST_CASE(every_type_of_weight_in_float32) {
  if (!find_library()) return;
  for (const DType type : all_types)
    compare(in_type({.name = "llama"}, type), on_card(Activations::f32), limits_of(), ragged, {1, 77},
            f32_tolerance, f32_tolerance);
}

BOOST_AUTO_TEST_CASE(every_type_of_weight_in_bf16) {
  if (!find_library()) return;
  for (const DType type : all_types)
    compare(in_type({.name = "llama"}, type), on_card(Activations::bf16), limits_of(), ragged, {1, 77},
            bf16_tolerance, bf16_median);
}

BOOST_AUTO_TEST_CASE(latent_attention_and_experts_in_every_type_of_weight) {
  if (!find_library()) return;
  for (const DType type : all_types)
    for (const bool split : {false, true})
      compare(deepseek_in(type, split), on_card(Activations::f32), limits_of(), ragged, {1, 77},
              f32_tolerance, f32_tolerance);
}

BOOST_AUTO_TEST_CASE(widths_beside_the_edges_of_tiles) {
  if (!find_library()) return;
  for (const ModelShape& shape : odd_sizes()) {
    compare(shape, on_card(Activations::f32), limits_of(), ragged, {1, 77}, f32_tolerance, f32_tolerance);
    compare(shape, on_card(Activations::bf16), limits_of(), ragged, {77}, 0.2, bf16_median);
  }
}

BOOST_AUTO_TEST_CASE(caches_of_every_type_and_sequences_of_several_parts) {
  if (!find_library()) return;
  for (const ModelShape& shape : {families()[0], families()[2], families()[7]})
    for (const auto& [name, kv_type] : kv_types) {
      const bool f8 = kv_type == DType::f8_e4m3;
      const double tolerance = kv_type == DType::f32 ? f32_tolerance : f8 ? f8_tolerance : narrow_tolerance;
      compare(shape, on_card(Activations::f32), limits_of(false, kv_type), {1100, 257, 256, 3}, {64, 3},
              shape.moe && kv_type != DType::f32 ? 2.0 : tolerance, f8 ? f8_median : tolerance);
    }
}

// Of shapes whose heads and latents go to tensor cores over a cache in bf16. Rounded activations move keys
// and values by a thirtieth of what lies between two of 8 bits, and so many are rounded the other way.
BOOST_AUTO_TEST_CASE(a_cache_of_8_bits_under_activations_in_bf16) {
  if (!find_library()) return;
  const ModelShape grouped{
      .name = "grouped", .heads = 14, .kv_heads = 2, .head_dim = 64, .type = DType::bf16},
      latents{.name = "latents",
              .heads = 16,
              .kv_heads = 16,
              .pairs = model::RopePairs::interleaved,
              .latent = latent_of(0, 512, 32, 64, 32),
              .type = DType::bf16};
  for (const ModelShape& shape : {grouped, latents})
    for (const bool deterministic : {false, true})
      compare(shape, on_card(Activations::bf16), limits_of(deterministic, DType::f8_e4m3),
              {1100, 257, 256, 3}, {1, 8, 58}, bf16_tolerance + f8_tolerance, bf16_median);
}

BOOST_AUTO_TEST_CASE(batches_at_and_beside_the_edges_of_buckets) {
  if (!find_library()) return;
  for (const size_t sequences : {1, 2, 5, 8, 9, 31, 33, 64, 65, 70}) {
    const std::vector<size_t> lengths(sequences, 3);
    compare(in_type(families()[0], DType::bf16), on_card(Activations::f32), limits_of(), lengths, {1},
            f32_tolerance, f32_tolerance);
    for (const DType type : all_types)
      compare(in_type(families()[1], type), on_card(Activations::bf16), limits_of(), lengths, {1},
              bf16_tolerance, bf16_median);
  }
}

BOOST_AUTO_TEST_CASE(a_deterministic_row_has_the_same_bits_in_any_company_chunks_and_stages) {
  if (!find_library()) return;
  std::vector<ModelShape> shapes{families()[2], families()[7], families()[9]};
  for (size_t i = 0; i < 3; i++) shapes.push_back(in_type(shapes[i], DType::bf16));
  for (const DType type : {DType::f8_e4m3, DType::q8_0, DType::q4_k}) {
    shapes.push_back(in_type(families()[0], type));
    shapes.push_back(deepseek_in(type, false));
  }
  for (const ModelShape& shape : shapes)
    for (const Activations activations : {Activations::f32, Activations::bf16})
      BOOST_TEST_CONTEXT(shape.name << ' ' << model::info(shape.type).name) {
        const uint32_t seed = fresh_seed();
        const auto checkpoint = std::make_shared<ShapedCheckpoint>(shape, seed);
        const auto feeds = feeds_of({600, 33, 300, 1}, shape.vocab, seed);
        const auto device = on_card(activations);
        const model::LayerRange all{0, shape.layers - 1};
        Engine first(device, checkpoint, all, limits_of(true));
        const auto expected = logits_of(first, {feeds[0]}, 600)[0];
        for (const size_t chunk : {1, 50, 175}) {
          Engine engine(device, checkpoint, all, limits_of(true));
          BOOST_TEST(same_bits(logits_of(engine, feeds, chunk)[0], expected),
                     "chunks of " << chunk << ", seed " << seed);
        }
        StepPlan plan = start({feeds[0]});
        plan.sequences = {{feeds[0].slot, 0, feeds[0].tokens, 600}};
        Engine before(device, checkpoint, {0, 0}, limits_of(true)),
            behind(device, checkpoint, {1, shape.layers - 1}, limits_of(true));
        behind.keep_logits(true);
        const StepOutput hidden = before.run(plan, {});
        behind.run(plan, hidden.hidden);
        BOOST_TEST(same_bits({behind.logits().begin(), behind.logits().end()}, expected),
                   "two stages, seed " << seed);
      }
}

BOOST_AUTO_TEST_CASE(rewritten_positions_count_as_they_were_written_last) {
  if (!find_library()) return;
  const ModelShape shape = families()[0];
  const uint32_t seed = fresh_seed();
  const auto checkpoint = std::make_shared<ShapedCheckpoint>(shape, seed);
  const auto feeds = feeds_of({150}, shape.vocab, seed);
  const std::vector<int32_t>& tokens = feeds[0].tokens;
  Engine engine(on_card(Activations::f32), checkpoint, {0, 1}, limits_of(true));
  const auto expected = logits_of(engine, feeds, 512)[0];
  engine.run({.step = 2, .sequences = {{feeds[0].slot, 100, TensorMaker(seed + 1).ids(50, shape.vocab), 50}}},
             {});
  engine.run({.step = 3, .sequences = {{feeds[0].slot, 100, {tokens.begin() + 100, tokens.end()}, 50}}}, {});
  BOOST_TEST(same_bits({engine.logits().begin(), engine.logits().end()},
                       {expected.begin() + 100 * shape.vocab, expected.end()}),
             "seed " << seed);
}

BOOST_AUTO_TEST_CASE(blocks_that_come_back_from_the_hosts_memory_are_as_they_left) {
  if (!find_library()) return;
  using Way = BlockMove::Way;
  for (const ModelShape& shape : families())
    for (const Activations activations : {Activations::f32, Activations::bf16}) {
      const uint32_t seed = fresh_seed();
      const auto checkpoint = std::make_shared<ShapedCheckpoint>(shape, seed);
      const auto feeds = feeds_of({150, 192}, shape.vocab, seed);
      const Feed &own = feeds[0], &other = feeds[1];
      EngineLimits limits = limits_of(true);
      limits.second_tier.host_bytes = 64 << 20;
      Engine engine(on_card(activations), checkpoint, {0, shape.layers - 1}, limits);
      const auto expected = logits_of(engine, {own}, 512)[0];
      // Two blocks leave, another sequence writes all three, and the two come back in each other's places.
      engine.run({.step = 1, .moves = {{Way::save, own.blocks[0], 9}, {Way::save, own.blocks[1], 4}}}, {});
      logits_of(engine, {{other.tokens, own.blocks, other.slot}}, 512);
      StepPlan plan{.step = 2, .starts = {{own.slot, 150, {}, 128}}};
      plan.block_changes = {
          {own.slot, 0, own.blocks[1]}, {own.slot, 1, own.blocks[0]}, {own.slot, 2, own.blocks[2]}};
      plan.moves = {{Way::load, own.blocks[0], 4}, {Way::load, own.blocks[1], 9}};
      plan.sequences = {{own.slot, 128, {own.tokens.begin() + 128, own.tokens.end()}, 22}};
      engine.run(plan, {});
      BOOST_TEST(same_bits({engine.logits().begin(), engine.logits().end()},
                           {expected.begin() + 128 * shape.vocab, expected.end()}),
                 shape.name << ", seed " << seed);
    }
}

BOOST_AUTO_TEST_CASE(a_graph_gives_the_bits_of_its_launches) {
  if (!find_library()) return;
  for (const ModelShape& shape : {families()[2], families()[8]}) {
    const uint32_t seed = fresh_seed();
    const auto checkpoint = std::make_shared<ShapedCheckpoint>(shape, seed);
    // Kept logits are not captured, so tokens are what is compared: log-probabilities say more than ids.
    const auto run = [&](bool graphs) {
      const auto feeds = feeds_of({5, 40, 300}, shape.vocab, seed);
      Engine engine(on_card(Activations::bf16, graphs), checkpoint, {0, shape.layers - 1}, limits_of());
      StepPlan plan = start(feeds);
      for (SeqStart& s : plan.starts)
        s.sampling.logprobs = true, s.sampling.temperature = 1, s.sampling.top_p = 0.9f;
      std::vector<float> found;
      for (uint32_t at = 0; at < 300; at++) {
        for (const Feed& f : feeds)
          if (at < f.tokens.size()) plan.sequences.push_back({f.slot, at, {f.tokens[at]}, 1});
        const StepResult result = engine.run(plan, {}).result;
        for (const SampledTokens& s : result.sequences)
          found.push_back(static_cast<float>(s.tokens[0].id)), found.push_back(s.tokens[0].logprob);
        plan = {.step = plan.step + 1};
      }
      return found;
    };
    BOOST_TEST(same_bits(run(true), run(false)), shape.name << ", seed " << seed);
  }
}

// Kernels that stream FP8 would take it for a number.
BOOST_AUTO_TEST_CASE(a_weight_in_fp8_that_is_no_number_is_refused) {
  if (!find_library()) return;
  ModelShape shape = families()[0];
  shape.type = DType::f8_e4m3;
  const auto checkpoint = std::make_shared<ShapedCheckpoint>(shape, fresh_seed());
  const std::span<const std::byte> bytes = checkpoint->stage({0, 0}).layers[0].down.bytes;
  for (const auto no_number : {std::byte{0x7f}, std::byte{0xff}}) {
    const_cast<std::byte&>(bytes[bytes.size() - 1]) = no_number;
    BOOST_CHECK_EXCEPTION(Engine(on_card(Activations::bf16), checkpoint, {0, 1}, limits_of()), InputError,
                          [](const InputError& e) {
                            return std::string(e.what()).find("1 weights are NaN") != std::string::npos;
                          });
  }
}
