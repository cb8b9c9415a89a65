#include "model/config.hpp"

#include <cmath>
#include <numbers>

#include "files.hpp"

using namespace convoy;
using namespace convoy::model;

namespace {

using Fields = std::map<std::string, std::string>;  // name → JSON text

Fields llama() {
  return {{"model_type", R"("llama")"},
          {"architectures", R"(["LlamaForCausalLM"])"},
          {"hidden_size", "64"},
          {"intermediate_size", "96"},
          {"num_hidden_layers", "2"},
          {"num_attention_heads", "4"},
          {"num_key_value_heads", "2"},
          {"vocab_size", "100"},
          {"max_position_embeddings", "2048"},
          {"rms_norm_eps", "1e-6"}};
}

Fields qwen2() {
  Fields fields = llama();
  fields["model_type"] = R"("qwen2")";
  fields["architectures"] = R"(["Qwen2ForCausalLM"])";
  return fields;
}

Fields qwen3() {
  Fields fields = llama();
  fields["model_type"] = R"("qwen3")";
  fields["architectures"] = R"(["Qwen3ForCausalLM"])";
  return fields;
}

Fields mistral() {
  Fields fields = llama();
  fields["model_type"] = R"("mistral")";
  fields["architectures"] = R"(["MistralForCausalLM"])";
  fields["sliding_window"] = "null";
  return fields;
}

Fields qwen3_moe() {
  Fields fields = qwen3();
  for (const auto& [name, value] : Fields{{"model_type", R"("qwen3_moe")"},
                                          {"architectures", R"(["Qwen3MoeForCausalLM"])"},
                                          {"num_hidden_layers", "6"},
                                          {"num_experts", "8"},
                                          {"num_experts_per_tok", "2"},
                                          {"moe_intermediate_size", "32"}})
    fields[name] = value;
  return fields;
}

Fields deepseek_v3() {
  Fields fields = llama();
  fields.erase("num_key_value_heads");
  for (const auto& [name, value] : Fields{{"model_type", R"("deepseek_v3")"},
                                          {"architectures", R"(["DeepseekV3ForCausalLM"])"},
                                          {"kv_lora_rank", "32"},
                                          {"qk_nope_head_dim", "16"},
                                          {"qk_rope_head_dim", "8"},
                                          {"v_head_dim", "16"},
                                          {"n_routed_experts", "8"},
                                          {"num_experts_per_tok", "2"},
                                          {"n_group", "4"},
                                          {"topk_group", "2"},
                                          {"moe_intermediate_size", "32"},
                                          {"n_shared_experts", "1"}})
    fields[name] = value;
  return fields;
}

std::string text_of(const Fields& fields) {
  std::string text;
  for (const auto& [name, value] : fields) text += (text.empty() ? "{\"" : ",\"") + name + "\":" + value;
  return text + "}";
}

Config parse(const Fields& fields, const std::string& generation = "") {
  return parse_config_json(text_of(fields), generation, "config.json");
}

Config with(Fields fields, const std::string& name, const std::string& value) {
  fields[name] = value;
  return parse(fields);
}

const auto nearly = boost::test_tools::tolerance(1e-12);

const std::string llama3_scaling =
    R"("factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":64})";

}  // namespace

BOOST_AUTO_TEST_CASE(the_head_dimension_is_derived_unless_it_is_given) {
  BOOST_TEST(parse(llama()).head_dim == 16);
  BOOST_TEST(with(llama(), "head_dim", "null").head_dim == 16);
  BOOST_TEST(with(llama(), "head_dim", "32").head_dim == 32);
  CHECK_INPUT_ERROR(with(llama(), "hidden_size", "66"), "hidden_size");
  CHECK_INPUT_ERROR(with(llama(), "head_dim", "17"), "odd");
}

BOOST_AUTO_TEST_CASE(qwen2_has_biases_on_q_k_and_v_and_llama_on_the_output_too_if_it_says_so) {
  BOOST_TEST(!parse(llama()).qkv_bias);
  BOOST_TEST(parse(qwen2()).qkv_bias);
  BOOST_TEST(!with(qwen2(), "attention_bias", "true").o_bias);  // the reference doesn't read it
  const Config biased = with(llama(), "attention_bias", "true");
  BOOST_TEST(biased.qkv_bias);
  BOOST_TEST(biased.o_bias);
  BOOST_TEST(!with(mistral(), "attention_bias", "true").qkv_bias);
}

