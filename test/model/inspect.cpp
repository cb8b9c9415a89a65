#include "model/checkpoint/inspect.hpp"

#include <boost/json.hpp>
#include <numeric>

#include "builders.hpp"
#include "model/rewrite/checkpoint_writer.hpp"
#include "test/processor_time.hpp"

using namespace convoy;
using namespace convoy::model;
using test::golden;

namespace {

Inspection inspect_named(const std::string& name) { return inspect(*Checkpoint::open(name)); }

/// Bytes of a safetensors file behind its header.
uint64_t data_bytes(const std::filesystem::path& file) {
  uint64_t header = 0;
  std::ifstream(file, std::ios::binary).read(reinterpret_cast<char*>(&header), sizeof header);
  return std::filesystem::file_size(file) - sizeof header - header;
}

uint64_t data_bytes_of_shards(const std::filesystem::path& directory) {
  uint64_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(directory))
    if (entry.path().filename().string().starts_with("model") && entry.path().extension() == ".safetensors")
      bytes += data_bytes(entry.path());
  return bytes;
}

/// A file of a header and a hole.
void write_sparse(const std::filesystem::path& path, const std::string& header, uint64_t bytes) {
  std::ofstream(path, std::ios::binary) << header;
  std::filesystem::resize_file(path, header.size() + bytes);
}

/// DeepSeek V3 as published: FP8, 61 layers, and a part of the layer that predicts further tokens.
uint64_t write_sparse_deepseek_v3(const std::filesystem::path& directory) {
  const CheckpointPlan plan = plan_checkpoint({.like = "deepseek-v3", .type = DType::f8_e4m3});
  for (const Shard& shard : plan.shards) write_sparse(directory / shard.file, shard.header, shard.data_bytes);
  const uint64_t rows = 7168, columns = 2 * rows, bytes = rows * columns * 2;
  const std::string extra =
      R"({"model.layers.61.eh_proj.weight":{"dtype":"BF16","shape":[7168,14336],"data_offsets":[0,)" +
      std::to_string(bytes) + "]}}";
  write_sparse(directory / "prediction.safetensors", test::counted(extra), bytes);
  boost::json::value index = boost::json::parse(plan.index_json);
  index.at("weight_map").as_object()["model.layers.61.eh_proj.weight"] = "prediction.safetensors";
  std::ofstream(directory / "model.safetensors.index.json") << index;
  boost::json::value config = boost::json::parse(plan.config_json);
  config.as_object()["num_nextn_predict_layers"] = 1;
  std::ofstream(directory / "config.json") << config;
  return plan.bytes() + bytes;
}

}  // namespace

BOOST_AUTO_TEST_CASE(models_have_as_many_parameters_as_was_published) {
  const struct {
    const char* name;
    double total, active;  // billions, as rounded by those who published them
    double half_digit, half_digit_active;
  } published[] = {{"random:deepseek-v3", 671.0, 37, 0.05, 0.5},
                   {"random:deepseek-v2", 236, 21, 0.5, 0.5},
                   {"random:deepseek-v2-lite", 15.7, 2.4, 0.05, 0.06},
                   {"random:r1-0528-qwen3-8b", 8.2, 8.2 - 0.62, 0.05, 0.05},
                   {"random:qwen3-30b-a3b", 30.5, 3.3 - 0.31, 0.05, 0.1},
                   {"random:r1-distill-llama-70b", 70.6, 70.6 - 1.05, 0.05, 0.05},
                   {"random:r1-distill-qwen-32b", 32.8, 32.8 - 0.78, 0.05, 0.05}};
  for (const auto& p : published) {
    const Inspection found = inspect_named(p.name);
    BOOST_TEST_MESSAGE(p.name << ": " << found.parameters << " parameters, " << found.parameters_active
                              << " active");
    BOOST_TEST(std::abs(static_cast<double>(found.parameters) / 1e9 - p.total) <= p.half_digit, p.name);
    BOOST_TEST(std::abs(static_cast<double>(found.parameters_active) / 1e9 - p.active) <= p.half_digit_active,
               p.name);
  }
}

BOOST_AUTO_TEST_CASE(every_byte_of_the_files_is_counted_once) {
  for (const char* name : {"llama-gqa", "qwen2-bias", "llama-bias", "llama-mlp-bias", "qwen3",
                           "qwen3-moe-mixed", "deepseek-v2-lite", "deepseek-v3", "deepseek-v3-fp8"}) {
    const auto checkpoint = Checkpoint::open(golden(name));
    const Inspection found = inspect(*checkpoint);
    BOOST_TEST(found.bytes == data_bytes_of_shards(golden(name)), name);
    BOOST_TEST(found.bytes == stage_bytes(*checkpoint, {0, checkpoint->config().layers - 1}), name);
    uint64_t by_type = 0;
    for (const auto& [type, bytes] : found.types) by_type += bytes;
    BOOST_TEST(found.bytes == by_type, name);
  }
}

