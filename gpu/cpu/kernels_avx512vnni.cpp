// The kernels for AVX-512 with VNNI: a lane type is one register.

#include <immintrin.h>

#include "gpu/cpu/kernels.hpp"

namespace convoy::gpu {

namespace {

struct Vf {
  __m512 v;
};
struct Vi {
  __m512i v;
};
struct Vw {
  __m512i v;
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

constexpr int row_tile = 6;      // rows of activations whose sums are in registers
constexpr int rows_at_once = 9;  // so many with one tile of weights, unpacked into registers too
constexpr int tiles_together =
    2;  // of weights, once they are unpacked: each activation is loaded once for them
constexpr int float_outputs = 4, float_rows = 4;
constexpr int strips_together = 4;  // times 16 keys at once in attention
constexpr int value_strips = 4;     // times 16 dimensions
constexpr int query_tile = 6;       // queries that share the keys in registers
constexpr int64_t prefetch_bytes =
    12288;  // how far ahead weights are fetched: DRAM latency times bandwidth, and some

__mmask16 first_lanes(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }

/// AMD's processors widen 16 bits by units that products leave idle, so that keeping what is widened, twice
/// the bytes to read, only costs.
bool widens_beside_products() { return __builtin_cpu_is("amd"); }

void leave_upper_lanes() { _mm256_zeroupper(); }

Vf splat(float x) { return {_mm512_set1_ps(x)}; }
Vf load(const float* p) { return {_mm512_loadu_ps(p)}; }
Vf load(const Half* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}; }
Vf widen_bfloat(__m256i bits) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
Vf load(const Bfloat* p) { return widen_bfloat(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
/// What load() leaves of an 8-bit float: as half precision with the same bits the number is 2^-8 of its own,
/// down to the subnormal ones. Its scale brings the rest.
constexpr float float8_unit = 256;
Vf widen_float8(__m128i bytes) {
  const __m128i magnitudes = _mm_or_si128(bytes, _mm_set1_epi8(-128));
  const __mmask16 numbers = _mm_cmpneq_epi8_mask(magnitudes, _mm_set1_epi8(-1));
  // With its sign in bits 7 to 15; of the two that the shift leaves, the lower one is none.
  const __m256i bits = _mm256_and_si256(_mm256_cvtepi8_epi16(bytes), _mm256_set1_epi16(~0x80));
  return {_mm512_cvtph_ps(_mm256_mask_slli_epi16(_mm256_set1_epi16(0x7e00), numbers, bits, 7))};
}
Vf load(const Float8* p) { return widen_float8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
Vf load_part(const Float8* p, int64_t n) { return widen_float8(_mm_maskz_loadu_epi8(first_lanes(n), p)); }
Vf widen_int8(__m128i bytes) { return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))}; }
Vf load(const Int8* p) { return widen_int8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
Vf load_part(const Int8* p, int64_t n) { return widen_int8(_mm_maskz_loadu_epi8(first_lanes(n), p)); }
Vf load_part(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(first_lanes(n), p)}; }
Vf load_part(const Half* p, int64_t n) {
  return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(n), p))};
}
Vf load_part(const Bfloat* p, int64_t n) { return widen_bfloat(_mm256_maskz_loadu_epi16(first_lanes(n), p)); }
void store(float* p, Vf x) { _mm512_storeu_ps(p, x.v); }
void store_part(float* p, Vf x, int64_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), x.v); }
Vf keep(Vf x, int64_t n, float other) {
  return {_mm512_mask_blend_ps(first_lanes(n), _mm512_set1_ps(other), x.v)};
}
Vf add(Vf a, Vf b) { return {_mm512_add_ps(a.v, b.v)}; }
Vf sub(Vf a, Vf b) { return {_mm512_sub_ps(a.v, b.v)}; }
Vf mul(Vf a, Vf b) { return {_mm512_mul_ps(a.v, b.v)}; }
Vf divide(Vf a, Vf b) { return {_mm512_div_ps(a.v, b.v)}; }
Vf fma(Vf a, Vf b, Vf c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
Vf vmax(Vf a, Vf b) { return {_mm512_max_ps(a.v, b.v)}; }
Vf vmin(Vf a, Vf b) { return {_mm512_min_ps(a.v, b.v)}; }
Vf vabs(Vf a) { return {_mm512_abs_ps(a.v)}; }
float sum_lanes(Vf a) {
  const __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  const __m128 d = _mm_add_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_add_ss(d, _mm_shuffle_ps(d, d, 1)));
}
float max_lanes(Vf a) { return _mm512_reduce_max_ps(a.v); }
/// Not _mm512_reduce_add_epi32: GCC's header adds signed vectors there, and sums may wrap (rows with a NaN).
int32_t sum_lanes(Vi a) {
  const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(a.v), _mm512_extracti64x4_epi64(a.v, 1));
  __m128i quarter = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
  quarter = _mm_add_epi32(quarter, _mm_shuffle_epi32(quarter, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(quarter, _mm_shuffle_epi32(quarter, 0xb1)));
}
Vi splat_int(int32_t x) { return {_mm512_set1_epi32(x)}; }
Vi add(Vi a, Vi b) { return {_mm512_add_epi32(a.v, b.v)}; }
/// a + 65536 · b, which wraps.
Vi add_upper_half(Vi a, Vi b) { return add(a, {_mm512_slli_epi32(b.v, 16)}); }
Vf to_float(Vi a) { return {_mm512_cvtepi32_ps(a.v)}; }
Vi round_to_int(Vf a) { return {_mm512_cvtps_epi32(a.v)}; }
Vf power_of_two(Vi n) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n.v, _mm512_set1_epi32(127)), 23))};
}
void store_int8(int8_t* p, Vi x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(x.v));
}