BOOST_AUTO_TEST_CASE(llama_has_biases_on_the_mlp_if_it_says_so_and_others_never) {
  BOOST_TEST(with(llama(), "mlp_bias", "true").mlp_bias);
  BOOST_TEST(!parse(llama()).mlp_bias);
  BOOST_TEST(!with(qwen2(), "mlp_bias", "true").mlp_bias);  // the references don't read it
  BOOST_TEST(!with(mistral(), "mlp_bias", "true").mlp_bias);
  CHECK_INPUT_ERROR(with(qwen3(), "mlp_bias", "true"), "mlp_bias");
}

BOOST_AUTO_TEST_CASE(a_window_that_is_smaller_than_the_context_is_refused_and_a_wider_one_changes_nothing) {
  BOOST_TEST(parse(mistral()).architecture == "mistral");
  BOOST_CHECK_NO_THROW(with(mistral(), "sliding_window", "2048"));  // the context
  CHECK_INPUT_ERROR(with(mistral(), "sliding_window", "2047"), "sliding_window");
  Fields absent = mistral();
  absent.erase("sliding_window");
  BOOST_CHECK_NO_THROW(parse(absent));  // the reference has 4096 then
  absent["max_position_embeddings"] = "4097";
  CHECK_INPUT_ERROR(parse(absent), "sliding_window");
}

BOOST_AUTO_TEST_CASE(only_qwen3_normalises_the_queries_and_keys_of_each_head) {
  BOOST_TEST(parse(qwen3()).qk_norm);
  BOOST_TEST(!parse(qwen3()).qkv_bias);
  BOOST_TEST(!parse(qwen2()).qk_norm);
  CHECK_INPUT_ERROR(with(qwen3(), "attention_bias", "true"), "attention_bias");
  CHECK_INPUT_ERROR(with(qwen3(), "use_sliding_window", "true"), "use_sliding_window");
}

BOOST_AUTO_TEST_CASE(layers_with_experts_stand_a_step_apart_and_some_are_dense_all_the_same) {
  const auto layers = [](const Config& config) {
    std::string kinds;
    for (int64_t n = 0; n < config.layers; ++n) kinds += has_experts(config, n) ? 'e' : 'd';
    return kinds;
  };
  BOOST_TEST(layers(parse(qwen3_moe())) == "eeeeee");
  BOOST_TEST(layers(with(qwen3_moe(), "decoder_sparse_step", "2")) == "dedede");
  BOOST_TEST(layers(with(qwen3_moe(), "mlp_only_layers", "[0, 5]")) == "deeeed");
  BOOST_TEST(layers(with(qwen3_moe(), "mlp_only_layers", "null")) == "eeeeee");
  CHECK_INPUT_ERROR(with(qwen3_moe(), "decoder_sparse_step", "0"), "distance");
  CHECK_INPUT_ERROR(with(qwen3_moe(), "mlp_only_layers", "3"), "mlp_only_layers");
  CHECK_INPUT_ERROR(with(qwen3_moe(), "mlp_only_layers", R"(["0"])"), "mlp_only_layers");
}

BOOST_AUTO_TEST_CASE(qwen3_takes_the_best_experts_of_all_and_shares_none) {
  const Experts moe = *parse(qwen3_moe()).moe;
  BOOST_TEST(moe.routing.experts == 8);
  BOOST_TEST(moe.routing.chosen == 2);
  BOOST_TEST((moe.routing.scoring == Scoring::softmax));
  BOOST_TEST(!moe.routing.normalised);  // the reference's default
  BOOST_TEST(with(qwen3_moe(), "norm_topk_prob", "true").moe->routing.normalised);
  BOOST_TEST(moe.shared == 0);
  Fields renamed = qwen3_moe();
  renamed.erase("num_experts");
  CHECK_INPUT_ERROR(parse(renamed), "num_local_experts");
  BOOST_TEST(with(renamed, "num_local_experts", "8").moe->routing.experts == 8);
  CHECK_INPUT_ERROR(with(qwen3_moe(), "num_experts_per_tok", "9"), "experts per token");
}

BOOST_AUTO_TEST_CASE(a_family_that_is_not_known_is_told_those_that_are) {
  CHECK_INPUT_ERROR(with(llama(), "model_type", R"("gemma3")"), "llama, mistral, qwen2, qwen3, qwen3_moe");
}

BOOST_AUTO_TEST_CASE(absent_fields_have_the_defaults_of_the_reference) {
  Fields fields = llama();
  fields.erase("num_key_value_heads");
  const Config config = parse(fields);
  BOOST_TEST(config.kv_heads == 4);
  BOOST_TEST(config.rope.theta == 10000.0);
  BOOST_TEST(!config.rope.llama3.has_value());
  BOOST_TEST((config.rope.pairs == RopePairs::half_split));
  BOOST_TEST(!config.tied_head);
  BOOST_TEST(config.bos_token == -1);
  BOOST_TEST(config.end_tokens.empty());
  BOOST_TEST(with(llama(), "tie_word_embeddings", "true").tied_head);
}

