// `convoy verify` over the golden checkpoints: reference kernels against stored logits and tokens.

#include <filesystem>
#include <fstream>

#include "test/gpu/verify_runner.hpp"
#include "test/model/files.hpp"

using namespace convoy::test;

namespace {

const std::string models = golden_models();

std::string verify(const std::string& model) {
  return "verify --model '" + models + model + "' --golden '" + models + model + "/golden.safetensors' ";
}

constexpr double tolerance = 1e-4;
const std::vector<int64_t> tiny_positions = {1, 19, 200, 1}, tiny_greedy = {24, 24, 24, 8};

/// Whole, in two at every layer boundary, and in three at every pair of them. Sanitizers look at memory,
/// which is touched alike in every split: one is enough for them.
void require_every_split(const std::string& model, int layers) {
  require_golden(verify(model), tolerance, tiny_positions, tiny_greedy);
#ifdef __SANITIZE_ADDRESS__
  layers = 2;
#endif
  for (int a = 1; a < layers; a++) {
    require_golden(verify(model) + "--split " + std::to_string(a), tolerance, tiny_positions, tiny_greedy);
    for (int b = a + 1; b < layers; b++)
      require_golden(verify(model) + "--split " + std::to_string(a) + "," + std::to_string(b), tolerance,
                     tiny_positions, tiny_greedy);
  }
}

/// Of the first JSON line that it printed.
double figure(const Run& run, const char* key) {
  const size_t begin = run.output.find('{');
  BOOST_REQUIRE_MESSAGE(begin != std::string::npos, run.output);
  const auto line = boost::json::parse(run.output.substr(begin, run.output.find('\n', begin) - begin));
  return line.at(key).to_number<double>();
}

/// A safetensors file without tensors, or with one prompt that is not numbered from 0.
std::string write_file(const std::string& name, const std::string& header, size_t data_bytes) {
  const std::string path = (std::filesystem::temp_directory_path() / name).string();
  const uint64_t length = header.size();
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(&length), 8);
  out << header << std::string(data_bytes, '\0');
  return path;
}

boost::test_tools::assertion_result has_fast_kernels(boost::unit_test::test_unit_id) {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

/// Goes to where that tensor's bytes begin in a safetensors file.
void seek(std::fstream& file, const char* name, const char* type) {
  uint64_t header_bytes = 0;
  file.read(reinterpret_cast<char*>(&header_bytes), sizeof header_bytes);
  std::string header(header_bytes, ' ');
  file.read(header.data(), static_cast<std::streamsize>(header_bytes));
  const auto tensor = boost::json::parse(header).at(name);
  BOOST_REQUIRE_EQUAL(tensor.at("dtype").as_string(), type);
  file.seekp(static_cast<std::streamoff>(sizeof header_bytes + header_bytes) +
             tensor.at("data_offsets").at(0).to_number<int64_t>());
}

}  // namespace

BOOST_AUTO_TEST_CASE(grouped_query_attention_agrees_with_the_golden_logits_in_every_split) {
  require_every_split("llama-gqa", 4);
}

BOOST_AUTO_TEST_CASE(llama3_rope_scaling_agrees_with_the_golden_logits_in_every_split) {
  require_every_split("llama3-rope", 4);
}

BOOST_AUTO_TEST_CASE(qkv_bias_agrees_with_the_golden_logits_in_every_split) {
  require_every_split("qwen2-bias", 3);
}

BOOST_AUTO_TEST_CASE(biases_on_all_of_attention_agree_with_the_golden_logits_in_every_split) {
  require_every_split("llama-bias", 2);
}

BOOST_AUTO_TEST_CASE(biases_on_the_mlp_agree_with_the_golden_logits_in_every_split) {
  require_every_split("llama-mlp-bias", 2);
}

BOOST_AUTO_TEST_CASE(mistral_agrees_with_the_golden_logits_in_every_split) {
  require_every_split("mistral", 2);
}

BOOST_AUTO_TEST_CASE(norms_of_each_head_agree_with_the_golden_logits_in_every_split) {
  require_every_split("qwen3", 2);
}

