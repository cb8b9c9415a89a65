// How a library's table becomes a Device: what is handed on both ways, and what a failure becomes. Over a
// table of the test's own, so that no GPU is needed.

#include "gpu/cuda_device.hpp"

#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <fstream>
#include <functional>

#include "gpu/device_error.hpp"
#include "test/gpu/fake_cuda.hpp"
#include "test/gpu/tiny_model.hpp"

using namespace convoy;
using namespace convoy::gpu;
using namespace convoy::gpu::test;
using cuda::Code;

namespace {

constexpr std::chrono::microseconds now{0};
const auto checkpoint = std::make_shared<TinyCheckpoint>(model::DType::f32);
const StageShape shape = stage_shape(checkpoint->config(), {0, 2}, false);

/// A token without more.
cuda::Sampled token(int32_t id) {
  return {.id = id, .logprob = -0.5f, .fault = 0, .top_count = 0, .top = {}};
}

/// Slot 0 with three tokens of a prompt, in block 2.
StepPlan prompt() {
  return {.epoch = 1,
          .step = 0,
          .starts = {{0, 3, {}}},
          .block_changes = {{0, 0, 2}},
          .sequences = {{0, 0, {10, 20, 30}, 1}}};
}

struct Fixture {
  FakeCuda fake;
  Fixture() { fake.sampled = {token(42)}; }
  std::unique_ptr<Engine> engine() {
    return std::make_unique<Engine>(fake.device(), checkpoint, model::LayerRange{0, 2}, tiny_limits);
  }
};

/// What is asked of a device, by the name of the table's function.
std::map<std::string, std::function<void(Device&)>> requests() {
  return {{"memory", [](Device& d) { d.memory_bytes(); }},
          {"load", [](Device& d) { d.load(0, {}); }},
          {"prepare", [](Device& d) { d.open({}, {}); }},
          {"submit", [](Device& d) { d.submit({.number = 1}); }},
          {"next_done", [](Device& d) { d.next_done(now); }},
          {"release", [](Device& d) { d.release(1); }},
          {"reset", [](Device& d) { d.reset(); }},
          {"save_block",
           [](Device& d) {
             std::byte block[FakeCuda::kv_block_bytes];
             d.save_block(0, block);
           }},
          {"load_block",
           [](Device& d) {
             const std::byte block[FakeCuda::kv_block_bytes]{};
             d.load_block(0, block);
           }},
          {"page_lock", [](Device& d) { d.page_lock({}); }}};
}

bool says(const std::string& text, std::initializer_list<const char*> words) {
  return std::ranges::all_of(words, [&](const char* w) { return text.find(w) != text.npos; });
}

}  // namespace

BOOST_AUTO_TEST_CASE(what_cannot_be_done_is_an_input_error_wherever_it_is_said) {
  for (const Code code : {Code::refused, Code::out_of_memory})
    for (const auto& [function, request] : requests()) BOOST_TEST_CONTEXT(function) {
        FakeCuda fake;
        const auto device = fake.device()(shape);
        request(*device);
        fake.fail(function, status_of(code, "9 of 8 GB", "GPU 3", "take less"));
        BOOST_CHECK_EXCEPTION(request(*device), InputError, [](const InputError& e) {
          return e.where() == "GPU 3" && e.mend() == "take less" && says(e.what(), {"9 of 8 GB"});
        });
      }
}

BOOST_AUTO_TEST_CASE(a_fault_is_a_device_error_wherever_it_is_said) {
  for (const auto& [function, request] : requests()) BOOST_TEST_CONTEXT(function) {
      FakeCuda fake;
      const auto device = fake.device()(shape);
      fake.fail(function, status_of(Code::fault, "fell off the bus", "CUDA", "look at dmesg"));
      BOOST_CHECK_EXCEPTION(request(*device), DeviceError, [](const DeviceError& e) {
        return std::string(e.what()) == "CUDA: fell off the bus; look at dmesg";
      });
    }
}

BOOST_FIXTURE_TEST_CASE(without_a_driver_no_device_is_made, Fixture) {
  fake.fail("check", status_of(Code::refused, "there is no NVIDIA driver", "CUDA", "use backend \"cpu\""));
  BOOST_CHECK_THROW(fake.device(), InputError);
  BOOST_TEST(fake.calls("open") == 0u);
}

