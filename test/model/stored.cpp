// A checkpoint of an outline and of tensors that lie each in a file of its own is the checkpoint that they
// came from.

#include <map>

#include "builders.hpp"
#include "model/checkpoint/checkpoint_parts.hpp"
#include "model/checkpoint/weight_outline.hpp"

using namespace convoy;
using namespace convoy::model;
using test::golden;
namespace fs = std::filesystem;

namespace {

using Asked = std::vector<NeededTensor>;

/// What a machine with the files gives, tensor by tensor.
StoredCheckpoint::Find finder(const std::shared_ptr<const Checkpoint>& from, Asked* asked = nullptr) {
  return [=, tensors = tensors_in_files(*from)](const NeededTensor& needed) {
    if (asked) asked->push_back(needed);
    const auto found = tensors.find(needed.name);
    BOOST_REQUIRE_MESSAGE(found != tensors.end(), needed.name);
    return Mapping::copy_of(found->second.bytes, needed.name);
  };
}

std::shared_ptr<const StoredCheckpoint> stored(const std::shared_ptr<const Checkpoint>& from,
                                               Asked* asked = nullptr) {
  return StoredCheckpoint::open(outline_of(*from, "digest"), finder(from, asked));
}

/// All that a stage computes with, as text.
std::string text_of(const StageWeights& weights) {
  std::string text;
  const auto add = [&](const Tensor& t) {
    text += std::string(info(t.type).name) + ' ';
    for (const int64_t dim : t.shape) text += std::to_string(dim) + ' ';
    for (const auto bytes : {t.bytes, t.scales})
      text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  const auto add_if = [&](const std::optional<Tensor>& t) {
    if (t) add(*t);
  };
  for (const LayerWeights& l : weights.layers) {
    for (const Tensor* t : {&l.attention_norm, &l.o, &l.mlp_norm, &l.q, &l.k, &l.v, &l.gate, &l.up, &l.down})
      add(*t);
    for (const auto* t : {&l.q_bias, &l.k_bias, &l.v_bias, &l.o_bias, &l.q_norm, &l.k_norm, &l.gate_bias,
                          &l.up_bias, &l.down_bias})
      add_if(*t);
    if (l.latent) {
      for (const auto* t :
           {&l.latent->q_a, &l.latent->q_a_norm, &l.latent->kv_b, &l.latent->k_b, &l.latent->v_b})
        add_if(*t);
      add(l.latent->kv_a), add(l.latent->kv_a_norm);
    }
    if (!l.experts) continue;
    add(l.experts->router), add_if(l.experts->router_bias);
    for (const auto* list : {&l.experts->gate, &l.experts->up, &l.experts->down})
      for (const Tensor& t : *list) add(t);
  }
  add_if(weights.embedding), add_if(weights.final_norm), add_if(weights.head);
  return text;
}

void check_same(const std::shared_ptr<const Checkpoint>& from) {
  const auto copy = stored(from);
  const int64_t last = from->config().layers - 1;
  for (const LayerRange range : {LayerRange{0, last}, LayerRange{0, 0}, LayerRange{last, last}}) {
    BOOST_TEST((text_of(copy->stage(range)) == text_of(from->stage(range))));
    BOOST_TEST(copy->layout(range).layers.size() == static_cast<size_t>(range.count()));
  }
  BOOST_TEST(copy->config().tied_head == from->config().tied_head);
  BOOST_TEST(copy->weights_digest() == "digest");
}

WeightOutline changed(void (*change)(WeightOutline&)) {
  auto outline = outline_of(*Checkpoint::open(golden("qwen2-bias")), "digest");
  change(outline);
  return outline;
}

void check_refused(void (*change)(WeightOutline&), const char* why) {
  CHECK_INPUT_ERROR(StoredCheckpoint::open(changed(change), nullptr), why);
}

}  // namespace

BOOST_AUTO_TEST_CASE(every_family_in_safetensors_is_the_same_out_of_a_store) {
  for (const auto& entry : fs::directory_iterator(golden("")))
    if (fs::exists(entry.path() / "config.json")) {
      BOOST_TEST_CONTEXT(entry.path().filename().string()) check_same(Checkpoint::open(entry.path()));
    }
}

BOOST_AUTO_TEST_CASE(a_gguf_is_the_same_out_of_a_store) {
  const test::TemporaryFolder folder;
  for (const char* architecture : {"llama", "qwen2"}) {
    const auto file = test::tiny_gguf(architecture);
    const auto path = folder.write("tiny.gguf", file.bytes());
    check_same(Checkpoint::open(path));
  }
}

BOOST_AUTO_TEST_CASE(the_default_model_is_the_same_out_of_a_store,
                     *boost::unit_test::precondition(test::has_default_model)) {
  check_same(Checkpoint::open(test::default_model()));
}

BOOST_AUTO_TEST_CASE(a_stage_needs_the_tensors_of_its_layers_alone) {
  const auto from = Checkpoint::open(golden("llama-gqa"));
  Asked asked;
  const auto copy = stored(from, &asked);
  BOOST_TEST(asked.empty());  // opening looks at no weight
  copy->stage({1, 2});
  BOOST_TEST((asked == copy->needs({1, 2})));
  BOOST_TEST(asked.size() == 18u);
  for (const NeededTensor& needed : asked)
    BOOST_TEST((needed.name.starts_with("model.layers.1.") || needed.name.starts_with("model.layers.2.")));
  const auto last = copy->needs({3, 3});
  BOOST_TEST(last.size() == 11u);
  BOOST_TEST(std::ranges::count(last, "lm_head.weight", &NeededTensor::name) == 1);
}

BOOST_AUTO_TEST_CASE(a_tensor_that_is_not_there_is_named) {
  const auto from = Checkpoint::open(golden("llama-gqa"));
  const auto copy = StoredCheckpoint::open(outline_of(*from, "digest"), [](const auto&) { return nullptr; });
  CHECK_INPUT_ERROR(copy->stage({0, 0}), "model.embed_tokens.weight");
}

BOOST_AUTO_TEST_CASE(an_outline_that_no_files_can_have_is_refused) {
  check_refused([](WeightOutline& o) { o.files.clear(); }, "has 0 files");
  check_refused([](WeightOutline& o) { o.files[0].name = "../config.json"; }, "odd names");
  check_refused([](WeightOutline& o) { o.files[0].bytes = 0; }, "0 bytes");
  check_refused([](WeightOutline& o) { o.files[0].bytes = 1ull << 60; }, "bytes");
  check_refused([](WeightOutline& o) { o.files[0].parts[0].begin = 1; }, "beyond its end");
  check_refused([](WeightOutline& o) { o.files[0].parts[0].begin = ~0ull; }, "beyond its end");
  check_refused([](WeightOutline& o) { o.files.pop_back(); }, "is missing");
  check_refused([](WeightOutline& o) { o.files.back().bytes -= 4; }, "tensor");
  check_refused([](WeightOutline& o) { o.files[0].parts.clear(); }, "config.json");
  check_refused([](WeightOutline& o) { o.gguf = true; }, "GGUF");
}
