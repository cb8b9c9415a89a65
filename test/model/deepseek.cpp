// What DeepSeek's configurations and checkpoints say, and what of it is refused.

#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "files.hpp"
#include "model/checkpoint/checkpoint.hpp"

using namespace convoy;
using namespace convoy::model;
using test::golden;

namespace {

std::string config_text(const std::string& model) {
  std::ifstream file(golden(model) / "config.json");
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

/// A golden configuration with one piece of its text replaced.
Config edited(const std::string& model, const std::string& from, const std::string& to) {
  std::string text = config_text(model);
  const size_t at = text.find(from);
  BOOST_REQUIRE_MESSAGE(at != std::string::npos, model << " has no " << from);
  return parse_config_json(text.replace(at, from.size(), to), "", "config.json");
}

/// A copy of a golden checkpoint's directory, to be damaged.
class Copy {
 public:
  explicit Copy(const std::string& model)
      : path_(std::filesystem::temp_directory_path() / ("convoy_" + model + std::to_string(getpid()))) {
    std::filesystem::copy(golden(model), path_, std::filesystem::copy_options::recursive);
  }
  ~Copy() { std::filesystem::remove_all(path_); }
  const std::filesystem::path& path() const { return path_; }
  /// Replaces text of the same length in the file.
  void replace(const std::string& file, const std::string& from, const std::string& to) const {
    BOOST_REQUIRE(from.size() == to.size());
    std::fstream stream(path_ / file, std::ios::in | std::ios::out | std::ios::binary);
    std::stringstream bytes;
    bytes << stream.rdbuf();
    const size_t at = bytes.str().find(from);
    BOOST_REQUIRE_MESSAGE(at != std::string::npos, file << " has no " << from);
    stream.seekp(static_cast<std::streamoff>(at));
    stream << to;
  }

 private:
  std::filesystem::path path_;
};

}  // namespace

BOOST_AUTO_TEST_CASE(v2_lite_has_direct_queries_and_takes_the_best_experts) {
  const Config c = parse_config_json(config_text("deepseek-v2-lite"), "", "config.json");
  BOOST_REQUIRE(c.latent.has_value());
  BOOST_TEST(c.latent->q_rank == 0);
  BOOST_TEST(c.latent->cached() == 576);
  BOOST_TEST(c.head_dim == 64);
  BOOST_TEST((c.rope.pairs == RopePairs::interleaved));
  BOOST_REQUIRE(c.moe.has_value());
  BOOST_TEST(c.moe->routing.groups == 1);
  BOOST_TEST((c.moe->routing.scoring == Scoring::softmax));
  BOOST_TEST(!has_experts(c, 0));
  BOOST_TEST(has_experts(c, 1));
}

BOOST_AUTO_TEST_CASE(v2_takes_the_best_groups_by_their_best_and_v3_by_their_two_best) {
  const Routing v2 = parse_config_json(config_text("deepseek-v2"), "", "config.json").moe->routing;
  BOOST_TEST(v2.groups == 4);
  BOOST_TEST(v2.groups_chosen == 2);
  BOOST_TEST((v2.group_score == GroupScore::best));
  BOOST_TEST(!v2.biased);
  BOOST_TEST(v2.scale == 4.0);
  const Routing v3 = parse_config_json(config_text("deepseek-v3"), "", "config.json").moe->routing;
  BOOST_TEST((v3.group_score == GroupScore::best_two));
  BOOST_TEST((v3.scoring == Scoring::sigmoid));
  BOOST_TEST(v3.biased);
  BOOST_TEST(v3.normalised);
}

BOOST_AUTO_TEST_CASE(the_cache_of_a_token_and_layer_is_1152_bytes_in_bf16) {
  const auto streams = cache_streams(parse_config_json(config_text("deepseek-v3"), "", "config.json"));
  BOOST_REQUIRE(streams.size() == 1u);
  BOOST_TEST(streams[0].width * info(DType::bf16).block_bytes == 1152);
}

BOOST_AUTO_TEST_CASE(attention_is_scaled_by_the_square_of_yarns_magnitude) {
  const Config v3 = parse_config_json(config_text("deepseek-v3"), "", "config.json");
  const double m = 0.1 * std::log(40.0) + 1;
  BOOST_TEST(attention_scale(v3) == m * m / std::sqrt(192.0), boost::test_tools::tolerance(1e-6));
  BOOST_TEST(rope_magnitude(v3.rope) == 1.0);
  const Config other = edited("deepseek-v3", "\"mscale\": 1.0", "\"mscale\": 2.0");
  BOOST_TEST(rope_magnitude(other.rope) == (0.2 * std::log(40.0) + 1) / m,
             boost::test_tools::tolerance(1e-12));
}

BOOST_AUTO_TEST_CASE(the_newer_spelling_of_the_rotary_scaling_says_the_same) {
  const std::string text = config_text("deepseek-v3");
  const Config old = parse_config_json(text, "", "config.json");
  std::string other = text;
  other.replace(other.find("rope_scaling"), 12, "rope_parameters");
  other.replace(other.find("\"type\": \"yarn\""), 14, "\"rope_type\": \"yarn\", \"rope_theta\": 10000.0");
  const Config now = parse_config_json(other, "", "config.json");
  BOOST_TEST(rope_frequencies(now.rope, 64) == rope_frequencies(old.rope, 64),
             boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(yarn_keeps_fast_rotations_and_stretches_slow_ones) {
  const Config v3 = parse_config_json(config_text("deepseek-v3"), "", "config.json");
  Rope plain = v3.rope;
  plain.yarn.reset();
  const auto scaled = rope_frequencies(v3.rope, 64), kept = rope_frequencies(plain, 64);
  BOOST_TEST(scaled.front() == kept.front());
  BOOST_TEST(scaled.back() == kept.back() / 40, boost::test_tools::tolerance(1e-12));
}

BOOST_AUTO_TEST_CASE(what_would_change_the_result_and_is_not_known_is_refused) {
  CHECK_INPUT_ERROR(edited("deepseek-v3", "noaux_tc", "noaux_xx"), "topk_method");
  CHECK_INPUT_ERROR(edited("deepseek-v2", "\"softmax\"", "\"sigmoid\""), "scoring_func");
  CHECK_INPUT_ERROR(edited("deepseek-v2", "\"norm_topk_prob\": false", "\"norm_topk_prob\": true"),
                    "norm_topk_prob");
  CHECK_INPUT_ERROR(edited("deepseek-v3", "\"moe_layer_freq\": 1", "\"moe_layer_freq\": 2"),
                    "moe_layer_freq");
  CHECK_INPUT_ERROR(edited("deepseek-v3", "\"attention_bias\": false", "\"attention_bias\": true"),
                    "attention_bias");
  CHECK_INPUT_ERROR(edited("deepseek-v3", "\"deepseek_v3\"", "\"deepseek_v9\""), "deepseek_v9");
  CHECK_INPUT_ERROR(edited("deepseek-v3", "\"mscale_all_dim\": 1.0", "\"mscale_all\": 1.0"),
                    "mscale_all_dim");
  CHECK_INPUT_ERROR(edited("deepseek-v3-fp8", "\"e4m3\"", "\"e5m2\""), "fmt");
  CHECK_INPUT_ERROR(edited("deepseek-v3-fp8", "[\n      128,", "[\n      64,"), "weight_block_size");
  CHECK_INPUT_ERROR(edited("deepseek-v3-fp8", "\"fp8\"", "\"awq\""), "quant_method");
}

BOOST_AUTO_TEST_CASE(routing_that_does_not_add_up_is_refused) {
  CHECK_INPUT_ERROR(edited("deepseek-v3", "\"n_group\": 4", "\"n_group\": 5"), "groups");
  CHECK_INPUT_ERROR(edited("deepseek-v3", "\"topk_group\": 2", "\"topk_group\": 5"), "groups per token");
  CHECK_INPUT_ERROR(edited("deepseek-v3", "\"num_experts_per_tok\": 4", "\"num_experts_per_tok\": 9"),
                    "fewer experts");
  CHECK_INPUT_ERROR(edited("deepseek-v3", "\"first_k_dense_replace\": 1", "\"first_k_dense_replace\": 4"),
                    "dense layers");
}

BOOST_AUTO_TEST_CASE(fp8_weights_come_with_their_scales) {
  const auto checkpoint = Checkpoint::open(golden("deepseek-v3-fp8"));
  const LayerWeights layer = checkpoint->stage({1, 1}).layers.at(0);
  BOOST_REQUIRE(layer.latent.has_value());
  const Tensor& kv_a = layer.latent->kv_a;  // 576 rows: the last block is partial
  BOOST_TEST((kv_a.type == DType::f8_e4m3));
  BOOST_TEST(kv_a.scales.size() == 5u * 2 * sizeof(float));
  std::vector<float> row(256);
  dequantize_row(kv_a, 575, row);
  BOOST_TEST(std::isfinite(row[0]));
  BOOST_TEST(layer.experts->gate.size() == 8u);
  BOOST_TEST((layer.experts->router.type == DType::bf16));
  BOOST_TEST((layer.experts->router_bias->type == DType::f32));
}

BOOST_AUTO_TEST_CASE(rows_of_an_fp8_matrix_keep_their_scales) {
  const auto checkpoint = Checkpoint::open(golden("deepseek-v3-fp8"));
  const Tensor kv_b = *checkpoint->stage({0, 0}).layers.at(0).latent->kv_b;
  const Tensor part = row_range(kv_b, 256, 128);
  std::vector<float> whole(512), same(512);
  dequantize_row(kv_b, 300, whole);
  dequantize_row(part, 44, same);
  BOOST_TEST(whole == same, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(fp8_without_scales_is_refused) {
  const Copy copy("deepseek-v3-fp8");
  copy.replace("model.safetensors", "layers.0.mlp.up_proj.weight_scale_inv",
               "layers.0.mlp.up_proj.weight_scale_abc");
  CHECK_INPUT_ERROR(Checkpoint::open(copy.path()), "weight_scale_inv");
}

BOOST_AUTO_TEST_CASE(layers_that_predict_further_tokens_are_left_out) {
  // The golden model's last layer becomes its prediction layer: two layers are left.
  const Copy copy("deepseek-v3");
  copy.replace("config.json", "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 2");
  CHECK_INPUT_ERROR(Checkpoint::open(copy.path()), "model.layers.2.");
  copy.replace("config.json", "\"num_nextn_predict_layers\": 0", "\"num_nextn_predict_layers\": 1");
  const auto checkpoint = Checkpoint::open(copy.path());
  BOOST_TEST(checkpoint->config().layers == 2);
  BOOST_TEST(checkpoint->stage({0, 1}).layers.size() == 2u);
}

BOOST_AUTO_TEST_CASE(a_missing_expert_is_named) {
  const Copy copy("deepseek-v2-lite");
  copy.replace("model.safetensors", "layers.2.mlp.experts.7.up_proj", "layers.2.mlp.experts.8.up_proj");
  CHECK_INPUT_ERROR(Checkpoint::open(copy.path()), "experts.7.up_proj");
}