BOOST_AUTO_TEST_CASE(a_missing_field_is_named) {
  for (const char* name : {"model_type", "hidden_size", "intermediate_size", "num_hidden_layers",
                           "num_attention_heads", "vocab_size", "max_position_embeddings", "rms_norm_eps"}) {
    Fields fields = llama();
    fields.erase(name);
    CHECK_INPUT_ERROR(parse(fields), name);
  }
}

BOOST_AUTO_TEST_CASE(the_rotary_base_is_read_from_either_place_and_a_contradiction_is_refused) {
  BOOST_TEST(with(llama(), "rope_theta", "500000").rope.theta == 500000.0);
  BOOST_TEST(with(llama(), "rope_parameters", R"({"rope_type":"default","rope_theta":1e6})").rope.theta ==
             1e6);
  BOOST_TEST(with(llama(), "rope_scaling", R"({"rope_type":"default","rope_theta":1e6})").rope.theta == 1e6);
  Fields both = llama();
  both["rope_theta"] = "1e6";
  both["rope_parameters"] = R"({"rope_type":"default","rope_theta":1e6})";
  BOOST_TEST(parse(both).rope.theta == 1e6);
  both["rope_theta"] = "1e5";
  CHECK_INPUT_ERROR(parse(both), "rope_theta");
}

BOOST_AUTO_TEST_CASE(llama3_scaling_is_read_in_every_spelling) {
  for (const std::string place : {"rope_scaling", "rope_parameters"})
    for (const std::string kind : {"rope_type", "type"}) {
      const auto scaling = with(llama(), place, "{\"" + kind + R"(":"llama3",)" + llama3_scaling).rope.llama3;
      BOOST_REQUIRE(scaling.has_value());
      BOOST_TEST(scaling->factor == 8.0);
      BOOST_TEST(scaling->low_freq_factor == 1.0);
      BOOST_TEST(scaling->high_freq_factor == 4.0);
      BOOST_TEST(scaling->original_context == 64);
    }
  CHECK_INPUT_ERROR(with(llama(), "rope_scaling", R"({"rope_type":"llama3","factor":8.0})"),
                    "low_freq_factor");
}

BOOST_AUTO_TEST_CASE(a_rotary_scaling_that_is_not_known_is_refused_by_name) {
  CHECK_INPUT_ERROR(with(llama(), "rope_scaling", R"({"rope_type":"longrope","factor":4.0})"), "longrope");
  CHECK_INPUT_ERROR(with(llama(), "rope_scaling", R"({"type":"linear","factor":4.0})"), "linear");
  CHECK_INPUT_ERROR(with(llama(), "rope_parameters", R"({"full_attention":{"rope_type":"default"}})"),
                    "rope_type");
  CHECK_INPUT_ERROR(with(llama(), "rope_scaling", R"("llama3")"), "rope_scaling");
  Fields both = llama();
  both["rope_scaling"] = "{\"rope_type\":\"llama3\"," + llama3_scaling;
  both["rope_parameters"] = R"({"rope_type":"default"})";
  CHECK_INPUT_ERROR(parse(both), "rope_parameters");
}

BOOST_AUTO_TEST_CASE(yarn_scales_cos_and_sin_as_the_paper_has_it_unless_the_model_says_otherwise) {
  const auto yarn = [](const std::string& more) {
    return with(qwen3(), "rope_scaling",
                R"({"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":512)" + more + "}");
  };
  const double paper = 0.1 * std::log(4.0) + 1;
  BOOST_TEST(rope_magnitude(yarn("").rope) == paper, nearly);
  BOOST_TEST(attention_scale(yarn("")) == attention_scale(parse(qwen3())));
  BOOST_TEST(rope_magnitude(yarn(R"(,"attn_factor":0.8782488562869419)").rope) == 1, nearly);
  CHECK_INPUT_ERROR(yarn(R"(,"attention_factor":1.0)"), "attention_factor");
  CHECK_INPUT_ERROR(yarn(R"(,"mscale":1.0)"), "mscale");
  CHECK_INPUT_ERROR(yarn(R"(,"attn_factor":0.0)"), "magnitude");
  CHECK_INPUT_ERROR(with(qwen3(), "rope_scaling", R"({"rope_type":"yarn","factor":4.0})"),
                    "original_max_position_embeddings");
}