BOOST_AUTO_TEST_CASE(yarn_with_a_factor_for_cos_and_sin_agrees_with_the_golden_logits_in_every_split) {
  require_every_split("qwen3-yarn", 2);
}

BOOST_AUTO_TEST_CASE(experts_without_shared_ones_agree_with_the_golden_logits_in_every_split) {
  require_every_split("qwen3-moe", 2);
}

BOOST_AUTO_TEST_CASE(layers_with_experts_among_dense_ones_agree_with_the_golden_logits_in_every_split) {
  require_every_split("qwen3-moe-mixed", 4);
}

BOOST_AUTO_TEST_CASE(deepseek_v2_lite_agrees_with_the_golden_logits_in_every_split) {
  require_every_split("deepseek-v2-lite", 3);
}

BOOST_AUTO_TEST_CASE(deepseek_v2_agrees_with_the_golden_logits_in_every_split) {
  require_every_split("deepseek-v2", 3);
}

BOOST_AUTO_TEST_CASE(deepseek_v3_agrees_with_the_golden_logits_in_every_split) {
  require_every_split("deepseek-v3", 3);
}

BOOST_AUTO_TEST_CASE(deepseek_v3_in_fp8_agrees_with_the_golden_logits_in_every_split) {
  require_every_split("deepseek-v3-fp8", 2);  // a tenth of the tolerance that it may have
}

BOOST_AUTO_TEST_CASE(fast_kernels_agree_with_the_golden_logits_where_weights_are_floats,
                     *boost::unit_test::precondition(has_fast_kernels)) {
  const std::string fast = "--backend cpu --kv-type f32";
  for (const char* model : {"llama-gqa", "llama3-rope", "qwen2-bias", "deepseek-v2-lite", "deepseek-v3"}) {
    require_golden(verify(model) + fast, tolerance, tiny_positions, tiny_greedy);
    require_golden(verify(model) + fast + " --split 1,2", tolerance, tiny_positions, tiny_greedy);
  }
  for (const char* model :
       {"llama-bias", "llama-mlp-bias", "mistral", "qwen3", "qwen3-moe", "qwen3-moe-mixed"})
    require_golden(verify(model) + fast + " --split 1", tolerance, tiny_positions, tiny_greedy);
  require_golden(verify("deepseek-v3-fp8") + fast, tolerance, tiny_positions, tiny_greedy);
}

BOOST_AUTO_TEST_CASE(a_limit_that_is_not_met_fails) {
  for (const char* limit : {"--max-rel 1e-12", "--max-median-rel 1e-12", "--max-kl 0"}) {
    const Run run = run_convoy(verify("llama-gqa") + limit);
    BOOST_TEST(run.exit_code == 1);
    BOOST_TEST(run.output.find(std::string("above ") + limit) != std::string::npos, run.output);
  }
}

BOOST_AUTO_TEST_CASE(the_experts_of_the_float32_run_are_compared_and_replayed) {
  for (const char* model : {"deepseek-v2-lite", "deepseek-v3", "qwen3-moe-mixed", "llama-gqa"})
    for (const char* rule : {"own", "replay"}) {
      const Run run = run_convoy(verify(model) + "--split 1 --json --routing " + rule);
      BOOST_TEST(run.exit_code == 0, run.output);
      const size_t last = run.output.rfind("{\"prompts\"");
      BOOST_REQUIRE_MESSAGE(last != std::string::npos, run.output);
      const auto all = boost::json::parse(run.output.substr(last, run.output.find('\n', last) - last));
      BOOST_TEST(all.at("max_rel").to_number<double>() <= tolerance);
      BOOST_TEST(all.as_object().contains("experts_differ") == (model != std::string("llama-gqa")));
      if (all.as_object().contains("experts_differ"))
        BOOST_TEST(all.at("experts_differ").to_number<double>() == 0);  // both ran the same kernels
    }
}

