// `convoy quantize` as a user runs it: what it writes goes through `convoy verify`, what it says is held
// against bounds of each type.

#include <sys/resource.h>

#include "test/gpu/verify_runner.hpp"
#include "test/model/builders.hpp"

using namespace convoy::test;

namespace {

std::string quantize(const std::filesystem::path& model, const std::string& to,
                     const std::filesystem::path& out) {
  return "quantize --model '" + model.string() + "' --to " + to + " --out '" + out.string() + "' ";
}

/// The one line of --json; progress stands on lines of its own.
boost::json::value report_of(const Run& run) {
  const size_t begin = run.output.find('{');
  BOOST_REQUIRE_MESSAGE(begin != run.output.npos, run.output);
  return boost::json::parse(run.output.substr(begin, run.output.find('\n', begin) - begin));
}

/// Of the weights' relative error, of the KL divergence of a token, of the agreement on the likeliest token,
/// of the mean relative error of a prompt's logits. The golden models have random weights: where one has
/// experts, the choice of them is often a near tie, and another expert is another answer.
struct Bounds {
  const char* to;
  double weight_error, kl, agreement, logits;
};

void require_sane_loss(const std::string& model, const Bounds& bounds) {
  BOOST_TEST_CONTEXT(model << " as " << bounds.to) {
    const TemporaryFolder folder;
    const auto out = folder.path() / "out";
    const Run run =
        run_convoy(quantize(golden(model), bounds.to, out) + "--json --max-kl " + std::to_string(bounds.kl));
    BOOST_REQUIRE_MESSAGE(run.exit_code == 0, run.output);
    const boost::json::value report = report_of(run);
    const auto number = [&](const char* key) { return report.at(key).to_number<double>(); };
    BOOST_TEST(number("tokens") == 256);
    BOOST_TEST(number("mean_kl") > 0);
    BOOST_TEST(number("mean_kl") <= bounds.kl);
    BOOST_TEST(number("top1_agreement") >= bounds.agreement);
    BOOST_TEST(std::abs(number("perplexity_ratio") - 1) < 0.1);
    const double attention = report.at("weight_error").at("attention").to_number<double>();
    BOOST_TEST(attention > 0);
    BOOST_TEST(attention < bounds.weight_error);
    const Run verify = run_convoy("verify --model '" + out.string() + "' --golden '" +
                                  (golden(model) / "golden.safetensors").string() + "' --json");
    std::istringstream lines(verify.output);
    size_t prompts = 0;
    for (std::string line; std::getline(lines, line);) {
      if (!line.starts_with("{\"prompt\":")) continue;  // of all, or that the default limit does not hold
      BOOST_TEST(boost::json::parse(line).at("mean_rel").to_number<double>() <= bounds.logits, line);
      ++prompts;
    }
    BOOST_TEST(prompts == 4u, verify.output);
  }
}

/// The sanitizer's own memory is in the measurement.
boost::test_tools::assertion_result is_plain_build(boost::unit_test::test_unit_id) {
#ifdef __SANITIZE_ADDRESS__
  return false;
#else
  return true;
#endif
}

}  // namespace

// Runs first: what is measured is the largest of all processes that this one has waited for.
BOOST_AUTO_TEST_CASE(memory_stays_under_two_layers, *boost::unit_test::precondition(is_plain_build)) {
  const TinyShape shape{.layers = 6,
                        .hidden = 1024,
                        .intermediate = 4096,
                        .vocab = 1024,
                        .heads = 16,
                        .kv_heads = 16,
                        .head_dim = 64};
  GgufBuilder file = tiny_gguf("llama", shape);
  std::erase_if(file.keys, [](const auto& key) { return key.first.starts_with("tokenizer."); });
  const TemporaryFolder folder;
  const auto path = write_hole(folder, "model.gguf", file);
  const Run run =
      run_convoy(quantize(path, "q8_0", folder.path() / "out.gguf") + "--no-measurement --threads 2 --json");
  BOOST_REQUIRE_MESSAGE(run.exit_code == 0, run.output);
  BOOST_TEST(std::filesystem::file_size(folder.path() / "out.gguf") > file.data_bytes / 4);
  rusage usage{};
  BOOST_REQUIRE(getrusage(RUSAGE_CHILDREN, &usage) == 0);
  const int64_t layer_bytes = int64_t{4} * (4 * 1024 * 1024 + 3 * 1024 * 4096);
  const int64_t used_bytes = int64_t{usage.ru_maxrss} * 1024;
  BOOST_TEST_MESSAGE("used " << used_bytes << " bytes; a layer has " << layer_bytes);
  BOOST_TEST(used_bytes > layer_bytes / 16);  // something was measured
  BOOST_TEST(used_bytes < 2 * layer_bytes);
}

BOOST_AUTO_TEST_CASE(eight_bits_with_a_scale_for_32_values_lose_next_to_nothing) {
  require_sane_loss("llama-gqa", {"q8_0", 0.006, 0.01, 0.85, 0.1});
  require_sane_loss("deepseek-v2", {"q8_0", 0.006, 0.1, 0.65, 0.5});
}

BOOST_AUTO_TEST_CASE(four_bits_lose_little) {
  require_sane_loss("llama-gqa", {"q4_k", 0.03, 0.1, 0.6, 0.3});
  require_sane_loss("deepseek-v2", {"q4_k", 0.05, 0.6, 0.2, 0.8});
}

BOOST_AUTO_TEST_CASE(eight_bits_in_safetensors_lose_little) {
  require_sane_loss("deepseek-v3", {"fp8-block", 0.03, 0.6, 0.3, 0.8});
  require_sane_loss("qwen2-bias", {"int8", 0.01, 0.005, 0.9, 0.1});
}

BOOST_AUTO_TEST_CASE(a_loss_above_the_limit_fails_and_a_run_that_allows_it_takes_up_what_was_written) {
  const TemporaryFolder folder;
  const auto out = folder.path() / "a.gguf";
  const Run refused = run_convoy(quantize(golden("llama-gqa"), "q8_0", out) + "--max-kl 0");
  BOOST_TEST(refused.exit_code == 1, refused.output);
  BOOST_TEST(refused.output.find("above --max-kl") != std::string::npos, refused.output);
  BOOST_TEST(!std::filesystem::exists(out));
  const Run allowed = run_convoy(quantize(golden("llama-gqa"), "q8_0", out) + "--json");
  BOOST_TEST(allowed.exit_code == 0, allowed.output);
  BOOST_TEST(report_of(allowed).at("tensors_kept").to_number<int>() == 3 + 4 * 9);
  BOOST_TEST(std::filesystem::exists(out));
}

BOOST_AUTO_TEST_CASE(a_text_needs_a_tokenizer) {
  const TemporaryFolder folder;
  const auto text = folder.write("text", "some words");
  const Run run = run_convoy(quantize(golden("llama-gqa"), "bf16", folder.path() / "out") + "--text '" +
                             text.string() + "'");
  BOOST_TEST(run.exit_code == 3, run.output);
  BOOST_TEST(run.output.find("no tokenizer") != std::string::npos, run.output);
}

BOOST_AUTO_TEST_CASE(wrong_arguments_of_quantize_are_a_usage_error) {
  const TemporaryFolder folder;
  BOOST_TEST(run_convoy(quantize(golden("llama-gqa"), "q3_k", folder.path() / "out")).exit_code == 2);
  BOOST_TEST(run_convoy("quantize --to bf16 --out x").exit_code == 2);
}
