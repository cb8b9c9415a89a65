#include "model/checkpoint/random_model.hpp"

#include <cmath>

#include "files.hpp"
#include "model/checkpoint/checkpoint.hpp"
#include "model/format/safetensors.hpp"
#include "model/rewrite/checkpoint_writer.hpp"

using namespace convoy;
using namespace convoy::model;

namespace {

const RandomModel in_f32{.like = "r1-distill-qwen-1.5b", .type = DType::f32};

std::vector<float> values(const RandomModel& model, const TensorPart& part) {
  std::vector<float> out(static_cast<size_t>(part.rows * part.tensor->shape.back()));
  generate(model, part, std::as_writable_bytes(std::span(out)));
  return out;
}

/// Row by row, as whoever computes with it reads it.
std::vector<float> widened(const Tensor& tensor) {
  std::vector<float> out(value_count(tensor));
  const auto width = static_cast<size_t>(tensor.columns());
  for (int64_t row = 0; row < tensor.rows(); ++row)
    dequantize_row(tensor, row, std::span(out).subspan(static_cast<size_t>(row) * width, width));
  return out;
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_tensor_has_the_same_values_whole_and_in_parts) {
  const WantedTensor tensor{"model.layers.3.mlp.up_proj.weight", {512, 1536}};
  const std::vector<float> whole = values(in_f32, {&tensor, 0, 512});
  std::vector<float> joined;
  for (int64_t first = 0; first < 512; first += 128)
    for (const float value : values(in_f32, {&tensor, first, 128})) joined.push_back(value);
  BOOST_TEST(whole == joined);
}

BOOST_AUTO_TEST_CASE(values_depend_on_seed_and_name) {
  const WantedTensor one{"model.layers.3.mlp.up_proj.weight", {128, 64}},
      other{"model.layers.4.mlp.up_proj.weight", {128, 64}};
  RandomModel reseeded = in_f32;
  reseeded.seed = 1;
  const auto first = values(in_f32, {&one, 0, 128});
  BOOST_TEST(first != values(in_f32, {&other, 0, 128}));
  BOOST_TEST(first != values(reseeded, {&one, 0, 128}));
  BOOST_TEST(first == values(in_f32, {&one, 0, 128}));
}

BOOST_AUTO_TEST_CASE(matrices_keep_the_size_of_activations_and_norms_are_one) {
  const WantedTensor matrix{"model.layers.0.self_attn.o_proj.weight", {1024, 1536}},
      norm{"model.norm.weight", {1536}, true}, bias{"model.layers.0.self_attn.q_proj.bias", {1536}, true};
  double sum = 0, squares = 0;
  const auto found = values(in_f32, {&matrix, 0, 1024});
  for (const float value : found) sum += value, squares += double{value} * value;
  const auto count = static_cast<double>(found.size());
  // A million draws: the mean is off by a thousandth of the deviation, the deviation by as little.
  BOOST_TEST(std::abs(sum / count) < 0.005 / std::sqrt(1536.0));
  BOOST_TEST(std::abs(std::sqrt(squares / count) * std::sqrt(1536.0) - 1) < 0.005);
  for (const float value : values(in_f32, {&norm, 0, 1})) BOOST_REQUIRE(value == 1);
  const auto biases = values(in_f32, {&bias, 0, 1});
  BOOST_TEST(biases.front() != biases.back());
}

BOOST_AUTO_TEST_CASE(a_name_gives_model_and_layers) {
  BOOST_TEST(names_random_model("random:deepseek-v3"));
  BOOST_TEST(!names_random_model("/models/random:deepseek-v3"));
  BOOST_TEST(parse_random_model("random:deepseek-v2-lite:4").layers == 4);
  BOOST_TEST(Checkpoint::open("random:deepseek-v2-lite")->config().layers == 27);
  BOOST_TEST(Checkpoint::open("random:deepseek-v3:2")->config().moe->dense_layers == 2);
  CHECK_INPUT_ERROR(parse_random_model("random:gpt"), "deepseek-v2-lite");
  CHECK_INPUT_ERROR(parse_random_model("random:deepseek-v3:0"), "number of layers");
  CHECK_INPUT_ERROR(parse_random_model("random:deepseek-v3:4x"), "number of layers");
  CHECK_INPUT_ERROR(Checkpoint::open("random:deepseek-v3:62"), "61 layers");
}

BOOST_AUTO_TEST_CASE(a_random_models_name_is_no_path) {
  BOOST_TEST(resolve_model("random:deepseek-v3:4", "/etc") == "random:deepseek-v3:4");
  BOOST_TEST(resolve_model("models/a.gguf", "/etc") == "/etc/models/a.gguf");
  BOOST_TEST(resolve_model("/models/a.gguf", "/etc") == "/models/a.gguf");
}

BOOST_AUTO_TEST_CASE(every_model_opens_and_has_the_weights_of_its_configuration) {
  for (const std::string_view name : random_model_names()) {
    const auto checkpoint = Checkpoint::open("random:" + std::string(name));
    const StageWeights all = checkpoint->layout({0, checkpoint->config().layers - 1});
    BOOST_TEST(all.layers.size() == static_cast<size_t>(checkpoint->config().layers), name);
    BOOST_TEST(all.embedding->columns() == checkpoint->config().hidden, name);
  }
}

BOOST_AUTO_TEST_CASE(a_stage_gets_values_that_do_not_depend_on_who_asks) {
  const auto one = Checkpoint::open("random:r1-distill-qwen-1.5b"),
             other = Checkpoint::open("random:r1-distill-qwen-1.5b:3");
  const LayerWeights a = one->stage({1, 2}).layers[0], b = other->stage({1, 1}).layers[0];
  BOOST_TEST((a.down.type == DType::bf16));
  BOOST_TEST(std::ranges::equal(a.down.bytes, b.down.bytes));
  BOOST_TEST(std::ranges::equal(a.q_bias->bytes, b.q_bias->bytes));
  BOOST_TEST(!std::ranges::equal(a.gate.bytes, a.up.bytes));
  BOOST_TEST(widened(a.attention_norm) == std::vector<float>(1536, 1.0f));
  const auto again = one->stage({1, 1});
  BOOST_TEST(again.layers[0].down.bytes.data() == a.down.bytes.data());
}

BOOST_AUTO_TEST_CASE(values_go_with_their_last_reader_and_come_back_the_same) {
  const auto model = Checkpoint::open("random:r1-distill-qwen-1.5b:3");
  const Tensor first = model->stage({1, 1}).layers[0].down;
  const std::vector<std::byte> values(first.bytes.begin(), first.bytes.end());
  model->stage({0, 1});
  model->release({1, 1});
  BOOST_TEST(std::ranges::equal(first.bytes, values));  // somebody reads them
  model->release({0, 1});
  const auto zeros = std::ranges::count(first.bytes, std::byte{0});
  BOOST_TEST(static_cast<size_t>(zeros) > first.bytes.size() - 3 * 4096);
  BOOST_TEST(std::ranges::equal(model->stage({1, 1}).layers[0].down.bytes, values));
}

BOOST_AUTO_TEST_CASE(the_digest_is_of_what_the_weights_are_made_from) {
  const auto digest = [](const char* name) { return Checkpoint::open(name)->weights_digest(); };
  BOOST_TEST(digest("random:deepseek-v3").size() == 64u);
  BOOST_TEST(digest("random:deepseek-v3") == digest("random:deepseek-v3:61"));
  BOOST_TEST(digest("random:deepseek-v3") != digest("random:deepseek-v3:60"));
  BOOST_TEST(digest("random:deepseek-v3") != digest("random:deepseek-v2"));
}

BOOST_AUTO_TEST_CASE(a_plan_keeps_its_shards_small_and_holds_every_weight) {
  for (const DType type : {DType::bf16, DType::f32, DType::f8_e4m3}) {
    const CheckpointPlan plan = plan_checkpoint({.like = "deepseek-v2-lite", .layers = 12, .type = type});
    BOOST_TEST(plan.shards.size() > 1u);
    size_t tensors = 0;
    for (const Shard& shard : plan.shards) {
      BOOST_TEST(shard.data_bytes <= shard_bytes_max);
      tensors += shard.entries.size();
    }
    const Config config = parse_config_json(plan.config_json, "", "config.json");
    BOOST_TEST(config.layers == 12);
    BOOST_TEST(tensors == list_weights(config).size());
  }
}

BOOST_AUTO_TEST_CASE(fp8_blocks_hold_the_values_of_the_plain_model_within_their_precision) {
  const WantedTensor tensor{"model.layers.1.self_attn.kv_a_proj_with_mqa.weight", {576, 2048}};
  RandomModel plain{.like = "deepseek-v2-lite", .type = DType::f32}, blocks = plain;
  blocks.type = DType::f8_e4m3;
  const TensorPart part{&tensor, 128, 448};
  std::vector<float> scales(4 * 16);
  std::vector<std::byte> bytes(448 * 2048);
  generate(blocks, part, bytes, scales);
  const Tensor stored{DType::f8_e4m3, {448, 2048}, bytes, nullptr, std::as_bytes(std::span(scales))};
  const std::vector<float> expected = values(plain, part), found = widened(stored);
  for (size_t i = 0; i < expected.size(); ++i)
    BOOST_REQUIRE(std::abs(found[i] - expected[i]) <= std::abs(expected[i]) / 16 + 1e-4f);
}

BOOST_AUTO_TEST_CASE(nothing_is_written_over) {
  const test::TemporaryFolder folder;
  folder.write("notes.txt", "mine");
  CHECK_INPUT_ERROR(write_checkpoint(in_f32, folder.path(), [](uint64_t, uint64_t) {}), "not empty");
  BOOST_TEST(std::filesystem::exists(folder.path() / "notes.txt"));
}