BOOST_AUTO_TEST_CASE(cards_are_shared_out_among_the_ranks_of_a_machine) {
  FakeCuda fake;
  fake.cards = 5, fake.unusable = {2};
  const auto of = [&](uint32_t size) {
    std::vector<std::pair<int32_t, uint32_t>> cards;  // and sharers, of each rank
    for (uint32_t rank = 0; rank < size; rank++) {
      const PlacedDevice placed = place_on_cards(FakeCuda::library(), cuda::Activations::f32, {rank, size});
      placed.open(shape);
      BOOST_TEST(fake.opened.ordinal == placed.card.value());
      BOOST_CHECK(fake.opened.activations == cuda::Activations::f32);
      cards.emplace_back(*placed.card, placed.sharers);
    }
    return cards;
  };
  using Cards = std::vector<std::pair<int32_t, uint32_t>>;
  BOOST_CHECK(of(1) == (Cards{{0, 1}}));
  BOOST_CHECK(of(2) == (Cards{{0, 1}, {1, 1}}));
  BOOST_CHECK(of(4) == (Cards{{0, 1}, {1, 1}, {3, 1}, {4, 1}}));
  BOOST_CHECK(of(6) == (Cards{{0, 2}, {0, 2}, {1, 1}, {3, 2}, {3, 2}, {4, 1}}));
  fake.unusable = {0, 1, 3, 4};
  BOOST_CHECK(of(2) == (Cards{{2, 2}, {2, 2}}));
}

BOOST_AUTO_TEST_CASE(without_a_card_that_works_what_is_wrong_with_the_first_is_said) {
  FakeCuda fake;
  const auto place = [] { place_on_cards(FakeCuda::library(), cuda::Activations::bf16, {}); };
  fake.unusable = {0};
  BOOST_CHECK_EXCEPTION(place(), InputError,
                        [](const InputError& e) { return says(e.what(), {"another compute capability"}); });
  fake.fail("cards", status_of(Code::refused, "there is no GPU", "CUDA", "use backend \"cpu\""));
  BOOST_CHECK_EXCEPTION(place(), InputError, [](const InputError& e) { return says(e.what(), {"no GPU"}); });
}

BOOST_FIXTURE_TEST_CASE(a_shape_that_is_refused_is_refused_before_a_weight_is_read, Fixture) {
  fake.fail("open", status_of(Code::refused, "a head's width of 512", "model", "run it on a CPU"));
  BOOST_CHECK_THROW(engine(), InputError);
  BOOST_TEST(fake.loads.size() == 0u);
  BOOST_TEST(fake.calls("close") == 0u);  // there is nothing to close
}

BOOST_FIXTURE_TEST_CASE(a_device_is_closed_when_it_ends_and_when_loading_fails, Fixture) {
  fake.device()(shape).reset();
  BOOST_TEST(fake.calls("close") == 1u);
  fake.fail("load", status_of(Code::out_of_memory, "no room for weights", "GPU 0", "use more stages"));
  BOOST_CHECK_THROW(engine(), InputError);
  BOOST_TEST(fake.calls("close") == 2u);
}

BOOST_FIXTURE_TEST_CASE(options_facts_and_needs_are_handed_on, Fixture) {
  const auto device = fake.device({.ordinal = 3, .activations = cuda::Activations::f32})(shape);
  BOOST_TEST(fake.opened.ordinal == 3);
  BOOST_CHECK(fake.opened.activations == cuda::Activations::f32);
  BOOST_TEST(device->facts().variant == "fake-cuda");
  BOOST_TEST(device->facts().depth == 2u);
  BOOST_TEST(device->facts().feeds_back);
  BOOST_CHECK(device->facts().kv_type == model::DType::f32);
  BOOST_TEST(device->needs({}).weight_bytes == 1u);
  BOOST_TEST(device->needs({}).kv_block_bytes == 2u);
  BOOST_TEST(device->needs({}).buffer_bytes == 3u);
  BOOST_TEST(device->needs({}).scratch_bytes == 4u);
  BOOST_TEST(device->memory_bytes() == uint64_t{1} << 34);
}

