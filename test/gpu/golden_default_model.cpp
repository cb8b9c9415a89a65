// `convoy verify` over the default model's real weights. Apart from the small checkpoints, because it takes
// longer and needs a file that is not in the repository.

#include <filesystem>

#include "test/gpu/verify_runner.hpp"

using namespace convoy::test;
namespace utf = boost::unit_test;

namespace {

std::string default_model() {
  if (const char* path = std::getenv("CONVOY_MODEL")) return path;
  return environment("CONVOY_SOURCE_DIR") + "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

boost::test_tools::assertion_result model_is_there(utf::test_unit_id) {
  const bool there = std::filesystem::exists(default_model());
  if (!there)
    std::printf("skipped: %s is missing, fetch it with scripts/fetch-model\n", default_model().c_str());
  return there;
}

}  // namespace

BOOST_AUTO_TEST_CASE(reference_kernels_agree_with_the_golden_logits, *utf::precondition(model_is_there)) {
  require_golden("verify --model '" + default_model() + "' --golden '" + golden_models() +
                     "smollm2/golden.safetensors' --split 11,20",
                 1e-3, {1, 5, 5, 1}, {24, 24, 24, 8});
}

BOOST_AUTO_TEST_CASE(fast_kernels_stay_close_to_the_reference_over_a_text,
                     *utf::precondition(model_is_there)) {
  const Run run = run_convoy("verify --model '" + default_model() + "' --against cpu-reference --text '" +
                             environment("CONVOY_SOURCE_DIR") + "/docs/ARCHITECTURE.md' --json");
  BOOST_TEST(run.exit_code == 0, run.output);
  const boost::json::value result = boost::json::parse(run.output);
  const auto number = [&](const char* key) { return result.at(key).to_number<double>(); };
  BOOST_TEST(number("tokens") >= 1000);
  BOOST_TEST(number("mean_kl") <= 0.01);
  BOOST_TEST(number("mean_kl") > 0);  // the two kernels are not the same
  BOOST_TEST(number("top1_agreement") > 0.9);
  BOOST_TEST(number("perplexity_against") > 1);
  BOOST_TEST(std::abs(number("perplexity") / number("perplexity_against") - 1) < 0.05);
}

// What docs/gpu.md says of it, and little more.
BOOST_AUTO_TEST_CASE(a_cache_of_8_bits_costs_as_much_as_it_is_said_to, *utf::precondition(model_is_there)) {
  const Run run = run_convoy("verify --model '" + default_model() +
                             "' --backend cpu-reference --against cpu-reference --kv-type f8_e4m3 "
                             "--max-kl 1 --json");
  BOOST_TEST(run.exit_code == 0, run.output);
  const boost::json::value result = boost::json::parse(run.output);
  const auto number = [&](const char* key) { return result.at(key).to_number<double>(); };
  BOOST_TEST(number("median_rel") <= 0.027);
  BOOST_TEST(number("median_rel") > 0.01);  // or it was not that narrow
  BOOST_TEST(number("mean_kl") <= 0.012);
  BOOST_TEST(number("top1_agreement") >= 0.93);
  BOOST_TEST(number("perplexity") / number("perplexity_against") <= 1.03);
}
