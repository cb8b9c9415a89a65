#pragma once
// A golden checkpoint's tensors, and a GGUF file of them that a test writes tensor by tensor, all in F32, as
// a converter does.

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "model/checkpoint/checkpoint.hpp"
#include "model/format/safetensors.hpp"
#include "test/gpu/verify_runner.hpp"
#include "test/model/builders.hpp"

namespace convoy::test {

struct Matrix {
  std::vector<uint64_t> dims;  // innermost first
  std::vector<float> values;
};

/// The checkpoint's tensors, whichever shard holds them.
class Source {
 public:
  explicit Source(const std::filesystem::path& directory) {
    for (const auto& entry : std::filesystem::directory_iterator(directory)) {
      if (entry.path().extension() != ".safetensors" || entry.path().filename() == "golden.safetensors")
        continue;
      const auto file = model::SafetensorsFile::open(entry.path());
      for (const auto& [name, tensor] : file.tensors()) tensors_.emplace(name, tensor);
    }
    BOOST_REQUIRE(!tensors_.empty());
  }

  bool has(const std::string& name) const { return tensors_.contains(name); }
  Matrix get(const std::string& name) const {
    BOOST_REQUIRE_MESSAGE(has(name), name);
    const model::Tensor& tensor = tensors_.find(name)->second;
    Matrix m{{tensor.shape.rbegin(), tensor.shape.rend()}, {}};
    const auto columns = static_cast<size_t>(tensor.columns());
    m.values.resize(columns * static_cast<size_t>(tensor.rows()));
    for (int64_t r = 0; r < tensor.rows(); ++r)
      dequantize_row(tensor, r, std::span(m.values).subspan(static_cast<size_t>(r) * columns, columns));
    return m;
  }

 private:
  model::TensorMap tensors_;
};

/// The file that grows.
class GoldenGguf {
 public:
  explicit GoldenGguf(const std::string& name)
      : source_(golden(name)), config_(model::Checkpoint::open(golden(name))->config()) {}

  GgufBuilder file;

  std::string bytes() const {
    std::string all = file.bytes();
    const size_t begin = file.header().size();
    for (const GgufTensor& tensor : file.tensors) {
      const std::vector<float>& values = data_.find(tensor.name)->second;
      std::memcpy(all.data() + begin + tensor.offset, values.data(), values.size() * sizeof(float));
    }
    return all;
  }

 protected:
  void add(const std::string& name, Matrix matrix) {
    file.tensor_f32(name, std::move(matrix.dims));
    data_.emplace(name, std::move(matrix.values));
  }
  void add(const std::string& name, const std::string& hugging_face) { add(name, source_.get(hugging_face)); }
  void add_if_there(const std::string& name, const std::string& hugging_face) {
    if (source_.has(hugging_face)) add(name, hugging_face);
  }

  /// The keys that every architecture has.
  void write_keys(const std::string& architecture) {
    const std::string p = architecture + ".";
    file.key("general.architecture", architecture)
        .key(p + "block_count", number(config_.layers))
        .key(p + "context_length", number(config_.context))
        .key(p + "embedding_length", number(config_.hidden))
        .key(p + "feed_forward_length", number(config_.intermediate))
        .key(p + "vocab_size", number(config_.vocab))
        .key(p + "attention.head_count", number(config_.heads))
        .key(p + "attention.layer_norm_rms_epsilon", static_cast<float>(config_.rms_eps))
        .key(p + "rope.freq_base", static_cast<float>(config_.rope.theta));
  }
  void write_ends() {
    add("token_embd.weight", "model.embed_tokens.weight");
    add("output_norm.weight", "model.norm.weight");
    add_if_there("output.weight", "lm_head.weight");
  }
  /// The MLP of a layer, or its router and experts, each part's as one tensor.
  void write_mlp(const std::string& to, const std::string& from, int64_t n) {
    for (const char* part : {"gate", "up", "down"}) {
      const std::string name = part;
      for (const std::string kind : {".weight", ".bias"})
        add_if_there(to + "ffn_" + name + kind, from + "mlp." + name + "_proj" + kind);
      if (!has_experts(config_, n)) continue;
      Matrix all;
      for (int64_t e = 0; e < config_.moe->routing.experts; ++e) {
        const Matrix one =
            source_.get(from + "mlp.experts." + std::to_string(e) + "." + name + "_proj.weight");
        all.dims = {one.dims[0], one.dims[1], static_cast<uint64_t>(config_.moe->routing.experts)};
        all.values.insert(all.values.end(), one.values.begin(), one.values.end());
      }
      add(to + "ffn_" + name + "_exps.weight", std::move(all));
    }
    add_if_there(to + "ffn_gate_inp.weight", from + "mlp.gate.weight");
  }

  static uint32_t number(int64_t value) { return static_cast<uint32_t>(value); }

  Source source_;
  model::Config config_;

 private:
  std::map<std::string, std::vector<float>> data_;
};

/// The logits of a file have to stay those of the safetensors.
inline void require_golden_logits(const std::string& model, const std::string& gguf,
                                  const std::string& arguments = "") {
  const TemporaryFolder folder;
  const auto path = folder.write("model.gguf", gguf);
  require_golden("verify --model '" + path.string() + "' --golden '" +
                     (golden(model) / "golden.safetensors").string() + "' " + arguments,
                 1e-4, {1, 19, 200, 1}, {24, 24, 24, 8});
}

}  // namespace convoy::test