BOOST_FIXTURE_TEST_CASE(a_step_is_handed_on_with_its_sampling, Fixture) {
  const auto device = fake.device()(shape);
  const model::Sampling sampling{.temperature = 0.7f,
                                 .top_k = 5,
                                 .top_p = 0.9f,
                                 .min_p = 0.1f,
                                 .presence_penalty = 0.2f,
                                 .frequency_penalty = 0.3f,
                                 .repetition_penalty = 1.1f,
                                 .seed = 99,
                                 .logprobs = true,
                                 .top_logprobs = 6,
                                 .min_tokens = 4,
                                 .end_tokens = {2, 3}};
  const std::vector<int32_t> history{5, 6, 7};
  const std::vector<SlotStart> starts{{1, 17, &sampling, history}};
  const std::vector<BlockChange> changes{{1, 0, 4}};
  const std::vector<SlotRows> sequences{{.slot = 1, .rows = 2, .sampled_rows = 1}};
  const std::vector<int32_t> ids{8, 9}, replayed{1};
  std::vector<int32_t> recorded{0};
  device->submit({.number = 12,
                  .starts = starts,
                  .block_changes = changes,
                  .sequences = sequences,
                  .ids = ids,
                  .keep_logits = true,
                  .routing = {.replayed = replayed.data(), .recorded = recorded.data()}});
  BOOST_TEST(fake.step.number == 12u);
  BOOST_TEST(fake.step.change_count == 1u);
  BOOST_TEST(fake.step.changes == changes.data());
  BOOST_TEST(fake.step.sequences == sequences.data());
  BOOST_TEST(fake.step.ids == ids.data());
  BOOST_TEST(fake.step.rows == 2u);
  BOOST_TEST(fake.step.keep_logits == 1u);
  BOOST_TEST(fake.step.routing.replayed == replayed.data());
  BOOST_TEST(fake.step.routing.recorded == recorded.data());
  BOOST_TEST(fake.start.slot == 1u);
  BOOST_TEST(fake.start.prompt_tokens == 17u);
  const cuda::Sampling& s = fake.start.sampling;
  BOOST_TEST(s.temperature == 0.7f);
  BOOST_TEST(s.top_k == 5u);
  BOOST_TEST(s.top_p == 0.9f);
  BOOST_TEST(s.min_p == 0.1f);
  BOOST_TEST(s.repetition_penalty == 1.1f);
  BOOST_TEST(s.presence_penalty == 0.2f);
  BOOST_TEST(s.frequency_penalty == 0.3f);
  BOOST_TEST(s.seed == 99u);
  BOOST_TEST(s.min_tokens == 4u);
  BOOST_TEST(s.logprobs == 1u);
  BOOST_TEST(s.top_logprobs == 6u);
  BOOST_TEST(fake.end_tokens == sampling.end_tokens, boost::test_tools::per_element());
  BOOST_TEST(fake.history == history, boost::test_tools::per_element());
}

BOOST_FIXTURE_TEST_CASE(sampled_tokens_and_logits_are_handed_on, Fixture) {
  const auto device = fake.device()(shape);
  cuda::Sampled first = token(7), second = token(0);
  first.top_count = 2, first.top[0] = {7, -0.5f}, first.top[1] = {3, -1.5f};
  second.fault = static_cast<uint32_t>(RowFault::all_masked);
  fake.sampled = {first, second};
  fake.logits.resize(2 * static_cast<size_t>(shape.vocab));
  fake.logits.back() = 3.25f;
  device->submit({.number = 5});
  const DeviceDone* done = device->next_done(now);
  BOOST_REQUIRE(done);
  BOOST_TEST(done->number == 5u);
  BOOST_REQUIRE(done->sampled.size() == 2u);
  BOOST_TEST(done->sampled[0].id == 7);
  BOOST_TEST(done->sampled[0].logprob == -0.5f);
  BOOST_REQUIRE(done->sampled[0].top.size() == 2u);
  BOOST_TEST(done->sampled[0].top[1].id == 3);
  BOOST_TEST(done->sampled[0].top[1].logprob == -1.5f);
  BOOST_CHECK(done->sampled[0].fault == RowFault::none);
  BOOST_TEST(done->sampled[1].top.empty());
  BOOST_CHECK(done->sampled[1].fault == RowFault::all_masked);
  BOOST_REQUIRE(done->logits.size() == fake.logits.size());
  BOOST_TEST(done->logits.back() == 3.25f);
  device->release(5);
  BOOST_TEST(fake.released == 5u);
  BOOST_TEST(!device->next_done(now));

  fake.sampled.clear(), fake.logits.clear();  // of a step that samples nothing, or keeps none
  device->submit({.number = 6});
  done = device->next_done(now);
  BOOST_REQUIRE(done);
  BOOST_TEST(done->sampled.empty());
  BOOST_TEST(done->logits.empty());
}

BOOST_FIXTURE_TEST_CASE(an_engine_loads_runs_and_resets_such_a_device, Fixture) {
  const auto engine = this->engine();
  BOOST_TEST(fake.loads.size() == 4u);
  BOOST_TEST(fake.limits.kv_blocks == tiny_limits.kv_blocks);
  const StepOutput output = engine->run(prompt(), {});
  BOOST_TEST(output.result.sequences.at(0).tokens.at(0).id == 42);
  BOOST_TEST(fake.released == 1u);
  engine->reset();
  BOOST_TEST(fake.calls("reset") == 1u);
}

