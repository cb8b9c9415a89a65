#pragma once
// Small model files made in memory, valid unless a test asks otherwise.

#include <numeric>

#include "files.hpp"
#include "model/tensor.hpp"

namespace convoy::test {

/// GGUF's numbers for types of metadata values and of tensors.
enum GgufType : uint32_t {
  gguf_u8 = 0,
  gguf_u16 = 2,
  gguf_u32 = 4,
  gguf_i32 = 5,
  gguf_f32 = 6,
  gguf_bool = 7,
  gguf_string = 8,
  gguf_array = 9
};
enum GgmlType : uint32_t {
  ggml_f32 = 0,
  ggml_q4_0 = 2,
  ggml_q4_1 = 3,
  ggml_q8_0 = 8,
  ggml_q3_k = 11,
  ggml_q4_k = 12,
  ggml_q5_k = 13,
  ggml_q6_k = 14,
  ggml_iq4_nl = 20,
  ggml_i64 = 27
};

/// One tensor's description, innermost dimension first as in the file.
struct GgufTensor {
  std::string name;
  std::vector<uint64_t> dims;
  uint32_t type = ggml_f32;
  uint64_t offset = 0;
};

struct GgufBuilder {
  std::vector<std::pair<std::string, std::string>> keys;  // key, raw type and value
  std::vector<GgufTensor> tensors;
  uint32_t version = 3;
  uint64_t alignment = 32;
  uint64_t data_bytes = 0;

  GgufBuilder& key(const std::string& name, uint32_t type, const std::string& value) {
    std::erase_if(keys, [&](const auto& entry) { return entry.first == name; });
    keys.emplace_back(name, raw(type) + value);
    return *this;
  }
  GgufBuilder& key(const std::string& name, uint16_t value) { return key(name, gguf_u16, raw(value)); }
  GgufBuilder& key(const std::string& name, int32_t value) { return key(name, gguf_i32, raw(value)); }
  GgufBuilder& key(const std::string& name, uint32_t value) { return key(name, gguf_u32, raw(value)); }
  GgufBuilder& key(const std::string& name, float value) { return key(name, gguf_f32, raw(value)); }
  GgufBuilder& key(const std::string& name, const std::string& value) {
    return key(name, gguf_string, counted(value));
  }

  /// Appends a tensor behind the others.
  GgufBuilder& tensor(const std::string& name, std::vector<uint64_t> dims, uint32_t type, uint64_t bytes) {
    tensors.push_back({name, std::move(dims), type, data_bytes});
    data_bytes += (bytes + alignment - 1) / alignment * alignment;
    return *this;
  }
  GgufBuilder& tensor_f32(const std::string& name, std::vector<uint64_t> dims) {
    const uint64_t values = std::accumulate(dims.begin(), dims.end(), uint64_t{1}, std::multiplies<>());
    return tensor(name, std::move(dims), ggml_f32, values * 4);
  }
  GgufTensor& find(const std::string& name) {
    for (GgufTensor& tensor : tensors)
      if (tensor.name == name) return tensor;
    BOOST_REQUIRE_MESSAGE(false, "no tensor " << name);
    return tensors.front();
  }
  GgufBuilder& remove(const std::string& name) {
    std::erase_if(tensors, [&](const GgufTensor& tensor) { return tensor.name == name; });
    return *this;
  }

