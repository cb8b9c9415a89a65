#include "model/format/gguf.hpp"

#include "builders.hpp"
#include "model/checkpoint/checkpoint_parts.hpp"
#include "test/model/resident.hpp"

using namespace convoy;
using namespace convoy::model;
using test::counted;
using test::GgufBuilder;
using test::raw;
using test::tiny_gguf;

namespace {

std::shared_ptr<const Checkpoint> open(const GgufBuilder& file) {
  return make_checkpoint(read_gguf(test::in_memory(file.bytes())));
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_llama_file_has_interleaved_pairs_and_a_qwen2_file_half_split_ones_and_biases) {
  const auto llama = open(tiny_gguf("llama"));
  BOOST_TEST((llama->config().rope.pairs == RopePairs::interleaved));
  BOOST_TEST(!llama->stage({0, 1}).layers[1].q_bias.has_value());
  const auto qwen2 = open(tiny_gguf("qwen2"));
  BOOST_TEST((qwen2->config().rope.pairs == RopePairs::half_split));
  BOOST_TEST((qwen2->stage({0, 1}).layers[1].v_bias->shape == std::vector<int64_t>{32}));
}

BOOST_AUTO_TEST_CASE(a_qwen3_file_has_half_split_pairs_and_a_norm_for_the_heads_of_q_and_of_k) {
  const auto qwen3 = open(tiny_gguf("qwen3"));
  BOOST_TEST((qwen3->config().rope.pairs == RopePairs::half_split));
  const LayerWeights layer = qwen3->stage({0, 1}).layers[1];
  BOOST_TEST((layer.q_norm->shape == std::vector<int64_t>{16}));
  BOOST_TEST((layer.k_norm->shape == std::vector<int64_t>{16}));
  BOOST_TEST(!layer.q_bias.has_value());
  CHECK_INPUT_ERROR(open(tiny_gguf("qwen3").remove("blk.1.attn_k_norm.weight")), "blk.1.attn_k_norm.weight");
}

BOOST_AUTO_TEST_CASE(shapes_are_turned_to_out_in) {
  const StageWeights weights = open(tiny_gguf("llama"))->stage({0, 1});
  BOOST_TEST((weights.layers[0].q.shape == std::vector<int64_t>{64, 32}));
  BOOST_TEST((weights.layers[0].down.shape == std::vector<int64_t>{32, 96}));
  BOOST_TEST((weights.embedding->shape == std::vector<int64_t>{8, 32}));
}

BOOST_AUTO_TEST_CASE(a_file_without_an_output_matrix_has_a_tied_head) {
  const auto tied = open(tiny_gguf("llama"));
  BOOST_TEST(tied->config().tied_head);
  BOOST_TEST(tied->stage({1, 1}).head->bytes.data() == tied->stage({0, 0}).embedding->bytes.data());
  const auto untied = open(tiny_gguf("llama").tensor_f32("output.weight", {32, 8}));
  BOOST_TEST(!untied->config().tied_head);
  BOOST_TEST(untied->stage({1, 1}).head->bytes.data() != untied->stage({0, 0}).embedding->bytes.data());
}

BOOST_AUTO_TEST_CASE(version_2_reads_like_version_3_and_others_are_refused) {
  GgufBuilder file = tiny_gguf("llama");
  file.version = 2;
  BOOST_TEST(open(file)->config().layers == 2);
  for (const uint32_t version : {0u, 1u, 4u, 0x03000000u}) {
    file.version = version;
    CHECK_INPUT_ERROR(open(file), "version");
  }
}

BOOST_AUTO_TEST_CASE(quantised_tensors_have_their_blocks_sizes) {
  GgufBuilder file = tiny_gguf("llama");
  file.remove("blk.0.attn_q.weight").tensor("blk.0.attn_q.weight", {32, 64}, test::ggml_q4_1, 64 * 20);
  file.remove("blk.0.attn_k.weight").tensor("blk.0.attn_k.weight", {32, 32}, test::ggml_q8_0, 32 * 34);
  file.remove("blk.0.attn_v.weight").tensor("blk.0.attn_v.weight", {32, 32}, test::ggml_q4_0, 32 * 18);
  const StageWeights weights = open(file)->stage({0, 0});
  BOOST_TEST(weights.layers[0].q.bytes.size() == 64u * 20);
  BOOST_TEST((weights.layers[0].k.type == DType::q8_0));
  BOOST_TEST((weights.layers[0].v.type == DType::q4_0));
}

BOOST_AUTO_TEST_CASE(blocks_of_256_values_have_their_sizes_and_rows_are_whole_ones) {
  GgufBuilder file = tiny_gguf("llama", {.hidden = 256});
  const auto replace = [&](const char* name, uint64_t rows, uint32_t type, uint64_t row_bytes) {
    file.remove(name).tensor(name, {256, rows}, type, rows * row_bytes);
  };
  replace("blk.0.attn_q.weight", 64, test::ggml_q4_k, 144);
  replace("blk.0.attn_k.weight", 32, test::ggml_q5_k, 176);
  replace("blk.0.attn_v.weight", 32, test::ggml_q6_k, 210);
  replace("blk.0.ffn_up.weight", 96, test::ggml_iq4_nl, 8 * 18);
  const StageWeights weights = open(file)->stage({0, 0});
  BOOST_TEST(weights.layers[0].q.bytes.size() == 64u * 144);
  BOOST_TEST(weights.layers[0].k.bytes.size() == 32u * 176);
  BOOST_TEST(weights.layers[0].v.bytes.size() == 32u * 210);
  BOOST_TEST((weights.layers[0].up.type == DType::iq4_nl));
  file = tiny_gguf("llama");  // 32 columns
  file.find("blk.0.attn_q.weight").type = test::ggml_q4_k;
  CHECK_INPUT_ERROR(open(file), "blk.0.attn_q.weight");
}

BOOST_AUTO_TEST_CASE(a_tensor_of_a_type_that_is_not_understood_is_named_but_its_metadata_can_be_read) {
  GgufBuilder file = tiny_gguf("llama");
  file.find("blk.1.ffn_up.weight").type = test::ggml_q3_k;
  CHECK_INPUT_ERROR(open(file), "blk.1.ffn_up.weight");
  CHECK_INPUT_ERROR(open(file), "Q3_K");
  file.find("blk.1.ffn_up.weight").type = 4711;
  CHECK_INPUT_ERROR(open(file), "4711");
  const test::TemporaryFolder folder;
  const GgufMetadata metadata = GgufFile::read_metadata(folder.write("a.gguf", file.bytes()));
  BOOST_TEST(std::get<GgufArray>(metadata.find("tokenizer.ggml.tokens")->second.value).size() == 3u);
}

BOOST_AUTO_TEST_CASE(end_tokens_are_those_of_every_key_that_ends_a_turn) {
  const auto checkpoint = open(tiny_gguf("llama")
                                   .key("tokenizer.ggml.eot_token_id", uint32_t{5})
                                   .key("tokenizer.ggml.eom_token_id", uint32_t{2})
                                   .key("tokenizer.ggml.bos_token_id", uint32_t{1}));
  BOOST_TEST(checkpoint->config().end_tokens == (std::vector<int32_t>{2, 5}),
             boost::test_tools::per_element());
  BOOST_TEST(checkpoint->config().bos_token == 1);
  CHECK_INPUT_ERROR(open(tiny_gguf("llama").key("tokenizer.ggml.eos_token_id", uint32_t{8})), "end token");
}

BOOST_AUTO_TEST_CASE(frequency_divisors_are_read_and_checked) {
  GgufBuilder file = tiny_gguf("llama").tensor_f32("rope_freqs.weight", {8});
  std::string bytes = file.bytes();
  const size_t at = file.header().size() + file.find("rope_freqs.weight").offset;
  for (int i = 0; i < 8; ++i) bytes.replace(at + i * 4, 4, raw(static_cast<float>(1 << i)));
  const Config config = make_checkpoint(read_gguf(test::in_memory(bytes)))->config();
  BOOST_TEST(config.rope.frequency_divisors == (std::vector<float>{1, 2, 4, 8, 16, 32, 64, 128}),
             boost::test_tools::per_element());
  CHECK_INPUT_ERROR(open(file), "rotary frequency");  // zeros
  CHECK_INPUT_ERROR(open(tiny_gguf("llama").tensor_f32("rope_freqs.weight", {7})), "rope_freqs.weight");
}

BOOST_AUTO_TEST_CASE(metadata_that_would_change_the_result_is_refused_by_name) {
  const auto refused = [](const char* key, auto value) {
    CHECK_INPUT_ERROR(open(tiny_gguf("llama").key(key, value)), key);
  };
  refused("general.architecture", std::string("mamba"));
  refused("llama.attention.sliding_window", uint32_t{127});
  refused("llama.attention.scale", 0.5f);
  refused("llama.expert_count", uint32_t{8});
  refused("llama.rope.scaling.type", std::string("longrope"));
  refused("llama.rope.scaling.attn_factor", 0.9f);  // without a scaling that it belongs to
  refused("llama.rope.scaling.factor", 4.0f);
  refused("llama.rope.dimension_count", uint32_t{8});
  refused("llama.attention.value_length", uint32_t{32});
  refused("llama.block_count", std::string("2"));
  BOOST_CHECK_NO_THROW(open(tiny_gguf("llama").key("llama.attention.sliding_window", uint32_t{128})));
  BOOST_CHECK_NO_THROW(open(tiny_gguf("llama").key("llama.rope.scaling.type", std::string("none"))));
  BOOST_CHECK_NO_THROW(open(tiny_gguf("llama").key("llama.expert_count", uint32_t{0})));
  refused("llama.expert_gating_func", uint32_t{1});  // known of deepseek2 only
}

BOOST_AUTO_TEST_CASE(a_tensor_that_is_missing_misshapen_or_unknown_is_named) {
  CHECK_INPUT_ERROR(open(tiny_gguf("llama").remove("blk.1.ffn_down.weight")), "blk.1.ffn_down.weight");
  CHECK_INPUT_ERROR(open(tiny_gguf("llama").remove("token_embd.weight")), "vocabulary");
  GgufBuilder swapped = tiny_gguf("llama");
  std::swap(swapped.find("blk.0.ffn_up.weight").dims[0], swapped.find("blk.0.ffn_up.weight").dims[1]);
  CHECK_INPUT_ERROR(open(swapped), "blk.0.ffn_up.weight");
  CHECK_INPUT_ERROR(open(tiny_gguf("llama").tensor_f32("blk.0.attn_q.bias", {64})), "blk.0.attn_k.bias");
  CHECK_INPUT_ERROR(open(tiny_gguf("llama").tensor_f32("blk.0.attn_output.bias", {32})),
                    "blk.1.attn_output.bias");
  CHECK_INPUT_ERROR(open(tiny_gguf("llama").tensor_f32("blk.0.ffn_up.bias", {96})), "blk.0.ffn_up.bias");
  CHECK_INPUT_ERROR(open(tiny_gguf("qwen2").remove("blk.0.attn_k.bias")), "blk.0.attn_k.bias");
  CHECK_INPUT_ERROR(open(tiny_gguf("llama").key("llama.block_count", uint32_t{3})), "blk.2.attn_norm.weight");
}

BOOST_AUTO_TEST_CASE(a_norm_may_not_be_quantised) {
  GgufBuilder file = tiny_gguf("llama");
  file.remove("output_norm.weight").tensor("output_norm.weight", {32}, test::ggml_q8_0, 34);
  CHECK_INPUT_ERROR(open(file), "output_norm.weight");
}

BOOST_AUTO_TEST_CASE(loading_a_layer_range_touches_only_that_ranges_pages) {
  const test::TemporaryFolder folder;
  const auto path = test::write_hole(folder, "sparse.gguf", tiny_gguf("llama", test::paged_shape(6)));

  const auto checkpoint = Checkpoint::open(path);
  const StageWeights weights = checkpoint->stage({2, 3});
  const auto read_all = [](const Tensor& tensor) {
    std::vector<float> row(static_cast<size_t>(tensor.columns()));
    for (int64_t i = 0; i < tensor.rows(); ++i) dequantize_row(tensor, i, row);
  };
  for (const LayerWeights& layer : weights.layers)
    for (const Tensor* tensor : {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down})
      read_all(*tensor);

  const GgufFile all = GgufFile::open(path);
  const auto resident = [&](const char* name) {
    return test::pages_of(all.tensors.find(name)->second).resident;
  };
  BOOST_TEST(resident("blk.2.ffn_down.weight") >=
             511u);  // 2 MiB: every whole page, so the measurement measures
  BOOST_TEST(resident("blk.3.attn_q.weight") == 255u);
  for (const char* other : {"token_embd.weight", "blk.0.attn_q.weight", "blk.1.ffn_gate.weight",
                            "blk.1.ffn_down.weight", "blk.4.attn_q.weight", "blk.5.ffn_down.weight"})
    BOOST_TEST(resident(other) == 0u, other << " was touched");
}
