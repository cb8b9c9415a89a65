#pragma once
// A checkpoint: a directory in Hugging Face's layout (config.json, safetensors single or sharded) or a GGUF,
// in one file or in parts, by mmap, or random weights (model/checkpoint/random_model.hpp). Opening reads
// headers only; the pages of a weight, and scales that have to be widened, are touched when they are used.

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "model/config.hpp"
#include "model/format/gguf_value.hpp"
#include "model/mapping.hpp"
#include "model/tensor.hpp"
#include "model/tokenizer/tokenizer.hpp"

namespace convoy::model {

/// Layers first..last, both inclusive.
struct LayerRange {
  int64_t first = 0, last = 0;
  int64_t count() const { return last - first + 1; }
  bool operator==(const LayerRange&) const = default;
};

/// Latent attention's own matrices. `query` is q_width = heads·(nope + rope).
struct LatentWeights {
  std::optional<Tensor> q_a, q_a_norm;  // [q_rank, hidden], [q_rank]: low-rank queries only
  Tensor kv_a, kv_a_norm;               // [latent + rope, hidden], [latent]
  /// Joint, [heads·(nope + value), latent], each head's key rows before its value rows; or split:
  /// k_b [heads·latent, nope] (transposed: a GGUF's attn_k_b) and v_b [heads·value, latent].
  std::optional<Tensor> kv_b, k_b, v_b;
};

/// Of a layer with experts. Vectors are indexed by expert.
struct ExpertWeights {
  Tensor router;                       // [experts, hidden]
  std::optional<Tensor> router_bias;   // [experts]
  std::vector<Tensor> gate, up, down;  // [width, hidden] twice, [hidden, width]
};

/// The weights of one layer. Matrices are [out, in], norms [hidden], biases [out].
struct LayerWeights {
  Tensor attention_norm, o, mlp_norm;
  Tensor q;     // [q_width, hidden], or [q_width, q_rank] behind low-rank queries
  Tensor k, v;  // grouped-query attention only
  std::optional<Tensor> q_bias, k_bias, v_bias, o_bias;
  std::optional<Tensor> q_norm, k_norm;  // [head_dim], the same for all heads
  std::optional<LatentWeights> latent;
  Tensor gate, up, down;  // the dense MLP, or the shared experts as one; without those no tensors
  std::optional<Tensor> gate_bias, up_bias, down_bias;  // the dense MLP's: [intermediate] twice, [hidden]
  std::optional<ExpertWeights> experts;
};

struct StageWeights {
  LayerRange range;
  std::vector<LayerWeights> layers;
  std::optional<Tensor> embedding;   // [vocab, hidden], on the first stage
  std::optional<Tensor> final_norm;  // [hidden], on the last stage
  std::optional<Tensor> head;        // [vocab, hidden], on the last stage; the embedding's bytes when tied
};

using NamedFiles = std::vector<std::pair<std::string, std::shared_ptr<const Mapping>>>;

class Checkpoint {
 public:
  /// Opens a directory, a GGUF file (of a split one any part) or random:NAME[:LAYERS] and checks every count,
  /// offset, type and size. Throws InputError.
  static std::shared_ptr<const Checkpoint> open(const std::filesystem::path& path);
  /// Whether there is something to open: a machine may have been told a path that it has nothing at.
  static bool is_there(const std::filesystem::path& path);
  virtual ~Checkpoint() = default;

  virtual const Config& config() const = 0;
  /// The weights of a range, each checked against the shape the configuration gives. Touches no page of
  /// theirs but of those that a file has where they cannot be read in place.
  virtual StageWeights stage(LayerRange range) const = 0;
  /// The same for those who look at shapes and sizes only: no byte may be read.
  virtual StageWeights layout(LayerRange range) const = 0;
  /// Whoever asked for that stage reads its bytes no more, having copied them: memory that no file is behind
  /// is given back when the last one has said so.
  virtual void release(LayerRange) const {}
  /// Numbers in the layers that predict further tokens, which are never run.
  virtual uint64_t prediction_parameters() const = 0;
  /// SHA-256, hex, over every byte of the weight files and the configuration: what the answer cache's key
  /// needs to be never wrong. Reads everything, so call it once and off the hot path. Of random weights it is
  /// the digest of what they are made from. Empty if it was stopped. find_digest()
  /// (model/checkpoint/kept_digest.hpp) reads once for all starts.
  virtual std::string weights_digest(std::stop_token stop = {}) const = 0;
  /// The files that the digest is of, by name; none if the weights do not come from files.
  virtual const NamedFiles& files() const = 0;
  /// The directory; or the GGUF file, of a split one the first, whichever was opened.
  virtual const std::filesystem::path& path() const = 0;
  virtual bool is_gguf() const = 0;
  /// Whether Tokenizer::load(path()) has something to load; without one a model serves token ids only.
  bool has_tokenizer() const;
  /// Null: it has none. Throws InputError if it is none that we run.
  virtual std::shared_ptr<const Tokenizer> tokenizer() const;
  /// Where its files contradict each other, and what is made of that: for the log.
  virtual std::vector<std::string> notes() const { return {}; }
  /// A GGUF's metadata; empty for a directory.
  virtual const GgufMetadata& metadata() const = 0;
};

}  // namespace convoy::model
