#include "model/checkpoint/checkpoint.hpp"

#include <chrono>
#include <set>

#include "files.hpp"
#include "model/digest.hpp"
#include "model/format/safetensors.hpp"

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
  BOOST_TEST(config.end_tokens == (std::vector<int32_t>{2, 0, 4}),  // as llama-server prints them
             boost::test_tools::per_element());
  const StageWeights last = checkpoint->stage({15, 29});
  BOOST_TEST(!last.embedding.has_value());
  BOOST_TEST((last.head->type == DType::q8_0));
  BOOST_TEST((last.layers[0].q.type == DType::q4_1));
  const auto& tokens =
      std::get<GgufArray>(checkpoint->metadata().find("tokenizer.ggml.tokens")->second.value);
  BOOST_TEST(tokens.size() == 49152u);
  BOOST_TEST(std::get<std::string>(tokens.at(2).value) == "<|im_end|>");
  BOOST_TEST(checkpoint->weights_digest() ==
             "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53");
}

BOOST_AUTO_TEST_CASE(a_sharded_qwen2_directory_opens_with_its_biases) {
  const auto checkpoint = Checkpoint::open(golden("qwen2-bias"));
  BOOST_TEST(checkpoint->config().architecture == "qwen2");
  BOOST_TEST(checkpoint->config().qkv_bias);
  const StageWeights middle = checkpoint->stage({1, 1});
  BOOST_TEST(!middle.embedding.has_value());
  BOOST_TEST(!middle.head.has_value());
  BOOST_TEST(!middle.final_norm.has_value());
  BOOST_REQUIRE(middle.layers.size() == 1u);
  BOOST_TEST((middle.layers[0].q_bias->shape == std::vector<int64_t>{256}));
  BOOST_TEST((middle.layers[0].k_bias->shape == std::vector<int64_t>{128}));
  BOOST_TEST(middle.layers[0].q.owner != middle.layers[0].down.owner);  // layer 1 lies in both shards
}

BOOST_AUTO_TEST_CASE(a_tied_head_is_the_embedding) {
  const auto checkpoint = Checkpoint::open(golden("llama3-rope"));
  BOOST_TEST(checkpoint->config().rope.llama3.has_value());
  const StageWeights last = checkpoint->stage({2, 3});
  BOOST_TEST(!last.embedding.has_value());
  BOOST_TEST(last.head->bytes.data() == checkpoint->stage({0, 0}).embedding->bytes.data());
}

BOOST_AUTO_TEST_CASE(golden_prompts_read_as_whole_numbers) {
  const auto file = SafetensorsFile::open(golden("llama-gqa") / "golden.safetensors");
  const auto prompt = integers(file.tensor("prompt_1"));
  BOOST_TEST(prompt.size() == 19u);
  for (const int64_t id : prompt) BOOST_TEST((id >= 0 && id < 384));
  CHECK_INPUT_ERROR(file.tensor("prompt_4"), "prompt_4");
}

BOOST_AUTO_TEST_CASE(the_digest_changes_with_every_file_that_shapes_the_result) {
  const test::TemporaryFolder folder;
  std::filesystem::copy(golden("qwen2-bias"), folder.path());
  const std::string before = Checkpoint::open(folder.path())->weights_digest();
  BOOST_TEST(before.size() == 64u);
  BOOST_TEST(Checkpoint::open(golden("qwen2-bias"))->weights_digest() == before);  // whatever the folder
  std::set<std::string> digests{before};
  const auto expect_another = [&] {
    BOOST_TEST(digests.insert(Checkpoint::open(folder.path())->weights_digest()).second);
  };
  folder.write("generation_config.json", "{}");
  expect_another();

  std::ofstream(folder.path() / "config.json", std::ios::app) << "\n";
  expect_another();
  std::fstream shard(folder.path() / "model-00002-of-00002.safetensors",
                     std::ios::in | std::ios::out | std::ios::binary);
  shard.seekp(-1, std::ios::end);
  shard.put('\x55');
  shard.close();
  expect_another();
}

BOOST_AUTO_TEST_CASE(an_index_that_leaves_the_directory_or_disagrees_with_its_shards_is_refused) {
  const auto open_with = [](const std::string& from, const std::string& to) {
    const test::TemporaryFolder folder;
    std::filesystem::copy(golden("qwen2-bias"), folder.path());
    std::ifstream file(golden("qwen2-bias") / "model.safetensors.index.json");
    std::string index(std::istreambuf_iterator<char>(file), {});
    const size_t at = index.find(from);
    BOOST_REQUIRE(at != index.npos);
    folder.write("model.safetensors.index.json", index.replace(at, from.size(), to));
    return Checkpoint::open(folder.path());
  };
  const std::string shard = "\"model-00001-of-00002.safetensors\"";
  for (const std::string escape : {"\"../model-00001-of-00002.safetensors\"", "\"/etc/passwd\"", "\"..\"",
                                   "\"\"", "\"sub/model.safetensors\"", "\"a\\u0000.safetensors\""})
    CHECK_INPUT_ERROR(open_with(shard, escape), "names the file");
  CHECK_INPUT_ERROR(open_with(shard, "7"), "no file name");
  CHECK_INPUT_ERROR(open_with(shard, "\"model-00003-of-00002.safetensors\""), "index");
  CHECK_INPUT_ERROR(open_with(shard, "\"model-00002-of-00002.safetensors\""), "index");
  CHECK_INPUT_ERROR(open_with("\"model.norm.weight\"", "\"model.abnorm.weight\""), "norm.weight");
  CHECK_INPUT_ERROR(open_with("weight_map", "weights"), "weight_map");
}

BOOST_AUTO_TEST_CASE(a_directory_says_what_it_lacks) {
  const test::TemporaryFolder folder;
  CHECK_INPUT_ERROR(Checkpoint::open(folder.path() / "absent"), "No such file");
  CHECK_INPUT_ERROR(Checkpoint::open(folder.path()), "config.json");
  std::filesystem::copy(golden("llama-gqa") / "config.json", folder.path());
  CHECK_INPUT_ERROR(Checkpoint::open(folder.path()), "model.safetensors");
  folder.write("model.safetensors", "");
  CHECK_INPUT_ERROR(Checkpoint::open(folder.path()), "is empty");
  CHECK_INPUT_ERROR(Checkpoint::open(golden("llama-gqa") / "config.json"), "not a GGUF");
  CHECK_INPUT_ERROR(Checkpoint::open("/dev/null"), "regular file");
}