BOOST_AUTO_TEST_CASE(int8_is_near_float32_over_a_text_where_experts_are_replayed,
                     *boost::unit_test::precondition(has_fast_kernels)) {
  const TemporaryFolder folder;
  const std::string out = (folder.path() / "q8.gguf").string();
  const Run written = run_convoy("quantize --no-measurement --to q8_0 --model '" + models +
                                 "deepseek-v2-lite' --out '" + out + "'");
  BOOST_REQUIRE_MESSAGE(written.exit_code == 0, written.output);
  const std::string compare = "verify --model '" + out + "' --backend cpu --against cpu-reference --json ";
  // Eight bits round more than the sixteen that the usual limits are of.
  const Run own = run_convoy(compare + "--max-kl 10"),
            replayed = run_convoy(compare + "--routing replay --max-median-rel 0.08 --max-kl 0.008");
  BOOST_TEST(own.exit_code == 0, own.output);
  BOOST_TEST(replayed.exit_code == 0, replayed.output);
  BOOST_TEST_MESSAGE(own.output << replayed.output);
  BOOST_TEST(figure(own, "experts_differ") > 0);
  BOOST_TEST(figure(replayed, "experts_differ") == 0);
  BOOST_TEST(figure(replayed, "mean_kl") < figure(own, "mean_kl"));
  BOOST_TEST(figure(replayed, "max_rel") < figure(own, "max_rel"));
  const Run refused = run_convoy(compare + "--routing replay --max-median-rel 1e-9");
  BOOST_TEST(refused.exit_code == 1, refused.output);
  BOOST_TEST(refused.output.find("above --max-median-rel 1e-09") != std::string::npos, refused.output);
}

// What docs/gpu.md says of it, and little more. Rows go to the experts that they go to over the wide cache.
BOOST_AUTO_TEST_CASE(a_narrow_cache_costs_as_much_as_it_is_said_to) {
  struct Cost {
    const char *model, *kv_type;
    double median_rel, mean_kl, agreement;
  };
  for (const Cost& cost : {Cost{"llama-gqa", "f16", 1.2e-3, 1.8e-6, 0.98},
                           {"llama-gqa", "bf16", 9e-3, 1.1e-4, 0.98},
                           {"llama-gqa", "f8_e4m3", 0.14, 0.024, 0.8},
                           {"qwen3-moe", "f8_e4m3", 0.06, 1.8e-3, 0.9},
                           {"deepseek-v3", "f16", 1.6e-3, 4.5e-6, 0.98},
                           {"deepseek-v3", "bf16", 1.3e-2, 3e-4, 0.97},
                           {"deepseek-v3", "f8_e4m3", 0.2, 0.066, 0.66}}) {
    const Run run = run_convoy("verify --model '" + models + cost.model +
                               "' --backend cpu-reference --against cpu-reference --routing replay --json "
                               "--max-rel 1 --max-median-rel 1 --max-kl 1 --kv-type " +
                               cost.kv_type);
    BOOST_TEST_CONTEXT(cost.model << ", " << cost.kv_type << ": " << run.output) {
      BOOST_TEST(run.exit_code == 0);
      BOOST_TEST(figure(run, "median_rel") <= cost.median_rel);
      BOOST_TEST(figure(run, "median_rel") > cost.median_rel / 2);  // or it was not that narrow
      BOOST_TEST(figure(run, "mean_kl") <= cost.mean_kl);
      BOOST_TEST(figure(run, "top1_agreement") >= cost.agreement);
    }
  }
  const Run wide =
      run_convoy("verify --model '" + models +
                 "llama-gqa' --backend cpu-reference --against cpu-reference --kv-type f32 --json");
  BOOST_TEST(figure(wide, "max_rel") == 0);
}

BOOST_AUTO_TEST_CASE(logits_of_another_model_fail) {
  // Same vocabulary, other weights.
  const Run run = run_convoy("verify --model '" + models + "llama3-rope' --golden '" + models +
                             "qwen2-bias/golden.safetensors' --json");
  BOOST_TEST(run.exit_code == 1, run.output);
}

