#pragma once
// Rewriter: a checkpoint written anew with weights of another type, tensor by tensor, so that memory stays
// far below a layer's. `convoy quantize` drives it; one thread calls it, its helpers encode.

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace convoy::model {

/// bf16, fp8_block (DeepSeek's, blocks of 128 × 128) and int8 (a scale for each row, as compressed-tensors
/// has it) give a directory of safetensors; q8_0 and q4_k one GGUF.
enum class RewriteTarget : uint8_t { bf16, fp8_block, int8, q8_0, q4_k };
inline constexpr std::array<std::string_view, 5> rewrite_targets{"bf16", "fp8-block", "int8", "q8_0", "q4_k"};

/// What a weight belongs to when losses are added up; `rest`: norms, biases, routers.
enum class WeightKind : uint8_t { attention, dense_mlp, experts, embedding, rest };
inline constexpr size_t weight_kinds = 5;
inline constexpr std::array<std::string_view, weight_kinds> weight_kind_names{
    "attention", "dense MLP", "experts", "embedding and head", "norms and routers"};

/// Of weights w written as v: Σ (w − v)² and Σ w².
struct RewriteLoss {
  double error = 0, power = 0;
  double relative() const;
  RewriteLoss& operator+=(const RewriteLoss& other);
};

struct RewriteOptions {
  std::filesystem::path source, out;
  RewriteTarget target = RewriteTarget::bf16;
  bool force = false;  // go on where the output's format cannot say all that the tokenizer does
  int threads = 1;
  uint64_t shard_bytes_max = uint64_t{4} << 30;  // of a safetensors file, unless one layer has more
};

class Rewriter {
 public:
  /// Reads the source's headers and lays out the output. Throws InputError: also when the output exists.
  explicit Rewriter(const RewriteOptions& options);
  ~Rewriter();

  struct Progress {
    std::string_view tensor;  // that was just finished
    uint64_t bytes_done, bytes_total;
    bool kept;  // an earlier run, which was interrupted, had written it
  };
  /// Writes what an interrupted run has not. What that one wrote is read and held against its digests.
  void run(const std::function<void(const Progress&)>& report);
  /// Where the source contradicts itself, and what of it the output lacks.
  const std::vector<std::string>& notes() const;
  /// By kind of weight; after run().
  const std::array<RewriteLoss, weight_kinds>& losses() const;

  /// Where the output lies until finish(): a whole checkpoint after run().
  const std::filesystem::path& partial() const;
  /// Gives the output its name, at once and for good.
  void finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace convoy::model
