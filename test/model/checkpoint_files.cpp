// What published checkpoints' files look like beside the plain case: a head that contradicts its
// configuration, data at odd addresses, many layers that are never run.

#include <sys/resource.h>

#include <boost/json.hpp>
#include <set>

#include "builders.hpp"
#include "model/checkpoint/checkpoint_parts.hpp"
#include "model/checkpoint/inspect.hpp"
#include "model/rewrite/rewrite.hpp"
#include "test/processor_time.hpp"

using namespace convoy;
using namespace convoy::model;
using test::golden;
using test::TemporaryFolder;

namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

/// A safetensors file that can be changed.
struct Safetensors {
  json::object header;
  std::string data;

  explicit Safetensors(const fs::path& file) {
    const auto mapping = Mapping::open(file);
    uint64_t size;
    std::memcpy(&size, mapping->text().data(), sizeof size);
    header = json::parse(mapping->text().substr(sizeof size, size)).as_object();
    data = mapping->text().substr(sizeof size + size);
  }
  std::string bytes_of(const char* name) const {
    const auto& offsets = header.at(name).at("data_offsets").as_array();
    const auto begin = offsets[0].to_number<size_t>();
    return data.substr(begin, offsets[1].to_number<size_t>() - begin);
  }
  void add(const char* name, const char* like, const std::string& bytes) {
    json::object entry = header.at(like).as_object();
    entry["data_offsets"] = {data.size(), data.size() + bytes.size()};
    header[name] = entry;
    data += bytes;
  }
  /// Other bytes for a tensor, which may be more or less.
  void replace(const std::string& name, const char* dtype, const std::string& bytes) {
    std::string all;
    for (auto& [key, entry] : header) {
      if (key == "__metadata__") continue;
      const std::string own = key == name ? bytes : bytes_of(std::string(key).c_str());
      entry.as_object()["data_offsets"] = {all.size(), all.size() + own.size()};
      all += own;
    }
    header[name].as_object()["dtype"] = dtype;
    data = std::move(all);
  }
  /// The data begin so many bytes behind a multiple of 8.
  std::string text(size_t odd = 0) const {
    std::string text = json::serialize(header);
    text.append((8 + odd - text.size() % 8) % 8, ' ');
    return test::counted(text) + data;
  }
};

std::string_view bytes_of(const Tensor& tensor) {
  return {reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size()};
}
std::string_view scales_of(const Tensor& tensor) {
  return {reinterpret_cast<const char*>(tensor.scales.data()), tensor.scales.size()};
}

std::vector<Tensor> weights_of(const StageWeights& stage) {
  std::vector<Tensor> all{*stage.embedding, *stage.final_norm, *stage.head};
  for (const LayerWeights& w : stage.layers) {
    all.insert(all.end(), {w.attention_norm, w.mlp_norm, w.q, w.o, w.gate, w.up, w.down});
    if (!w.latent) all.insert(all.end(), {w.k, w.v});
    if (w.latent) all.insert(all.end(), {w.latent->kv_a, w.latent->kv_a_norm, *w.latent->kv_b});
    if (w.experts) {
      all.push_back(w.experts->router);
      for (const auto* part : {&w.experts->gate, &w.experts->up, &w.experts->down})
        all.insert(all.end(), part->begin(), part->end());
    }
  }
  return all;
}

StageWeights all_of(const Checkpoint& checkpoint) {
  return checkpoint.stage({0, checkpoint.config().layers - 1});
}

fs::path rewritten(const fs::path& source, RewriteTarget target, const fs::path& out) {
  Rewriter rewriter({.source = source, .out = out, .target = target});
  rewriter.run([](const auto&) {});
  rewriter.finish();
  return out;
}

}  // namespace

