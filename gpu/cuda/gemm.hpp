#pragma once
// Products of activations with weights of any type: out[r] = in[r] · weightᵀ (+ bias) (+ out[r]), summed in
// float32. All sizes that vary from step to step are read on the device, so that a launch can be captured
// once.

#include <cuda_runtime.h>

#include "gpu/cuda/failure.hpp"
#include "gpu/cuda/matrix.hpp"
#include "gpu/cuda/table.hpp"

namespace convoy::cuda {

/// Calls use.operator()<type>() for the type.
template <class Use>
void for_type(DType type, const Use& use) {
  switch (type) {
    case DType::f32:
      return use.template operator()<DType::f32>();
    case DType::f16:
      return use.template operator()<DType::f16>();
    case DType::bf16:
      return use.template operator()<DType::bf16>();
    case DType::f8_e4m3:
      return use.template operator()<DType::f8_e4m3>();
    case DType::i8:
      return use.template operator()<DType::i8>();
    case DType::q8_0:
      return use.template operator()<DType::q8_0>();
    case DType::q4_0:
      return use.template operator()<DType::q4_0>();
    case DType::q4_1:
      return use.template operator()<DType::q4_1>();
    case DType::iq4_nl:
      return use.template operator()<DType::iq4_nl>();
    case DType::q4_k:
      return use.template operator()<DType::q4_k>();
    case DType::q5_k:
      return use.template operator()<DType::q5_k>();
    case DType::q6_k:
      return use.template operator()<DType::q6_k>();
    case DType::i64:
      break;
  }
  throw refusal("a weight of whole numbers", "checkpoint", "convert it");
}

/// Activations in their type. Rows begin `pitch` values after each other; values behind a row's last up to
/// whole chunks are zeros.
struct Rows {
  void* data = nullptr;
  Activations type = Activations::f32;
  int64_t pitch = 0;
};

struct Product {
  Matrix weight;
  const float* bias = nullptr;  // [weight.rows], or none
  float* out = nullptr;         // [rows, pitch]
  int64_t pitch = 0;
  bool adds = false;  // to what is in `out`, instead of replacing it
  Matrix shared{};    // experts behind the visits' others, as wide as those, if there are any
};

/// Rows that share an expert's weights: visits first to first + rows − 1.
struct Tile {
  int32_t expert = 0, first = 0, rows = 0;
};

/// Which rows a launch works on.
struct RowRange {
  const int32_t* count = nullptr;  // on the device
  int32_t first = 0;               // of them, this launch begins here
  int32_t max = 0;                 // and has at most so many
};

/// The rows of experts, cut into tiles on the device.
struct Visits {
  const Tile* tiles = nullptr;
  const int32_t* tile_count = nullptr;
  const int32_t* rows = nullptr;  // the input row of each visit; nullptr: its own number
  int32_t tiles_max = 0;
  int32_t experts = 0;  // those of higher numbers are Product::shared's
  int32_t all = 0;      // with these
  int32_t max = 0;      // visits, at most
  /// Rows are fetched as they lie: those of the visits, or, if `rows` says which they are, all of the step's,
  /// for which each tile then has room.
  bool by_tma = false;
  /// The kernel before let this one begin when the list was there: weights are fetched while that still runs.
  bool listed_before = false;
};

/// How a row's additions are ordered.
enum class GemmKind : uint8_t {
  few_rows,   // the same whatever rows come beside it: exact products, at the speed of memory
  many_rows,  // tiles of tiled_rows rows; with bf16 activations on tensor cores, weights rounded to bf16
};
inline constexpr int skinny_rows = 8, tiled_rows = 64;
constexpr int tile_rows(GemmKind kind) { return kind == GemmKind::few_rows ? skinny_rows : tiled_rows; }

/// out[r] = in[r] / sqrt(mean(in[r]²) + eps) · w   (RMSNorm, arXiv 1910.07467)
struct Norm {
  const float* in = nullptr;  // [rows, pitch]
  int64_t pitch = 0;
  int32_t width = 0;
  const float* weight = nullptr;
  float eps = 0;
  Rows out;
  RowRange rows;
  /// The rows of `in` that are looked at. nullptr: each its own.
  const int32_t* chosen = nullptr;
};

/// A norm of x in two halves, so that no launch stands between the product that x came from and the one that
/// reads its norm: the first leaves x · w, and what the squares of x sum to in each of its tiles; the second
/// divides its sums by the root. Values are rounded before they are divided.
struct NormHalves {
  Norm norm;
  float* squares = nullptr;  // [rows, pitch]
  int32_t pitch = 0;
  int32_t tiles = 0;  // in a row of squares
};

/// Room for a part of a weight in bf16, where cuBLASLt computes and the weight is of another type.
struct Expanded {
  std::byte* data = nullptr;
  int64_t bytes = 0;
};
/// Large enough that a product of part of the outputs fills a card, small enough that most of what is written
/// is still in the second-level cache when it is read.
inline constexpr int64_t expanded_bytes = int64_t{64} << 20;
/// Rows of a weight that are expanded together: scales of FP8 belong to as many.
inline constexpr int expanded_step = 128;
/// Of more rows than this weights that are not bf16 are expanded.
inline constexpr int narrow_rows_max = 64;

/// Several products of the same rows.
inline constexpr int products_max = 3;
class Blas;
struct GemmCall {
  Product products[products_max];
  int count = 0;
  Rows in;
  /// Not `in` is read, but the rows that this norm would leave there (takes_norm says whether that can be).
  /// They are left there too if others read them.
  const Norm* norm = nullptr;
  bool keeps_norm = false;
  /// `in` is the first half of this norm's.
  const NormHalves* halved = nullptr;
  /// The first half is to be left of what the product adds to; where it is, `tiles` is set.
  NormHalves* halves = nullptr;
  RowRange rows;
  const Visits* visits = nullptr;  // then `rows` is not looked at
  int tile_rows = 0;               // of the visits' tiles
  GemmKind kind = GemmKind::few_rows;
  /// Computes many rows of bf16, if it is there. All of rows.max are computed, those behind the last too.
  Blas* blas = nullptr;
  Expanded expanded;  // for that
};
void multiply(const GemmCall& call, cudaStream_t stream);
/// silu(gate) ⊙ up of a call's two products, into `gated` at once. False: there is no kernel for that.
bool multiply_gated(const GemmCall& call, const Rows& gated, cudaStream_t stream);
/// Whether a call's rows can be normalised as its products read them. The bits are not those of the norm
/// alone: each value is rounded before it is divided by the root.
bool takes_norm(const GemmCall& call);
/// Whether a call's products can read the first half of a norm.
bool takes_half(const GemmCall& call);
/// Whether products with such a weight are streamed (gemm_stream.hpp) where rows are few: then the visits'
/// tiles may have its heights.
bool streams(const Matrix& weight, Activations activations);

/// A product for each head with its own rows of a matrix: those of head h begin at h · row_stride +
/// row_first.
struct HeadProduct {
  Matrix weight;
  int heads = 0, row_stride = 0, row_first = 0, rows_of_head = 0;
  const void* in = nullptr;  // of a row and a head: in + row · in_pitch + head · in_head
  Activations in_type = Activations::f32;
  int64_t in_pitch = 0, in_head = 0;
  void* out = nullptr;
  Activations out_type = Activations::f32;
  int64_t out_pitch = 0, out_head = 0;
  RowRange rows;
  bool rounds = false;  // the activations may be rounded to bf16
};
/// out[o] = Σ weight[o][c] · in[c]
void multiply_heads(const HeadProduct& product, cudaStream_t stream);
/// out[c] = Σ weight[i][c] · in[i], in float32
void multiply_heads_transposed(const HeadProduct& product, cudaStream_t stream);
/// Columns of a head's matrix, or rows where it is transposed, that these two take.
inline constexpr int head_columns_max = 512;

}  // namespace convoy::cuda