BOOST_AUTO_TEST_CASE(the_stages_of_a_model_read_all_of_it_and_nothing_twice) {
  const auto checkpoint = Checkpoint::open(golden("deepseek-v3"));
  const Inspection found = inspect(*checkpoint);
  BOOST_TEST(stage_bytes(*checkpoint, {0, 0}) + stage_bytes(*checkpoint, {1, 1}) +
                 stage_bytes(*checkpoint, {2, 2}) ==
             found.bytes);
  BOOST_TEST(stage_bytes(*checkpoint, {1, 1}) == found.layer_bytes[1]);
  // 16 experts of three matrices of 32 by 128 in bf16
  BOOST_TEST(found.expert_bytes == 3u * 32 * 128 * 2);
  // 12 of 16 experts in 2 layers rest, and all rows of the embedding but one
  BOOST_TEST(found.parameters - found.parameters_active == 12u * 2 * 3 * 32 * 128 + 255 * 128);
  // What benchmarks hold against the memory's bandwidth: all but those, which are bf16.
  BOOST_TEST(found.bytes - found.bytes_active == 2 * (found.parameters - found.parameters_active));
}

BOOST_AUTO_TEST_CASE(a_tied_head_counts_once_where_embedding_and_head_are_one_stage) {
  const test::TemporaryFolder folder;
  const auto checkpoint = Checkpoint::open(folder.write("tiny.gguf", test::tiny_gguf("llama").bytes()));
  const Inspection found = inspect(*checkpoint);
  const uint64_t embedding = 32u * 8 * 4;
  BOOST_TEST(stage_bytes(*checkpoint, {0, 1}) == found.bytes);
  BOOST_TEST(stage_bytes(*checkpoint, {0, 0}) + stage_bytes(*checkpoint, {1, 1}) == found.bytes + embedding);
  BOOST_TEST(found.parameters == found.parameters_active);
}

BOOST_AUTO_TEST_CASE(keys_and_values_take_what_the_attention_keeps) {
  const Config latent = Checkpoint::open("random:deepseek-v3")->config();
  BOOST_TEST(kv_bytes_per_token(latent, 1, DType::bf16) == 1152u);
  BOOST_TEST(kv_bytes_per_token(latent, 61, DType::f32) == 61u * 2304);
  BOOST_TEST(kv_bytes_per_token(latent, 61, DType::f8_e4m3) == 61u * 576);
  const Config grouped = Checkpoint::open("random:r1-distill-llama-70b")->config();
  BOOST_TEST(kv_bytes_per_token(grouped, 80, DType::f16) == 80u * 2 * 8 * 128 * 2);
}

BOOST_AUTO_TEST_CASE(seven_hundred_gigabytes_are_inspected_without_reading_them) {
  const test::TemporaryFolder folder;
  const uint64_t bytes = write_sparse_deepseek_v3(folder.path());
  BOOST_TEST(bytes > 670'000'000'000u);
  Inspection found;
  test::takes_about("opening and inspecting", 1, [&] { found = inspect(*Checkpoint::open(folder.path())); });
  BOOST_TEST(found.prediction_parameters == 7168u * 14336);
  BOOST_TEST(found.layer_bytes.size() == 61u);
  BOOST_TEST(std::accumulate(found.layer_bytes.begin(), found.layer_bytes.end(), uint64_t{0}) < found.bytes);
  BOOST_TEST((found.types.front().first == DType::f8_e4m3));
  BOOST_TEST(found.parameters == inspect_named("random:deepseek-v3").parameters);
}

BOOST_AUTO_TEST_CASE(what_stands_beside_the_weights_is_named) {
  const TextParts none = inspect_text(*Checkpoint::open(golden("deepseek-v3")));
  BOOST_TEST(none.tokenizer == "none");
  BOOST_TEST(none.chat_template == "none");
  const test::TemporaryFolder folder;
  for (const char* file : {"config.json", "model.safetensors"})
    std::filesystem::copy(golden("llama-gqa") / file, folder.path());
  folder.write("tokenizer.json", R"({"model": {"type": "WordPiece"}})");
  BOOST_TEST(inspect_text(*Checkpoint::open(folder.path())).tokenizer == "unknown");
}

BOOST_AUTO_TEST_CASE(the_default_model_has_a_known_template,
                     *boost::unit_test::precondition(test::has_default_model)) {
  const auto checkpoint = Checkpoint::open(test::default_model());
  const TextParts text = inspect_text(*checkpoint);
  BOOST_TEST(text.tokenizer == "byte-level BPE");
  BOOST_TEST(text.chat_template == "smollm2");
  BOOST_TEST(inspect(*checkpoint).parameters == 134'515'008u);
}