BOOST_AUTO_TEST_CASE(rotary_factors_that_give_no_numbers_are_refused) {
  Fields fields = deepseek_v3();
  const auto yarn = [&](const std::string& mscale, const std::string& beta_fast,
                        const std::string& beta_slow) {
    fields["rope_scaling"] = R"({"type":"yarn","factor":40,"original_max_position_embeddings":64,"mscale":)" +
                             mscale + ",\"mscale_all_dim\":" + mscale + ",\"beta_fast\":" + beta_fast +
                             ",\"beta_slow\":" + beta_slow + "}";
    return parse(fields);
  };
  BOOST_TEST(rope_magnitude(yarn("1", "32", "1").rope) == 1);
  CHECK_INPUT_ERROR(yarn("1e308", "32", "1"), "magnitude");
  CHECK_INPUT_ERROR(yarn("1", "1e-320", "5e-324"), "frequencies");
}

BOOST_AUTO_TEST_CASE(a_field_that_would_change_the_result_is_refused_by_name) {
  const std::vector<std::pair<std::string, std::string>> unsupported = {
      {"model_type", R"("gemma3")"},   {"architectures", R"(["LlamaForSequenceClassification"])"},
      {"hidden_act", R"("gelu")"},     {"partial_rotary_factor", "0.5"},
      {"rope_interleaved", "true"},    {"quantization_config", R"({"quant_method":"awq"})"},
      {"residual_multiplier", "0.22"}, {"layer_types", R"(["full_attention","sliding_attention"])"},
      {"use_sliding_window", "true"},
  };
  for (const auto& [name, value] : unsupported) CHECK_INPUT_ERROR(with(llama(), name, value), name);
  CHECK_INPUT_ERROR(with(qwen2(), "use_sliding_window", "true"), "use_sliding_window");
}

BOOST_AUTO_TEST_CASE(int8_is_read_with_a_scale_for_each_row_and_activations_as_they_are) {
  const auto quantised = [](const std::string& weights, const std::string& activations) {
    return with(
        llama(), "quantization_config",
        R"({"quant_method":"compressed-tensors","format":"int-quantized","config_groups":{"group_0":)"
        R"({"targets":["Linear"],"weights":{"num_bits":8,"type":"int","symmetric":true,"dynamic":false,)" +
            weights + R"(},"input_activations":)" + activations + "}}}");
  };
  BOOST_CHECK_NO_THROW(quantised(R"("strategy":"channel")", "null"));
  CHECK_INPUT_ERROR(quantised(R"("strategy":"group")", "null"), "strategy");
  CHECK_INPUT_ERROR(quantised(R"("strategy":"channel")", R"({"num_bits":8})"), "input_activations");
  CHECK_INPUT_ERROR(quantised(R"("strategy":"channel","actorder":"group")", "null"), "actorder");
  CHECK_INPUT_ERROR(with(llama(), "quantization_config",
                         R"({"quant_method":"compressed-tensors","format":"pack-quantized"})"),
                    "format");
}

BOOST_AUTO_TEST_CASE(a_field_that_changes_nothing_is_accepted) {
  const std::vector<std::pair<std::string, std::string>> harmless = {
      {"hidden_act", R"("silu")"},
      {"attention_bias", "false"},
      {"partial_rotary_factor", "1.0"},
      {"pretraining_tp", "2"},
      {"use_cache", "true"},
      {"torch_dtype", R"("bfloat16")"},
      {"use_sliding_window", "false"},
      {"sliding_window", "4096"},
      {"rope_scaling", "null"},
      {"layer_types", R"(["full_attention","full_attention"])"},
  };
  for (const auto& [name, value] : harmless) BOOST_CHECK_NO_THROW(with(llama(), name, value));
}

BOOST_AUTO_TEST_CASE(end_tokens_are_one_or_a_list_and_those_of_the_generation_config_are_added) {
  const auto expect = [](const Config& config, std::vector<int32_t> tokens) {
    BOOST_TEST(config.end_tokens == tokens, boost::test_tools::per_element());
  };
  expect(with(llama(), "eos_token_id", "7"), {7});
  expect(with(llama(), "eos_token_id", "[7, 9]"), {7, 9});
  expect(with(llama(), "eos_token_id", "null"), {});
  Fields fields = llama();
  fields["eos_token_id"] = "7";
  expect(parse(fields, R"({"eos_token_id":[9,7]})"), {7, 9});
  expect(parse(fields, R"({"temperature":0.5})"), {7});
  CHECK_INPUT_ERROR(parse(fields, "[]"), "generation_config.json");
  CHECK_INPUT_ERROR(with(llama(), "eos_token_id", "100"), "end token");
  CHECK_INPUT_ERROR(with(llama(), "eos_token_id", "-1"), "eos_token_id");
  CHECK_INPUT_ERROR(with(llama(), "eos_token_id", R"(["</s>"])"), "eos_token_id");
  BOOST_TEST(with(llama(), "bos_token_id", "3").bos_token == 3);
}

