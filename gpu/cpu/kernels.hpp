#pragma once
// The inner loops of the fast CPU backend, as a table of functions per instruction set. All tables do the
// same arithmetic in the same order on the same 16 lanes, so they agree bit for bit; scalar_kernels() is its
// readable form. FastBackend calls them, from the threads of its pool.
//
// Products with quantised weights: activations are quantised per block of 32 along the row (x ≈ d·q, q in
// −127…127), a block's product is exact in integers, and blocks are added in float32 from left to right:
//   acc = fma(float(Σ q_w·q_x), d_w·d_x, acc), and with a minimum then acc = fma(m_w, d_x·Σ q_x, acc).
// A block of q4_k, q5_k and q6_k is one of its parts of 32, d_w and m_w its scale and minimum; q6_k has two
// scales in it and adds two halves.
// Products with float weights: lane l of 16 adds columns l, l + 16, … ; the lanes are added as a fixed tree.
// Weights of 8 bits with scales are multiplied by theirs first: they give the bits of their float32 values.

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "gpu/cpu/packed.hpp"
#include "gpu/kv_block.hpp"
#include "model/tensor.hpp"

namespace convoy::gpu {

/// Rows of activations, as float and, if quantised, as blocks of 32: b = columns / 32 blocks a row.
struct Activations {
  const float* values = nullptr;  // [rows, columns]
  int8_t* q = nullptr;            // [rows, columns]
  float* d = nullptr;             // [rows, b] scale; NaN of the first if the row holds one, or an infinity
  float* s = nullptr;             // [rows, b] d · Σ q
  int32_t* sum = nullptr;         // [rows, b] Σ q
  int32_t* sum_low = nullptr;     // [rows, b] Σ of the first 16 q
  int32_t* sum_high = nullptr;    // [rows, b] Σ of the last 16 q
  int64_t rows = 0, columns = 0;
};

/// A weight matrix and where its products go.
struct Product {
  model::DType type = model::DType::f32;
  const std::byte* weights = nullptr;  // [outputs, columns]: quantised ones packed, others as stored
  const std::byte* scales = nullptr;   // of f8_e4m3 and i8, as model::Tensor has them; nullptr: all 1
  int64_t row_bytes = 0;
  int64_t outputs = 0;
  const float* bias = nullptr;  // [outputs] or nullptr
  float* out = nullptr;         // [rows, outputs]
  bool gate = false;            // out = silu(out) · (product + bias) instead of out = product + bias
  // With few rows, the memory's latency counts: whose beginning is fetched at the end, and whether ours has
  // been.
  const std::byte* next = nullptr;
  bool fetched = false;
};

/// Attention goes through a head's values in registers of up to so many.
inline constexpr int64_t attention_values_step = 16;

/// The queries of some rows that share a key head, and their keys' blocks.
struct AttentionTask {
  const float* q = nullptr;  // first query: query i is head i % group of row i / group
  float* out = nullptr;
  int64_t row_stride = 0;      // floats from one row of q (and of out) to the next
  int64_t group = 0;           // query heads that are compared with the key head
  int64_t queries = 0;         // rows · group
  int64_t first_position = 0;  // of the first row
  int64_t head_dim = 0;        // a multiple of attention_values_step
  float scale = 0;
  const uint32_t* blocks = nullptr;       // block table of the sequence
  model::DType type = model::DType::f32;  // of keys and values: one of kv_types
  const void* keys = nullptr;             // of the key head in block 0: [4 strips, head_dim, 16 tokens]
  const void* values = nullptr;           // of the key head in block 0: [64 tokens, head_dim]
  int64_t width = 0;                      // of all key heads
  float* scores = nullptr;                // scratch: [queries, keys rounded up to whole blocks]
  float* inverse = nullptr;               // scratch: [queries]
  // Whose first keys are fetched at the end, of the same type and head_dim, and whether ours have been.
  const AttentionTask* next = nullptr;
  bool fetched = false;
};

/// out[r] = Σ over i of x[r][i] · weights[i]: a matrix from its other side.
struct TransposedProduct {
  model::DType type = model::DType::f32;  // of plain types, or q8_0
  const std::byte* weights = nullptr;     // [inputs, columns]: q8_0 packed, from a tile's beginning on
  const std::byte* scales = nullptr;      // as Product's
  int64_t row_bytes = 0;
  int64_t inputs = 0, columns = 0;
  const float* x = nullptr;  // [rows, inputs]
  int64_t rows = 0;
  float* out = nullptr;  // [rows, columns]
  int64_t out_stride = 0;
};

/// Queries that are compared with the same cached entries, all of which they see.
struct LatentTask {
  const float* q = nullptr;  // [queries, width], in the entries' space
  float* out = nullptr;      // [queries, values]
  int64_t q_stride = 0, out_stride = 0;
  int64_t queries = 0, keys = 0;
  int64_t width = 0, values = 0;  // of an entry, and how many of its first are values
  float scale = 0;
  const uint32_t* blocks = nullptr;       // block table of the sequence
  model::DType type = model::DType::f32;  // of entries: one of kv_types
  const void* entries = nullptr;          // in block 0: [64 tokens, width]
  float* scores = nullptr;                // scratch: [queries, score_stride(keys)]
  [[gnu::always_inline]] static constexpr int64_t score_stride(int64_t keys) { return (keys + 15) / 16 * 16; }
};

struct KernelTable {
  const char* name;

  /// Fills q, d, s and the sums of row `row`.
  void (*quantize_row)(const Activations& x, int64_t row);
  /// Outputs [first, last) of all rows of x; first is a multiple of output_tile. scratch:
  /// linear_scratch_bytes(columns).
  void (*linear)(const Product& product, int64_t first, int64_t last, const Activations& x,
                 std::byte* scratch);
  /// x += delta (unless nullptr); h = x / sqrt(mean(x²) + eps) · w (unless nullptr); all [width].
  void (*add_norm)(float* x, const float* delta, const float* w, float eps, float* h, int64_t width);
  /// Softmax of scaled q·k over positions 0 … own, times values.
  void (*attention)(const AttentionTask& task);
  void (*linear_transposed)(const TransposedProduct& product);
  /// Softmax of scaled q·entry over all keys, times the entries' values.
  void (*latent_attention)(const LatentTask& task);
};

/// Whether products with such weights quantise their activations.
inline bool quantized(model::DType type) { return model::info(type).block_values > 1; }

/// What unpacking a tile of quantised weights takes, as rows of activations that are multiplied with it.
inline constexpr int64_t unpacking_rows = 4;

/// Of quantised weights, two tiles unpacked (8 · 64 bytes of weights, scale and minimum of each output for
/// each block of 32 columns); of 16-bit floats, a tile as float32.
inline size_t linear_scratch_bytes(int64_t columns) {
  return static_cast<size_t>((columns + 31) / 32 * 32) *
             std::max<size_t>(2 * 640 / 32, output_tile * sizeof(float)) +
         64;
}

const KernelTable& scalar_kernels();
const KernelTable& avx2_kernels();
const KernelTable& avx512vnni_kernels();

/// What this processor can run of the vector tables, best first; nullptr if none.
const KernelTable* best_kernels();
bool supports_avx2();
bool supports_avx512vnni();

}  // namespace convoy::gpu