BOOST_AUTO_TEST_CASE(scales_of_fp8_may_be_bf16_and_are_read_when_a_stage_wants_them) {
  // Qwen's own FP8 checkpoints have them so.
  const fs::path model = golden("deepseek-v3-fp8");
  Safetensors narrow(model / "model.safetensors"), wide = narrow;
  std::vector<std::string> names;
  for (const auto& [name, entry] : narrow.header)
    if (name.ends_with("_scale_inv")) names.emplace_back(name);
  BOOST_REQUIRE(names.size() > 20u);
  for (const std::string& name : names) {
    const std::string own = narrow.bytes_of(name.c_str());
    std::string bits, rounded;
    for (size_t at = 0; at < own.size(); at += sizeof(float)) {
      float scale;
      std::memcpy(&scale, own.data() + at, sizeof scale);
      bits += test::raw(f32_to_bf16(scale));
      rounded += test::raw(bf16_to_f32(f32_to_bf16(scale)));
    }
    narrow.replace(name, "BF16", bits);
    wide.replace(name, "F32", rounded);
  }
  const TemporaryFolder in_bf16, in_f32;
  for (const auto& [folder, file] : {std::pair{&in_bf16, &narrow}, {&in_f32, &wide}}) {
    folder->write("model.safetensors", file->text());
    fs::copy(model / "config.json", folder->path());
  }
  const auto checkpoint = Checkpoint::open(in_bf16.path()), expected = Checkpoint::open(in_f32.path());
  const std::vector<Tensor> own = weights_of(all_of(*checkpoint)), others = weights_of(all_of(*expected));
  BOOST_REQUIRE(own.size() == others.size());
  size_t scaled = 0;
  for (size_t i = 0; i < own.size(); ++i) {
    BOOST_TEST((bytes_of(own[i]) == bytes_of(others[i]) && scales_of(own[i]) == scales_of(others[i])));
    scaled += !own[i].scales.empty();
  }
  BOOST_TEST(scaled > 20u);
  const TemporaryFolder out;
  const auto written = [&](const TemporaryFolder& source, const char* name) {
    return Mapping::open(rewritten(source.path(), RewriteTarget::bf16, out.path() / name) /
                         "model.safetensors");
  };
  BOOST_TEST((written(in_bf16, "of_bf16")->text() == written(in_f32, "of_f32")->text()));

  const auto again = Checkpoint::open(in_bf16.path());
  const auto filled = [&](int64_t layer) {
    const Tensor o = again->layout({layer, layer}).layers.front().o;
    return std::ranges::any_of(o.scales, [](std::byte b) { return b != std::byte{0}; });
  };
  again->stage({1, 1});
  BOOST_TEST(filled(1));
  BOOST_TEST(!filled(0), "the scales of layers that no stage has are read");
  again->stage({0, 0});
  BOOST_TEST(filled(0));

  narrow.replace(names.front(), "F16", narrow.bytes_of(names.front().c_str()));
  const TemporaryFolder in_f16;
  in_f16.write("model.safetensors", narrow.text());
  fs::copy(model / "config.json", in_f16.path());
  CHECK_INPUT_ERROR(Checkpoint::open(in_f16.path()), "not F32 or BF16");
}

BOOST_AUTO_TEST_CASE(a_head_that_is_not_the_embedding_is_the_head_though_the_configuration_ties_them) {
  const TemporaryFolder folder;
  fs::copy(golden("llama3-rope") / "config.json", folder.path());
  const Safetensors original(golden("llama3-rope") / "model.safetensors");
  const char* const embedding = "model.embed_tokens.weight";
  const std::string own = original.bytes_of(embedding);
  const auto open_with = [&](const std::string& head) {
    Safetensors file = original;
    file.add("lm_head.weight", embedding, head);
    folder.write("model.safetensors", file.text());
    return Checkpoint::open(folder.path());
  };

  const auto copied = open_with(own);
  BOOST_TEST(copied->config().tied_head);
  BOOST_TEST(copied->notes().empty());
  std::string other = own;
  other.back() ^= 1;  // its last value alone
  const auto untied = open_with(other);
  BOOST_TEST(!untied->config().tied_head);
  const StageWeights weights = all_of(*untied);
  BOOST_TEST((bytes_of(*weights.head) == other));
  BOOST_TEST((bytes_of(*weights.embedding) == own));
  BOOST_REQUIRE(untied->notes().size() == 1u);
  BOOST_TEST(untied->notes().front().find("lm_head.weight") != std::string::npos);

  const auto in_bf16 =
      Checkpoint::open(rewritten(folder.path(), RewriteTarget::bf16, folder.path() / "written"));
  BOOST_TEST(in_bf16->notes().empty());  // its configuration is true
  BOOST_TEST((bytes_of(*all_of(*in_bf16).head) != bytes_of(*all_of(*in_bf16).embedding)));
  const auto gguf = Checkpoint::open(rewritten(folder.path(), RewriteTarget::q8_0, folder.path() / "w.gguf"));
  BOOST_TEST(!gguf->config().tied_head);
}

