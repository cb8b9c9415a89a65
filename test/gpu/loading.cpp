// How weights come to a device: who waits for the disk, and what is told meanwhile.

#include <sys/resource.h>

#include "test/gpu/fake_cuda.hpp"
#include "test/gpu/tiny_model.hpp"
#include "test/model/builders.hpp"
#include "test/model/resident.hpp"

using namespace convoy;
using namespace convoy::gpu;
using namespace convoy::gpu::test;
using convoy::test::pages_of;

namespace {

const EngineLimits limits{.kv_blocks = 4, .slots = 1, .context_tokens = 64, .rows_per_step = 8};

/// A checkpoint whose weights are a hole in its file: nothing of it is cached.
struct Sparse {
  Sparse() {
    auto file = convoy::test::tiny_gguf("llama", convoy::test::paged_shape(3));
    std::erase_if(file.keys, [](const auto& key) { return key.first.starts_with("tokenizer."); });
    checkpoint = model::Checkpoint::open(convoy::test::write_hole(folder, "sparse.gguf", file));
  }
  convoy::test::TemporaryFolder folder;
  std::shared_ptr<const model::Checkpoint> checkpoint;
};

}  // namespace

BOOST_AUTO_TEST_CASE(weights_that_are_computed_on_in_place_are_in_memory_when_the_engine_is_there) {
  const Sparse sparse;
  const Engine engine(cpu_device(Kernels::reference, 1), sparse.checkpoint, {1, 2}, limits);
  const auto weights = sparse.checkpoint->layout({0, 2});
  for (const size_t layer : {1, 2})
    for (const model::Tensor* tensor :
         {&weights.layers[layer].q, &weights.layers[layer].o, &weights.layers[layer].down}) {
      BOOST_TEST(pages_of(*tensor).all >= 255u);
      BOOST_TEST(pages_of(*tensor).resident == pages_of(*tensor).all);
    }
  BOOST_TEST(pages_of(weights.layers[0].gate).resident == 0u);
}

#ifndef __SANITIZE_ADDRESS__  // whose own memory is mapped as it is touched, too
/// Pages that the system had to map because they were touched.
long faults() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt + usage.ru_majflt;
}

BOOST_AUTO_TEST_CASE(weights_are_mapped_before_the_first_step_touches_them) {
  const auto checkpoint = model::Checkpoint::open(convoy::test::golden("llama-gqa"));
  const Engine engine(cpu_device(Kernels::reference, 1), checkpoint, {0, 3}, limits);
  const model::StageWeights all = checkpoint->layout({0, 3});
  size_t bytes = 0, sum = 0;
  const long before = faults();
  for (const model::LayerWeights& layer : all.layers)
    for (const model::Tensor* t :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      bytes += t->bytes.size();
      for (size_t i = 0; i < t->bytes.size(); i += 1024) sum += static_cast<size_t>(t->bytes[i]);
    }
  const long touched = faults() - before;
  BOOST_TEST(sum > 0u);
  BOOST_TEST(bytes > 1'000'000u);
  BOOST_TEST(touched < static_cast<long>(bytes / 4096 / 32));  // the system maps 16 at a touch when it must
}
#endif

// It would wait for the disk before the first byte is on its way to the card.
BOOST_AUTO_TEST_CASE(weights_that_a_device_copies_are_left_to_it) {
  const Sparse sparse;
  FakeCuda fake;
  const Engine engine(fake.device(), sparse.checkpoint, {0, 2}, limits);
  BOOST_TEST(fake.loads.size() == 4u);
  for (const model::LayerWeights& layer : sparse.checkpoint->layout({0, 2}).layers)
    for (const model::Tensor* tensor : {&layer.q, &layer.o, &layer.down})
      BOOST_TEST(pages_of(*tensor).resident == 0u);
}

BOOST_AUTO_TEST_CASE(progress_is_told_in_bytes_of_which_a_tied_head_has_none) {
  const auto checkpoint = std::make_shared<TinyCheckpoint>(model::DType::bf16);
  const auto weights = checkpoint->stage({0, 2});
  uint64_t expected = weights.embedding->bytes.size() + weights.final_norm->bytes.size();
  BOOST_REQUIRE(weights.head->bytes.data() == weights.embedding->bytes.data());
  for (const model::LayerWeights& layer : weights.layers)
    for (const WeightRef& part : parts_of(layer)) expected += part.bytes.size();
  std::vector<uint64_t> told;
  const Engine engine(cpu_device(Kernels::reference, 1), checkpoint, {0, 2}, tiny_limits,
                      [&](uint64_t done, uint64_t total) {
                        BOOST_TEST(total == expected);
                        told.push_back(done);
                      });
  BOOST_TEST(told.size() == 5u);  // none, three layers, the ends
  BOOST_TEST(told.front() == 0u);
  BOOST_TEST(told.back() == expected);
  BOOST_TEST(std::ranges::is_sorted(told));
}
