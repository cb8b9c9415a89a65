// The kernels of one instruction set, written once over its 16 lanes. Included by kernels_*.cpp inside an
// anonymous namespace after the lane types: code compiled for one instruction set must not be merged with
// another's by the linker, so nothing here may call an inline function that is visible outside, unless it is
// always inlined.
//
// Lane types:  Vf 16 float32 · Vi 16 int32 · Vw 64 bytes, 4 of each lane
// An operation here means the same bits in every instruction set: fma rounds once, max and min take the
// second operand when one is NaN, sum_lanes adds halves (l and l + 8, l and l + 4, …).

constexpr int64_t lanes = 16;
constexpr int64_t block_values = 32;

/// Into the second cache: tiles of wide matrices, and what other rows of the tile still need, fill the first.
[[gnu::always_inline]] inline void fetch_line(const std::byte* p) { __builtin_prefetch(p, 0, 2); }

/// Fetches the lines of `size` bytes; nothing from nullptr.
template <int64_t size>
[[gnu::always_inline]] inline void prefetch(const std::byte* p) {
  if (!p) return;
#pragma GCC unroll 32
  for (int64_t at = 0; at < size; at += 64) fetch_line(p + at);
}

#include "gpu/cpu/kernels_rows.inl"

#include "gpu/cpu/kernels_blocks.inl"

#include "gpu/cpu/kernels_quantized.inl"

#include "gpu/cpu/kernels_float.inl"

#include "gpu/cpu/kernels_attention.inl"

#include "gpu/cpu/kernels_latent.inl"

void linear(const Product& p, int64_t first, int64_t last, const Activations& x, std::byte* scratch) {
  switch (p.type) {
    case model::DType::q4_1:
      return linear_quantized<Q41>(p, first, last, x, scratch);
    case model::DType::q4_0:
      return linear_quantized<Q40>(p, first, last, x, scratch);
    case model::DType::q8_0:
      return linear_quantized<Q80>(p, first, last, x, scratch);
    case model::DType::iq4_nl:
      return linear_quantized<Iq4Nl>(p, first, last, x, scratch);
    case model::DType::q4_k:
      return linear_quantized<Q4K>(p, first, last, x, scratch);
    case model::DType::q5_k:
      return linear_quantized<Q5K>(p, first, last, x, scratch);
    case model::DType::q6_k:
      return linear_quantized<Q6K>(p, first, last, x, scratch);
    case model::DType::f32:
      return linear_float<float>(p, first, last, x, scratch);
    case model::DType::f16:
      return linear_float<Half>(p, first, last, x, scratch);
    case model::DType::bf16:
      return linear_float<Bfloat>(p, first, last, x, scratch);
    case model::DType::f8_e4m3:
      return linear_float<Float8>(p, first, last, x, scratch);
    case model::DType::i8:
      return linear_float<Int8>(p, first, last, x, scratch);
    case model::DType::i64:
      break;
  }
  __builtin_abort();  // FastBackend::adopt let no other type in
}

/// What a table holds: the kernel, and then no lanes in use that code of older instruction sets does not
/// know. It would wait for them at every instruction: sampling took three times as long. The compiler takes
/// care of it only where it sees those lanes used.
template <auto kernel>
struct Entry;
template <class... Arguments, void (*kernel)(Arguments...)>
struct Entry<kernel> {
  static void call(Arguments... arguments) {
    kernel(arguments...);
    leave_upper_lanes();
  }
};

constexpr KernelTable make_table(const char* name) {
  return {name,
          Entry<quantize_row>::call,
          Entry<linear>::call,
          Entry<add_norm>::call,
          Entry<attention>::call,
          Entry<linear_transposed>::call,
          Entry<latent_attention>::call};
}
