// The same arithmetic in plain C++, one lane after the other: what the vector kernels are tested against, and
// how to read them. Much too slow for anything else. The operations that unrolled kernels use most are calls:
// sixteen lanes inlined everywhere would compile for minutes.

#include <cmath>
#include <cstring>

#include "gpu/cpu/kernels.hpp"

namespace convoy::gpu {

namespace {

struct Vf {
  float v[16];
};
struct Vi {
  int32_t v[16];
};
struct Vw {
  uint8_t v[16][4];
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

constexpr int row_tile = 4, rows_at_once = 4;
constexpr int tiles_together = 1;
constexpr int float_outputs = 2, float_rows = 2;
constexpr int strips_together = 1;
constexpr int value_strips = 1;  // times 16 dimensions
constexpr int query_tile = 2;
constexpr int64_t prefetch_bytes = 0;

void leave_upper_lanes() {}
constexpr bool widens_beside_products() { return false; }

float widen(float x) { return x; }
float widen(Half x) { return model::f16_to_f32(x.bits); }
float widen(Bfloat x) { return model::bf16_to_f32(x.bits); }
constexpr float float8_unit = 1;
float widen(Float8 x) { return model::f8_e4m3_to_f32(x.bits); }
float widen(Int8 x) { return x.value; }

template <class F>
Vf each(F f) {
  Vf out;
  for (int l = 0; l < 16; ++l) out.v[l] = f(l);
  return out;
}
template <class F>
Vi each_int(F f) {
  Vi out;
  for (int l = 0; l < 16; ++l) out.v[l] = f(l);
  return out;
}

[[gnu::noinline]] Vf splat(float x) {
  return each([&](int) { return x; });
}
template <class T>
[[gnu::noinline]] Vf load_part(const T* p, int64_t n) {
  T values[16] = {};
  std::memcpy(values, p, static_cast<size_t>(n) * sizeof(T));  // a checkpoint need not align them
  return each([&](int l) { return widen(values[l]); });
}
template <class T>
Vf load(const T* p) {
  return load_part(p, 16);
}
void store_part(float* p, Vf x, int64_t n) { std::memcpy(p, x.v, static_cast<size_t>(n) * sizeof(float)); }
void store(float* p, Vf x) { store_part(p, x, 16); }
Vf keep(Vf x, int64_t n, float other) {
  return each([&](int l) { return l < n ? x.v[l] : other; });
}
[[gnu::noinline]] Vf add(Vf a, Vf b) {
  return each([&](int l) { return a.v[l] + b.v[l]; });
}
Vf sub(Vf a, Vf b) {
  return each([&](int l) { return a.v[l] - b.v[l]; });
}
[[gnu::noinline]] Vf mul(Vf a, Vf b) {
  return each([&](int l) { return a.v[l] * b.v[l]; });
}
Vf divide(Vf a, Vf b) {
  return each([&](int l) { return a.v[l] / b.v[l]; });
}
[[gnu::noinline]] Vf fma(Vf a, Vf b, Vf c) {
  return each([&](int l) { return std::fma(a.v[l], b.v[l], c.v[l]); });
}
Vf vmax(Vf a, Vf b) {
  return each([&](int l) { return a.v[l] > b.v[l] ? a.v[l] : b.v[l]; });
}
Vf vmin(Vf a, Vf b) {
  return each([&](int l) { return a.v[l] < b.v[l] ? a.v[l] : b.v[l]; });
}
Vf vabs(Vf a) {
  return each([&](int l) { return std::fabs(a.v[l]); });
}
[[gnu::noinline]] float sum_lanes(Vf a) {
  for (int half = 8; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) a.v[l] += a.v[l + half];
  }
  return a.v[0];
}
float max_lanes(Vf a) {
  float largest = a.v[0];
  for (float x : a.v) largest = largest > x ? largest : x;
  return largest;
}
int32_t sum_lanes(Vi a) {
  uint32_t sum = 0;  // wraps, as vectors do: a row with a NaN sums INT32_MIN and is poisoned anyway
  for (int32_t x : a.v) sum += static_cast<uint32_t>(x);
  return static_cast<int32_t>(sum);
}
[[gnu::noinline]] Vi splat_int(int32_t x) {
  return each_int([&](int) { return x; });
}
Vi add_upper_half(Vi a, Vi b) {
  return each_int([&](int l) {
    return static_cast<int32_t>(static_cast<uint32_t>(a.v[l]) + (static_cast<uint32_t>(b.v[l]) << 16));
  });
}
[[gnu::noinline]] Vf to_float(Vi a) {
  return each([&](int l) { return static_cast<float>(a.v[l]); });
}
/// To the nearest, ties to even; what does not fit is the lowest integer.
Vi round_to_int(Vf a) {
  return each_int([&](int l) {
    const float x = std::nearbyint(a.v[l]);
    return std::fabs(x) < 2147483648.f ? static_cast<int32_t>(x) : INT32_MIN;
  });
}
Vf power_of_two(Vi n) {
  return each([&](int l) {
    const uint32_t bits = (static_cast<uint32_t>(n.v[l]) + 127) << 23;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
  });
}
void store_int8(int8_t* p, Vi x) {
  for (int l = 0; l < 16; ++l) p[l] = static_cast<int8_t>(x.v[l] < -128 ? -128 : x.v[l] > 127 ? 127 : x.v[l]);
}

[[gnu::noinline]] Vi dot(Vi sum, Vw w, const int8_t* x) {
  return each_int([&](int l) {
    int32_t s = sum.v[l];
    for (int i = 0; i < 4; ++i) s += w.v[l][i] * x[i];
    return s;
  });
}
constexpr int32_t signed_offset = 0;
Vw prepare_signed(Vw x) { return x; }
[[gnu::noinline]] Vi dot_signed(Vi sum, Vw w, const int8_t* x) {
  return each_int([&](int l) {
    int32_t s = sum.v[l];
    for (int i = 0; i < 4; ++i) s += static_cast<int8_t>(w.v[l][i]) * x[i];
    return s;
  });
}
/// Adds the products of `steps` times four columns of weights and of R rows of activations.
template <int weight_max, int steps, int R>
void add_products(const Vw* const (&tiles)[1], const int8_t* x, int64_t stride, Vi (&sums)[1][R]) {
  const Vw* const w = tiles[0];
  Vi(&sum)[R] = sums[0];
  for (int t = 0; t < steps; ++t) {
    for (int r = 0; r < R; ++r) {
      const int8_t* four = x + r * stride + 4 * t;
      sum[r] = weight_max == 0 ? dot_signed(sum[r], w[t], four) : dot(sum[r], w[t], four);
    }
  }
}
Vi as_ints(Vw x) {
  Vi out;
  std::memcpy(&out, &x, sizeof out);
  return out;
}
template <class F>
Vw each_byte(Vw a, F f) {
  for (auto& lane : a.v) {
    for (uint8_t& byte : lane) byte = static_cast<uint8_t>(f(byte));
  }
  return a;
}
/// Each byte moved to the right, or to the left if negative; mask leaves nothing of the byte beside it.
template <int right, int mask>
[[gnu::noinline]] Vw bits(Vw a) {
  return each_byte(a, [](uint8_t byte) { return (right < 0 ? byte << -right : byte >> right) & mask; });
}
[[gnu::noinline]] Vw merge(Vw a, Vw b) {
  for (int l = 0; l < 16; ++l) {
    for (int i = 0; i < 4; ++i) a.v[l][i] |= b.v[l][i];
  }
  return a;
}
[[gnu::noinline]] Vw lookup(Vw index, const int8_t* table) {
  return each_byte(index, [&](uint8_t i) { return table[i]; });
}
[[gnu::noinline]] Vf byte_at(Vw a, int i) {
  return each([&](int l) { return static_cast<float>(a.v[l][i]); });
}
[[gnu::noinline]] Vf signed_byte_at(Vw a, int i) {
  return each([&](int l) { return static_cast<float>(static_cast<int8_t>(a.v[l][i])); });
}
[[gnu::noinline]] Vf half_low(Vi a) {
  return each([&](int l) { return model::f16_to_f32(static_cast<uint16_t>(a.v[l])); });
}
[[gnu::noinline]] Vf half_high(Vi a) {
  return each(
      [&](int l) { return model::f16_to_f32(static_cast<uint16_t>(static_cast<uint32_t>(a.v[l]) >> 16)); });
}

[[gnu::noinline]] Vw load_dwords(const std::byte* p) {
  Vw out;
  std::memcpy(&out, p, sizeof out);
  return out;
}

#include "gpu/cpu/kernels.inl"

constexpr KernelTable table = make_table("scalar");

}  // namespace

const KernelTable& scalar_kernels() { return table; }

}  // namespace convoy::gpu
