#include "model/checkpoint.hpp"

#include <chrono>

#include "files.hpp"
#include "model/digest.hpp"
#include "model/safetensors.hpp"

using namespace convoy;
using namespace convoy::model;
using test::golden;

BOOST_AUTO_TEST_CASE(a_llama_directory_opens_with_its_configuration_and_weights) {
  const auto checkpoint = Checkpoint::open(golden("llama-gqa"));
  const Config& config = checkpoint->config();
  BOOST_TEST(config.architecture == "llama");
  BOOST_TEST(config.layers == 4);
  BOOST_TEST(config.head_dim == 128);
  BOOST_TEST(config.kv_heads == 2);
  BOOST_TEST(config.end_tokens == std::vector<int32_t>{1}, boost::test_tools::per_element());
  BOOST_TEST(!checkpoint->is_gguf());
  const StageWeights all = checkpoint->stage({0, 3});
  BOOST_TEST(all.layers.size() == 4u);
  BOOST_TEST((all.layers[3].down.shape == std::vector<int64_t>{128, 352}));
  BOOST_TEST((all.embedding->shape == std::vector<int64_t>{384, 128}));
  BOOST_TEST(all.head->bytes.data() != all.embedding->bytes.data());
  BOOST_TEST(!all.layers[0].q_bias.has_value());
}

BOOST_AUTO_TEST_CASE(the_default_model_opens_with_its_configuration,
                     *boost::unit_test::precondition(test::has_default_model)) {
  const auto begin = std::chrono::steady_clock::now();
  const auto checkpoint = Checkpoint::open(test::default_model());
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
  BOOST_TEST_MESSAGE("opened in " << took.count() << " ms");
  const Config& config = checkpoint->config();
  BOOST_TEST(config.layers == 30);
  BOOST_TEST(config.hidden == 576);
  BOOST_TEST(config.heads == 9);
  BOOST_TEST(config.kv_heads == 3);
  BOOST_TEST(config.head_dim == 64);
  BOOST_TEST(config.vocab == 49152);
  BOOST_TEST(config.context == 8192);
  BOOST_TEST(config.rope.theta == 100000.0);
  BOOST_TEST((config.rope.pairs == RopePairs::interleaved));
  BOOST_TEST(config.tied_head);
  BOOST_TEST(config.end_tokens == std::vector<int32_t>{2}, boost::test_tools::per_element());
  const StageWeights last = checkpoint->stage({15, 29});
  BOOST_TEST(!last.embedding.has_value());
  BOOST_TEST((last.head->type == DType::q8_0));
  BOOST_TEST((last.layers[0].q.type == DType::q4_1));
  const auto& tokens =
      std::get<GgufArray>(checkpoint->metadata().find("tokenizer.ggml.tokens")->second.value);
  BOOST_TEST(tokens.size() == 49152u);
  BOOST_TEST(std::get<std::string>(tokens[2].value) == "<|im_end|>");
  BOOST_TEST(checkpoint->weights_digest() ==
             "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53");
}