Vw four_everywhere(const int8_t* x) {
  int32_t four;
  __builtin_memcpy(&four, x, 4);
  return {_mm512_set1_epi32(four)};
}
Vi dot(Vi sum, Vw w, Vw x) { return {_mm512_dpbusd_epi32(sum.v, w.v, x.v)}; }
/// The instruction takes unsigned weights: signed ones are moved up by 128, which the sum starts with taking
/// off.
constexpr int32_t signed_offset = 128;
Vw prepare_signed(Vw a) { return {_mm512_xor_si512(a.v, _mm512_set1_epi8(-128))}; }
/// Adds the products of `steps` times four columns of T tiles of weights and of R rows of activations.
template <int weight_max, int steps, int T, int R>
[[gnu::always_inline]] inline void add_products(const Vw* const (&w)[T], const int8_t* x, int64_t stride,
                                                Vi (&sum)[T][R]) {
#pragma GCC unroll 16
  for (int t = 0; t < steps; ++t) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vw four = four_everywhere(x + r * stride + 4 * t);
#pragma GCC unroll 2
      for (int i = 0; i < T; ++i) sum[i][r] = dot(sum[i][r], w[i][t], four);
    }
  }
}
Vi as_ints(Vw x) { return {x.v}; }
/// Each byte moved to the right, or to the left if negative; mask leaves nothing of the byte beside it.
template <int right, int mask>
Vw bits(Vw a) {
  if constexpr (right > 0) a.v = _mm512_srli_epi16(a.v, right);
  if constexpr (right < 0) a.v = _mm512_slli_epi16(a.v, -right);
  return {_mm512_and_si512(a.v, _mm512_set1_epi8(mask))};
}
Vw merge(Vw a, Vw b) { return {_mm512_or_si512(a.v, b.v)}; }
Vw lookup(Vw index, const int8_t* table) {
  const __m128i t = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
  return {_mm512_shuffle_epi8(_mm512_broadcast_i32x4(t), index.v)};
}
/// Byte i of each lane.
Vf byte_at(Vw a, int i) {
  const __m512i byte = _mm512_srlv_epi32(a.v, _mm512_set1_epi32(8 * i));
  return to_float(Vi{_mm512_and_si512(byte, _mm512_set1_epi32(255))});
}
Vf signed_byte_at(Vw a, int i) {
  return to_float(Vi{_mm512_srai_epi32(_mm512_sllv_epi32(a.v, _mm512_set1_epi32(24 - 8 * i)), 24)});
}
Vf half_low(Vi a) { return {_mm512_cvtph_ps(_mm512_cvtepi32_epi16(a.v))}; }
Vf half_high(Vi a) { return {_mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(a.v, 16)))}; }

[[gnu::always_inline]] inline Vw load_dwords(const std::byte* p) { return {_mm512_loadu_si512(p)}; }

#include "gpu/cpu/kernels.inl"

constexpr KernelTable table = make_table("avx512vnni");

}  // namespace

const KernelTable& avx512vnni_kernels() { return table; }

}  // namespace convoy::gpu