BOOST_FIXTURE_TEST_CASE(keys_and_values_are_in_bf16_with_bf16_activations_unless_limits_say_another,
                        Fixture) {
  EngineLimits limits = tiny_limits;
  const auto opened_with = [&](cuda::Activations activations) {
    Engine(fake.device({.activations = activations}), checkpoint, {0, 2}, limits);
    return fake.limits.kv_type;
  };
  BOOST_CHECK(opened_with(cuda::Activations::bf16) == model::DType::bf16);
  BOOST_CHECK(opened_with(cuda::Activations::f32) == model::DType::f32);
  for (const model::DType type : {model::DType::f32, model::DType::f16, model::DType::f8_e4m3}) {
    limits.kv_type = type;
    BOOST_CHECK(opened_with(cuda::Activations::bf16) == type);
  }
}

BOOST_AUTO_TEST_CASE(a_gpu_that_is_lost_ends_a_run_and_is_not_waited_for) {
  for (const char* function : {"submit", "next_done", "release"}) BOOST_TEST_CONTEXT(function) {
      FakeCuda lost;
      lost.sampled = {token(42)};
      Engine engine(lost.device(), checkpoint, {0, 2}, tiny_limits);
      lost.fail(function, lost_status);
      BOOST_CHECK_EXCEPTION(engine.run(prompt(), {}), DeviceError, [](const DeviceError& e) {
        return says(e.what(), {"unspecified launch failure", "dmesg"});
      });
      lost.fail("reset", lost_status);
      BOOST_CHECK_THROW(engine.reset(), DeviceError);  // no new epoch makes it whole
    }
}

BOOST_FIXTURE_TEST_CASE(a_step_that_the_device_did_not_take_is_not_in_flight, Fixture) {
  const auto engine = this->engine();
  fake.fail("submit", status_of(Code::refused, "65 end tokens", "sampling", "at most 64"));
  BOOST_CHECK_THROW(engine->submit(prompt(), {}, {}), InputError);
  BOOST_TEST(engine->in_flight() == 0u);  // or one would wait for it forever
  BOOST_TEST(!engine->next_done(now));
}

BOOST_FIXTURE_TEST_CASE(an_engine_whose_pool_is_to_fit_says_what_it_could_not_ask, Fixture) {
  fake.fail("memory", lost_status);
  EngineLimits limits = tiny_limits;
  limits.kv_blocks = 0;
  BOOST_CHECK_THROW(Engine(fake.device(), checkpoint, {0, 2}, limits), DeviceError);
}

BOOST_AUTO_TEST_CASE(a_library_of_another_build_is_refused) {
  BOOST_CHECK_EXCEPTION(CudaLibrary::load(OTHER_LIBRARY), InputError, [](const InputError& e) {
    return e.where() == OTHER_LIBRARY && says(e.what(), {"another build"}) &&
           says(e.mend(), {"gpu/cuda/build"});
  });
}

BOOST_AUTO_TEST_CASE(a_file_that_is_no_library_is_refused_with_what_the_loader_says) {
  const auto path = std::filesystem::temp_directory_path() / ("no_library_" + std::to_string(getpid()));
  std::ofstream(path) << "not a library";
  BOOST_CHECK_EXCEPTION(CudaLibrary::load(path), InputError, [&](const InputError& e) {
    return e.where() == path && says(e.what(), {"cannot be loaded: "}) && says(e.mend(), {"gpu/cuda/build"});
  });
  std::filesystem::remove(path);
}

BOOST_AUTO_TEST_CASE(a_library_that_is_missing_is_named_with_how_to_build_it) {
  BOOST_CHECK_EXCEPTION(CudaLibrary::load("/nowhere/libconvoy_cuda.so"), InputError, [](const InputError& e) {
    return e.where() == "/nowhere" && says(e.what(), {"there is no libconvoy_cuda.so"}) &&
           says(e.mend(), {"gpu/cuda/build", "\"cpu\""});
  });
}

BOOST_AUTO_TEST_CASE(blocks_move_between_a_card_and_page_locked_memory_of_the_host) {
  FakeCuda fake;
  EngineLimits limits = tiny_limits;
  limits.second_tier.host_bytes = 7;
  Engine engine(fake.device(), checkpoint, {0, 2}, limits);
  BOOST_TEST(engine.kv_places() == 3u);
  BOOST_TEST(fake.page_locked == 6u);
  using Way = BlockMove::Way;
  fake.sampled = {};
  engine.run({.moves = {{Way::save, 3, 2}, {Way::save, 1, 0}, {Way::load, 4, 2}}}, {});
  BOOST_TEST(fake.loaded.first == 4u);
  BOOST_TEST(fake.loaded.second == "\3\3");
}