BOOST_AUTO_TEST_CASE(a_golden_file_without_prompts_is_an_error) {
  const std::string path = write_file("convoy_golden_empty.safetensors", "{}", 0);
  const Run run = run_convoy("verify --model '" + models + "llama-gqa' --golden " + path);
  std::filesystem::remove(path);
  BOOST_TEST(run.exit_code == 3);
  BOOST_TEST(run.output.find("has no prompt_0") != std::string::npos, run.output);
}

BOOST_AUTO_TEST_CASE(a_golden_file_of_another_vocabulary_is_an_error) {
  const Run run = run_convoy("verify --model '" + models + "qwen2-bias' --golden '" + models +
                             "llama-gqa/golden.safetensors'");
  BOOST_TEST(run.exit_code == 3);
  BOOST_TEST(run.output.find("use the golden file of this model") != std::string::npos, run.output);
}

BOOST_AUTO_TEST_CASE(splits_that_the_model_does_not_have_are_errors) {
  for (const char* split : {"0", "4", "2,2", "3,1", "-1"}) {
    const Run run = run_convoy(verify("llama-gqa") + "--split=" + split);
    BOOST_TEST(run.exit_code == 3, split);
    BOOST_TEST(run.output.find("a stage cannot begin at layer") != std::string::npos, run.output);
  }
}

BOOST_AUTO_TEST_CASE(missing_arguments_are_a_usage_error) {
  BOOST_TEST(run_convoy("verify --model '" + models + "llama-gqa'").exit_code == 2);
  BOOST_TEST(run_convoy(verify("llama-gqa") + "--text x").exit_code == 2);
  BOOST_TEST(run_convoy(verify("llama-gqa") + "--routing theirs").exit_code == 2);
  BOOST_TEST(run_convoy(verify("llama-gqa") + "--backend quick").exit_code == 2);
  BOOST_TEST(run_convoy(verify("llama-gqa") + "--kv-type f8_e5m2").exit_code == 2);
}

// However far off logits may be: a token that the model would not choose is no matter of tolerance.
BOOST_AUTO_TEST_CASE(tokens_of_another_model_fail) {
  namespace fs = std::filesystem;
  const fs::path golden = fs::temp_directory_path() / ("convoy-greedy-" + std::to_string(getpid()));
  fs::copy_file(golden_models() + "llama-gqa/golden.safetensors", golden,
                fs::copy_options::overwrite_existing);
  std::fstream file(golden, std::ios::in | std::ios::out | std::ios::binary);
  seek(file, "greedy_0", "I64");
  const auto first = file.tellg();
  int64_t token = 0;
  file.read(reinterpret_cast<char*>(&token), sizeof token);
  token = token == 0 ? 1 : 0;
  file.seekp(first);
  file.write(reinterpret_cast<const char*>(&token), sizeof token);
  file.close();
  const auto run = run_convoy("verify --model '" + golden_models() + "llama-gqa' --max-rel 1e9 --golden " +
                              golden.string());
  fs::remove(golden);
  BOOST_TEST(run.exit_code == 1, run.output);
  BOOST_TEST(run.output.find("tokens are neither") != std::string::npos, run.output);
}

// NaN is neither above a tolerance nor below it.
BOOST_AUTO_TEST_CASE(a_model_whose_logits_are_not_finite_fails) {
  namespace fs = std::filesystem;
  const fs::path folder = fs::temp_directory_path() / ("convoy-nan-" + std::to_string(getpid()));
  fs::remove_all(folder);
  fs::copy(golden_models() + "llama-gqa", folder);
  std::fstream file(folder / "model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
  seek(file, "model.norm.weight", "BF16");
  const uint16_t not_a_number = 0x7fc0;
  file.write(reinterpret_cast<const char*>(&not_a_number), sizeof not_a_number);
  file.close();
  const auto run = run_convoy("verify --model " + folder.string() + " --golden " + golden_models() +
                              "llama-gqa/golden.safetensors");
  fs::remove_all(folder);
  BOOST_TEST(run.exit_code == 1, run.output);
  BOOST_TEST(run.output.find("not a number") != std::string::npos, run.output);
}