BOOST_AUTO_TEST_CASE(tensors_at_odd_addresses_are_copied_to_even_ones) {
  for (const char* name : {"llama-gqa", "llama3-rope", "deepseek-v3-fp8"}) {
    const TemporaryFolder folder;
    fs::copy(golden(name) / "config.json", folder.path());
    const auto plain = Checkpoint::open(golden(name));
    const std::vector<Tensor> expected = weights_of(all_of(*plain));
    const Safetensors file(golden(name) / "model.safetensors");
    for (const size_t odd : {1, 2, 6}) {
      folder.write("model.safetensors", file.text(odd));
      const auto checkpoint = Checkpoint::open(folder.path());
      const std::vector<Tensor> found = weights_of(all_of(*checkpoint));
      BOOST_REQUIRE(found.size() == expected.size());
      for (size_t i = 0; i < found.size(); ++i) {
        const size_t element = found[i].type == DType::f8_e4m3 ? 1 : info(found[i].type).block_bytes;
        BOOST_TEST(reinterpret_cast<uintptr_t>(found[i].bytes.data()) % element == 0u);
        BOOST_TEST(reinterpret_cast<uintptr_t>(found[i].scales.data()) % sizeof(float) == 0u);
        BOOST_TEST((bytes_of(found[i]) == bytes_of(expected[i])), name << " " << i);
        BOOST_TEST((scales_of(found[i]) == scales_of(expected[i])), name << " " << i);
      }
      const bool tied = checkpoint->config().tied_head;
      BOOST_TEST((found[2].bytes.data() == found[0].bytes.data()) == tied);  // one copy, not two
      BOOST_TEST(checkpoint->layout({0, 0}).layers[0].q.owner->path() == folder.path() / "model.safetensors");
    }
    rewritten(folder.path(), RewriteTarget::bf16, folder.path() / "written");
  }
}

