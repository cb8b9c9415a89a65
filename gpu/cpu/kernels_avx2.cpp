// The kernels for AVX2 with FMA and F16C: a lane type is two registers.

#include <immintrin.h>

#include "gpu/cpu/kernels.hpp"

namespace convoy::gpu {

namespace {

struct Vf {
  __m256 a, b;
};  // lanes 0–7, 8–15
struct Vi {
  __m256i a, b;
};
struct Vw {
  __m256i a, b;
};
struct Half {
  uint16_t bits;
};
struct Bfloat {
  uint16_t bits;
};
struct Float8 {
  uint8_t bits;
};
struct Int8 {
  int8_t value;
};

constexpr int row_tile = 4;  // rows of activations whose sums are in registers
constexpr int rows_at_once = 4;
constexpr int tiles_together = 1;  // of weights, once they are unpacked
constexpr int float_outputs = 2, float_rows = 2;
constexpr int strips_together = 2;  // times 16 keys at once in attention
constexpr int value_strips = 2;     // times 16 dimensions
constexpr int query_tile = 3;       // queries that share the keys in registers
constexpr int64_t prefetch_bytes =
    12288;  // how far ahead weights are fetched: DRAM latency times bandwidth, and some

void leave_upper_lanes() { _mm256_zeroupper(); }
/// Not measured here: what is widened is kept.
constexpr bool widens_beside_products() { return false; }

Vf splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
Vf load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
Vf load(const Half* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
Vf load(const Bfloat* p) {
  const auto widen = [](const Bfloat* from) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  };
  return {widen(p), widen(p + 8)};
}
/// What load() leaves of an 8-bit float: as half precision with the same bits the number is 2^-8 of its own,
/// down to the subnormal ones. Its scale brings the rest.
constexpr float float8_unit = 256;
Vf load(const Float8* p) {
  const __m256i bits = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i low = _mm256_set1_epi16(0x7f), magnitude = _mm256_and_si256(bits, low);
  const __m256i half = _mm256_blendv_epi8(_mm256_slli_epi16(magnitude, 7), _mm256_set1_epi16(0x7e00),
                                          _mm256_cmpeq_epi16(magnitude, low));  // NaN
  const __m256i number = _mm256_or_si256(half, _mm256_slli_epi16(_mm256_andnot_si256(low, bits), 8));
  return {_mm256_cvtph_ps(_mm256_castsi256_si128(number)),
          _mm256_cvtph_ps(_mm256_extracti128_si256(number, 1))};
}
Vf load(const Int8* p) {
  const auto widen = [](const Int8* from) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
  };
  return {widen(p), widen(p + 8)};
}
/// The first n of 16 elements, zeros for the rest.
template <class T>
Vf load_part(const T* p, int64_t n) {
  alignas(32) T padded[16] = {};
  __builtin_memcpy(padded, p, static_cast<size_t>(n) * sizeof(T));
  return load(padded);
}
void store(float* p, Vf x) { _mm256_storeu_ps(p, x.a), _mm256_storeu_ps(p + 8, x.b); }
void store_part(float* p, Vf x, int64_t n) {
  alignas(32) float whole[16];
  store(whole, x);
  __builtin_memcpy(p, whole, static_cast<size_t>(n) * sizeof(float));
}
Vf keep(Vf x, int64_t n, float other) {
  alignas(32) float whole[16];
  store(whole, x);
  for (int64_t i = n; i < 16; ++i) whole[i] = other;
  return load(whole);
}
Vf add(Vf x, Vf y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
Vf sub(Vf x, Vf y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
Vf mul(Vf x, Vf y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
Vf divide(Vf x, Vf y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
Vf fma(Vf x, Vf y, Vf z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
Vf vmax(Vf x, Vf y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
Vf vmin(Vf x, Vf y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
Vf vabs(Vf x) {
  const __m256 sign = _mm256_set1_ps(-0.f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
float sum_lanes(Vf x) {
  const __m256 b = _mm256_add_ps(x.a, x.b);
  const __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  const __m128 d = _mm_add_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_add_ss(d, _mm_shuffle_ps(d, d, 1)));
}
float max_lanes(Vf x) {
  const __m256 b = _mm256_max_ps(x.a, x.b);
  const __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  const __m128 d = _mm_max_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_max_ss(d, _mm_shuffle_ps(d, d, 1)));
}
int32_t sum_lanes(Vi x) {
  const __m256i b = _mm256_add_epi32(x.a, x.b);
  const __m128i c = _mm_add_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
  const __m128i d = _mm_add_epi32(c, _mm_unpackhi_epi64(c, c));
  return _mm_cvtsi128_si32(_mm_add_epi32(d, _mm_shuffle_epi32(d, 1)));
}
Vi splat_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
Vi add(Vi x, Vi y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
/// x + 65536 · y, which wraps.
Vi add_upper_half(Vi x, Vi y) { return add(x, {_mm256_slli_epi32(y.a, 16), _mm256_slli_epi32(y.b, 16)}); }
Vf to_float(Vi x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
Vi round_to_int(Vf x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
Vf power_of_two(Vi n) {
  const __m256i bias = _mm256_set1_epi32(127);
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n.a, bias), 23)),
          _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n.b, bias), 23))};
}
/// Lanes 0–15 in order, from packs that work on each half of a register.
__m256i pack_in_order(__m256i x) { return _mm256_permute4x64_epi64(x, 0xd8); }
void store_int8(int8_t* p, Vi x) {
  const __m256i shorts = pack_in_order(_mm256_packs_epi32(x.a, x.b));
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(shorts), _mm256_extracti128_si256(shorts, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

__m256i four_everywhere(const int8_t* x) {
  int32_t four;
  __builtin_memcpy(&four, x, 4);
  return _mm256_set1_epi32(four);
}
/// How many sums of two products of weights up to weight_max and activations down to -128 fit into 16 bits.
/// Of signed weights, |w| times x with the sign of w, one does.
constexpr int narrow_steps(int weight_max) { return weight_max == 0 ? 1 : 32767 / (2 * 128 * weight_max); }
template <int weight_max>
__m256i two_products(__m256i w, __m256i x) {
  return weight_max == 0 ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
                         : _mm256_maddubs_epi16(w, x);
}
/// Adds the products of `steps` times four columns of weights and of R rows of activations. As many as fit
/// are added in 16 bits first.
template <int weight_max, int steps, int R>
[[gnu::always_inline]] inline void add_products(const Vw* const (&tiles)[1], const int8_t* x, int64_t stride,
                                                Vi (&sums)[1][R]) {
  const Vw* const w = tiles[0];
  Vi(&sum)[R] = sums[0];
  constexpr int fit = narrow_steps(weight_max), narrow = fit < steps ? fit : steps;
  static_assert(steps % narrow == 0);
  const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 8
  for (int from = 0; from < steps; from += narrow) {
    __m256i a[R], b[R];
#pragma GCC unroll 8
    for (int t = from; t < from + narrow; ++t) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m256i v = four_everywhere(x + r * stride + 4 * t);
        const __m256i low = two_products<weight_max>(w[t].a, v), high = two_products<weight_max>(w[t].b, v);
        a[r] = t == from ? low : _mm256_add_epi16(a[r], low);
        b[r] = t == from ? high : _mm256_add_epi16(b[r], high);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      sum[r].a = _mm256_add_epi32(sum[r].a, _mm256_madd_epi16(a[r], ones));
      sum[r].b = _mm256_add_epi32(sum[r].b, _mm256_madd_epi16(b[r], ones));
    }
  }
}
constexpr int32_t signed_offset = 0;
Vw prepare_signed(Vw x) { return x; }
Vi as_ints(Vw x) { return {x.a, x.b}; }
/// Each byte moved to the right, or to the left if negative; mask leaves nothing of the byte beside it.
template <int right, int mask>
__m256i bits_half(__m256i x) {
  if constexpr (right > 0) x = _mm256_srli_epi16(x, right);
  if constexpr (right < 0) x = _mm256_slli_epi16(x, -right);
  return _mm256_and_si256(x, _mm256_set1_epi8(mask));
}
template <int right, int mask>
Vw bits(Vw x) {
  return {bits_half<right, mask>(x.a), bits_half<right, mask>(x.b)};
}
Vw merge(Vw x, Vw y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
Vw lookup(Vw index, const int8_t* table) {
  const __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
  return {_mm256_shuffle_epi8(t, index.a), _mm256_shuffle_epi8(t, index.b)};
}
/// Byte i of each lane.
Vf byte_at(Vw x, int i) {
  const __m256i shift = _mm256_set1_epi32(8 * i), mask = _mm256_set1_epi32(255);
  return to_float(Vi{_mm256_and_si256(_mm256_srlv_epi32(x.a, shift), mask),
                     _mm256_and_si256(_mm256_srlv_epi32(x.b, shift), mask)});
}
Vf signed_byte_at(Vw x, int i) {
  const __m256i shift = _mm256_set1_epi32(24 - 8 * i);
  return to_float(Vi{_mm256_srai_epi32(_mm256_sllv_epi32(x.a, shift), 24),
                     _mm256_srai_epi32(_mm256_sllv_epi32(x.b, shift), 24)});
}
Vf halves(__m256i a, __m256i b) {
  const __m256i shorts = pack_in_order(_mm256_packus_epi32(a, b));
  return {_mm256_cvtph_ps(_mm256_castsi256_si128(shorts)),
          _mm256_cvtph_ps(_mm256_extracti128_si256(shorts, 1))};
}
Vf half_low(Vi x) {
  const __m256i mask = _mm256_set1_epi32(0xffff);
  return halves(_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask));
}
Vf half_high(Vi x) { return halves(_mm256_srli_epi32(x.a, 16), _mm256_srli_epi32(x.b, 16)); }

[[gnu::always_inline]] inline Vw load_dwords(const std::byte* p) {
  const auto* from = reinterpret_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(from), _mm256_loadu_si256(from + 1)};
}

#include "gpu/cpu/kernels.inl"

constexpr KernelTable table = make_table("avx2");

}  // namespace

const KernelTable& avx2_kernels() { return table; }

}  // namespace convoy::gpu