  /// Everything before the data, padded.
  std::string header() const {
    std::string bytes = "GGUF" + raw(version) + raw(uint64_t{tensors.size()}) + raw(uint64_t{keys.size()});
    for (const auto& [name, value] : keys) bytes += counted(name) + value;
    for (const GgufTensor& tensor : tensors) {
      bytes += counted(tensor.name) + raw(static_cast<uint32_t>(tensor.dims.size()));
      for (const uint64_t dim : tensor.dims) bytes += raw(dim);
      bytes += raw(tensor.type) + raw(tensor.offset);
    }
    return bytes + std::string((alignment - bytes.size() % alignment) % alignment, '\0');
  }
  std::string bytes() const { return header() + std::string(data_bytes, '\0'); }
};

/// Sizes of a tiny model; every dimension differs so that a swapped shape shows.
struct TinyShape {
  uint32_t layers = 2, hidden = 32, intermediate = 96, vocab = 8, heads = 4, kv_heads = 2, head_dim = 16;
  uint32_t q_width() const { return heads * head_dim; }
  uint32_t kv_width() const { return kv_heads * head_dim; }
};

/// Layers whose matrices fill many pages each.
inline TinyShape paged_shape(uint32_t layers) {
  return {.layers = layers,
          .hidden = 512,
          .intermediate = 1024,
          .vocab = 4096,
          .heads = 8,
          .kv_heads = 8,
          .head_dim = 64};
}

/// A file whose weights are a hole: zeros that take no disk, and of which nothing is cached.
inline std::filesystem::path write_hole(const TemporaryFolder& folder, const std::string& name,
                                        const GgufBuilder& file) {
  const std::string header = file.header();
  const auto path = folder.write(name, header);
  std::filesystem::resize_file(path, header.size() + file.data_bytes);
  return path;
}

inline GgufBuilder tiny_gguf(const std::string& architecture, const TinyShape& shape = {}) {
  GgufBuilder file;
  const std::string prefix = architecture + ".";
  file.key("general.architecture", architecture)
      .key(prefix + "block_count", shape.layers)
      .key(prefix + "context_length", uint32_t{128})
      .key(prefix + "embedding_length", shape.hidden)
      .key(prefix + "feed_forward_length", shape.intermediate)
      .key(prefix + "attention.head_count", shape.heads)
      .key(prefix + "attention.head_count_kv", shape.kv_heads)
      .key(prefix + "attention.key_length", shape.head_dim)
      .key(prefix + "attention.value_length", shape.head_dim)
      .key(prefix + "attention.layer_norm_rms_epsilon", 1e-5f)
      .key("tokenizer.ggml.eos_token_id", uint32_t{2})
      .key("tokenizer.ggml.tokens", gguf_array,
           raw(uint32_t{gguf_string}) + raw(uint64_t{3}) + counted("a") + counted("b") + counted("</s>"));
  file.tensor_f32("token_embd.weight", {shape.hidden, shape.vocab});
  for (uint32_t layer = 0; layer < shape.layers; ++layer) {
    const std::string block = "blk." + std::to_string(layer) + ".";
    file.tensor_f32(block + "attn_norm.weight", {shape.hidden})
        .tensor_f32(block + "attn_q.weight", {shape.hidden, shape.q_width()})
        .tensor_f32(block + "attn_k.weight", {shape.hidden, shape.kv_width()})
        .tensor_f32(block + "attn_v.weight", {shape.hidden, shape.kv_width()})
        .tensor_f32(block + "attn_output.weight", {shape.q_width(), shape.hidden})
        .tensor_f32(block + "ffn_norm.weight", {shape.hidden})
        .tensor_f32(block + "ffn_gate.weight", {shape.hidden, shape.intermediate})
        .tensor_f32(block + "ffn_up.weight", {shape.hidden, shape.intermediate})
        .tensor_f32(block + "ffn_down.weight", {shape.intermediate, shape.hidden});
    if (architecture == "qwen2")
      file.tensor_f32(block + "attn_q.bias", {shape.q_width()})
          .tensor_f32(block + "attn_k.bias", {shape.kv_width()})
          .tensor_f32(block + "attn_v.bias", {shape.kv_width()});
    if (architecture == "qwen3")
      file.tensor_f32(block + "attn_q_norm.weight", {shape.head_dim})
          .tensor_f32(block + "attn_k_norm.weight", {shape.head_dim});
  }
  return file.tensor_f32("output_norm.weight", {shape.hidden});
}

/// A safetensors file with this header and so many zero bytes of data.
inline std::string safetensors(const std::string& header, size_t data_bytes) {
  return counted(header) + std::string(data_bytes, '\0');
}

}  // namespace convoy::test