BOOST_AUTO_TEST_CASE(layers_that_predict_are_told_by_their_number_and_cost_no_more_than_their_names) {
  const TemporaryFolder folder;
  auto config = json::parse(Mapping::open(golden("deepseek-v3-fp8") / "config.json")->text()).as_object();
  const int64_t layers = config.at("num_hidden_layers").as_int64(), last = layers + 4095;
  config["num_nextn_predict_layers"] = 4096;
  folder.write("config.json", json::serialize(config));
  const Safetensors original(golden("deepseek-v3-fp8") / "model.safetensors");
  const auto open_with = [&](const std::vector<std::string>& names) {
    Safetensors file = original;
    const json::object one{{"dtype", "F32"}, {"shape", json::array{1}}};
    for (const std::string& name : names) {
      json::object entry = one;
      entry["data_offsets"] = {file.data.size(), file.data.size() + 4};
      file.header[name] = entry;
      file.data.append(4, '\0');
    }
    folder.write("model.safetensors", file.text());
    return Checkpoint::open(folder.path());
  };
  const auto prefix = [](auto number) { return "model.layers." + std::to_string(number); };
  for (const std::string& name :
       {prefix(last + 1) + ".x", prefix(-1) + ".x", prefix(layers), prefix(layers) + "x.y",
        std::string("model.layers.99999999999999999999.x"), std::string("model.layers..x")})
    CHECK_INPUT_ERROR(open_with({name}), name);
  BOOST_TEST(open_with({prefix(layers) + ".x", prefix(last) + ".x"})->prediction_parameters() == 2u);

  // Each name costs the same, however many such layers there are.
  std::vector<std::string> many;
  for (int i = 0; i < 5'000; ++i) many.push_back(prefix(layers) + "." + std::to_string(i));
  const auto cost_s = [&](int layers_that_predict) {
    config["num_nextn_predict_layers"] = layers_that_predict;
    folder.write("config.json", json::serialize(config));
    return test::processor_seconds(
        [&] { BOOST_TEST(open_with(many)->prediction_parameters() == many.size()); });
  };
  const double few_s = cost_s(1), all_s = cost_s(4096);
  BOOST_TEST(all_s < 3 * few_s, few_s << " s with one such layer, " << all_s << " s with 4096");
}

#ifndef __SANITIZE_ADDRESS__  // whose own memory is more than the limit

namespace {

/// As many experts as there may be, each of one row; 131 kB in each layer.
test::GgufBuilder gguf_of_tiny_experts(uint32_t layers) {
  constexpr uint32_t experts = 4096;
  test::GgufBuilder file;
  file.key("general.architecture", std::string("deepseek2"))
      .key("deepseek2.attention.layer_norm_rms_epsilon", 1e-5f)
      .key("deepseek2.expert_count", experts);
  for (const auto& [name, value] :
       std::initializer_list<std::pair<const char*, uint32_t>>{{"block_count", layers},
                                                               {"context_length", 128},
                                                               {"embedding_length", 2},
                                                               {"feed_forward_length", 2},
                                                               {"attention.head_count", 1},
                                                               {"attention.head_count_kv", 1},
                                                               {"attention.kv_lora_rank", 2},
                                                               {"attention.key_length", 4},
                                                               {"attention.value_length", 2},
                                                               {"rope.dimension_count", 2},
                                                               {"expert_used_count", 1},
                                                               {"expert_feed_forward_length", 1},
                                                               {"expert_shared_count", 1},
                                                               {"expert_group_count", 1},
                                                               {"expert_group_used_count", 1}})
    file.key("deepseek2." + std::string(name), value);
  file.tensor_f32("token_embd.weight", {2, 8}).tensor_f32("output_norm.weight", {2});
  for (uint32_t layer = 0; layer < layers; ++layer) {
    const auto tensor = [&](const char* name, std::vector<uint64_t> dims) {
      file.tensor_f32("blk." + std::to_string(layer) + "." + name + ".weight", std::move(dims));
    };
    tensor("attn_norm", {2}), tensor("ffn_norm", {2}), tensor("attn_q", {2, 4});
    tensor("attn_kv_a_mqa", {2, 4}), tensor("attn_kv_a_norm", {2}), tensor("attn_kv_b", {2, 4});
    tensor("attn_output", {2, 2}), tensor("ffn_gate_inp", {2, experts});
    tensor("ffn_gate_shexp", {2, 1}), tensor("ffn_up_shexp", {2, 1}), tensor("ffn_down_shexp", {1, 2});
    tensor("ffn_gate_exps", {2, 1, experts}), tensor("ffn_up_exps", {2, 1, experts});
    tensor("ffn_down_exps", {1, 2, experts});
  }
  return file;
}

/// Lets this process take so much more memory while it lives.
class MemoryLimit {
 public:
  explicit MemoryLimit(uint64_t more_bytes) {
    ::getrlimit(RLIMIT_DATA, &before_);
    std::ifstream status("/proc/self/status");
    uint64_t kib = 0;
    for (std::string key; status >> key && key != "VmData:";) continue;
    BOOST_REQUIRE(status >> kib);
    const rlimit limit{kib * 1024 + more_bytes, before_.rlim_max};
    BOOST_REQUIRE(::setrlimit(RLIMIT_DATA, &limit) == 0);
  }
  ~MemoryLimit() { ::setrlimit(RLIMIT_DATA, &before_); }

 private:
  rlimit before_{};
};

}  // namespace

BOOST_AUTO_TEST_CASE(weights_that_are_not_there_any_more_are_refused_before_they_are_read) {
  const TemporaryFolder folder;
  const auto path = folder.write("weights", std::string(64 << 10, 'w'));
  const auto mapping = Mapping::open(path);
  fetch(mapping->bytes());
  fs::resize_file(path, 4 << 10);
  BOOST_CHECK_EXCEPTION(fetch(mapping->bytes()), convoy::InputError, [](const convoy::InputError& e) {
    return e.problem().find("was shortened") != std::string::npos;
  });
}

BOOST_AUTO_TEST_CASE(a_million_experts_take_no_more_memory_than_those_of_a_layer) {
  constexpr uint32_t layers = 250;
  const test::GgufBuilder builder = gguf_of_tiny_experts(layers);
  const TemporaryFolder folder;
  const auto path = folder.write("sparse.gguf", builder.header());
  fs::resize_file(path, builder.header().size() + builder.data_bytes);
  const MemoryLimit limit(uint64_t{64} << 20);
  std::shared_ptr<const Checkpoint> checkpoint;
  BOOST_REQUIRE_NO_THROW(checkpoint = Checkpoint::open(path));
  BOOST_CHECK_NO_THROW(BOOST_TEST(inspect(*checkpoint).layer_bytes.size() == layers));
  BOOST_CHECK_NO_THROW(BOOST_TEST(stage_bytes(*checkpoint, {0, layers - 1}) > layers * uint64_t{131'000}));
}

#endif