BOOST_AUTO_TEST_CASE(a_value_of_the_wrong_type_or_out_of_range_is_refused) {
  CHECK_INPUT_ERROR(with(llama(), "hidden_size", "64.0"), "hidden_size");
  CHECK_INPUT_ERROR(with(llama(), "hidden_size", R"("64")"), "hidden_size");
  CHECK_INPUT_ERROR(with(llama(), "tie_word_embeddings", "1"), "tie_word_embeddings");
  CHECK_INPUT_ERROR(with(llama(), "num_hidden_layers", "0"), "layers");
  CHECK_INPUT_ERROR(with(llama(), "num_hidden_layers", "9223372036854775807"), "layers");
  CHECK_INPUT_ERROR(with(llama(), "vocab_size", "18446744073709551615"), "vocab_size");
  CHECK_INPUT_ERROR(with(llama(), "num_attention_heads", "0"), "heads");
  CHECK_INPUT_ERROR(with(llama(), "num_key_value_heads", "3"), "divide");
  CHECK_INPUT_ERROR(with(llama(), "rms_norm_eps", "0"), "epsilon");
  CHECK_INPUT_ERROR(with(llama(), "rope_theta", "-1"), "rotary base");
  CHECK_INPUT_ERROR(with(llama(), "rope_theta", "1e999"), "config.json");
}

BOOST_AUTO_TEST_CASE(a_configuration_that_is_not_sound_json_is_refused) {
  CHECK_INPUT_ERROR(parse_config_json("", "", "config.json"), "config.json");
  CHECK_INPUT_ERROR(parse_config_json("[1]", "", "config.json"), "object");
  CHECK_INPUT_ERROR(parse_config_json(text_of(llama()) + "x", "", "config.json"), "JSON");
  CHECK_INPUT_ERROR(parse_config_json(text_of(llama()).substr(0, 100), "", "config.json"), "JSON");
  CHECK_INPUT_ERROR(parse_config_json(R"({"hidden_size":1,"hidden_size":2})", "", "config.json"), "twice");
  CHECK_INPUT_ERROR(parse_config_json(std::string(100'000, '['), "", "config.json"), "JSON");
  CHECK_INPUT_ERROR(parse_config_json("{\"a\":\"\xff\"}", "", "config.json"), "JSON");
}

BOOST_AUTO_TEST_CASE(frequencies_without_scaling_are_powers_of_the_base) {
  const Rope rope{.theta = 10000.0};
  const auto frequencies = rope_frequencies(rope, 8);
  BOOST_REQUIRE(frequencies.size() == 4u);
  for (size_t i = 0; i < 4; ++i)
    BOOST_TEST(frequencies[i] == std::pow(10.0, -static_cast<double>(i)), nearly);
}

BOOST_AUTO_TEST_CASE(llama3_scaling_keeps_short_waves_divides_long_ones_and_blends_between) {
  // theta^(-2i/d) = 10^-i; wavelengths 2π·10^i against 8192/4 and 8192/1: i ≤ 2 kept, i = 3 between, i ≥ 4
  // divided.
  const Rope rope{.theta = 1e8, .llama3 = Llama3Rope{8.0, 1.0, 4.0, 8192}};
  const auto frequencies = rope_frequencies(rope, 16);
  for (const int i : {0, 1, 2}) BOOST_TEST(frequencies[i] == std::pow(10.0, -i), nearly);
  const double kept = (8192 / (2 * std::numbers::pi * 1000) - 1) / 3;
  BOOST_TEST(frequencies[3] == 1e-3 * (kept + (1 - kept) / 8), nearly);
  BOOST_TEST((frequencies[3] > 1e-3 / 8 && frequencies[3] < 1e-3));
  for (const int i : {4, 5, 6, 7}) BOOST_TEST(frequencies[i] == std::pow(10.0, -i) / 8, nearly);
}

BOOST_AUTO_TEST_CASE(frequency_divisors_divide) {
  const Rope rope{.theta = 10000.0, .frequency_divisors = {1, 2, 4, 8}};
  const auto frequencies = rope_frequencies(rope, 8);
  BOOST_TEST(frequencies[0] == 1.0, nearly);
  BOOST_TEST(frequencies[3] == 1e-3 / 8, nearly);
}
