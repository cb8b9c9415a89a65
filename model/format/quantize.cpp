#include "model/format/quantize.hpp"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "model/error.hpp"

namespace convoy::model {

namespace {

constexpr float f16_max = 65504;
constexpr float bf16_max = 0x1.fep127f;
constexpr float f8_e4m3_max = 448;

template <class T>
void store(std::byte* to, T value) {
  std::memcpy(to, &value, sizeof value);
}

[[noreturn]] void refuse(DType type, size_t column, float value) {
  throw InputError(
      "holds " + std::to_string(value) + " in column " + std::to_string(column),
      "a row to write as " + std::string(info(type).name),
      std::isfinite(value) ? "keep this weight in BF16 or F32" : "the checkpoint is damaged; fetch it again");
}

/// Half precision of a scale ≥ 0, upwards: the largest value of a block must not fall outside of its steps.
/// But not for less than float32's own rounding, so that what was encoded once is encoded the same again.
uint16_t scale_up(float scale) {
  const uint16_t nearest = f32_to_f16(scale);
  return static_cast<uint16_t>(nearest + (f16_to_f32(nearest) < scale * (1 - 1e-6f)));
}

/// The step next to x / step, in 0 … last; x / step ≥ 0.
float step_of(float x, float inverse, float last) {
  const float step = x * inverse + 0.5f;
  return static_cast<float>(static_cast<int32_t>(step < last ? step : last));
}
float inverse_of(float step) { return step > 0 ? 1 / step : 0; }

void encode_q8_0(const float* x, std::byte* block) {
  float largest = 0;
  for (int j = 0; j < 32; ++j) largest = std::max(largest, std::fabs(x[j]));
  const uint16_t d = scale_up(largest / 127);
  const float inverse = inverse_of(f16_to_f32(d));
  store(block, d);
  for (int j = 0; j < 32; ++j) {
    const float q = step_of(std::fabs(x[j]), inverse, 127);
    store(block + 2 + j, static_cast<int8_t>(x[j] < 0 ? -q : q));
  }
}

/// Steps −8 … 7: the value of largest magnitude becomes −8, whatever its sign.
void encode_q4_0(const float* x, std::byte* block) {
  float largest = 0;
  for (int j = 0; j < 32; ++j)
    if (std::fabs(x[j]) > std::fabs(largest)) largest = x[j];
  uint16_t d = scale_up(std::fabs(largest) / 8);
  if (largest > 0) d |= 0x8000;
  const float inverse = inverse_of(std::fabs(f16_to_f32(d)));
  const auto q = [&](int j) {
    return static_cast<uint8_t>(step_of((largest > 0 ? -x[j] : x[j]) * inverse + 8, 1, 15));
  };
  store(block, d);
  for (int j = 0; j < 16; ++j) store(block + 2 + j, static_cast<uint8_t>(q(j) | q(j + 16) << 4));
}

void encode_q4_1(const float* x, std::byte* block) {
  const auto [low, high] = std::minmax_element(x, x + 32);
  uint16_t m = f32_to_f16(*low);
  if (f16_to_f32(m) > *low)
    m = *low < 0 ? static_cast<uint16_t>((m | 0x8000) + 1) : static_cast<uint16_t>(m - 1);
  const float minimum = f16_to_f32(m);
  const uint16_t d = scale_up((*high - minimum) / 15);
  const float inverse = inverse_of(f16_to_f32(d));
  const auto q = [&](int j) { return static_cast<uint8_t>(step_of(x[j] - minimum, inverse, 15)); };
  store(block, d);
  store(block + 2, m);
  for (int j = 0; j < 16; ++j) store(block + 4 + j, static_cast<uint8_t>(q(j) | q(j + 16) << 4));
}

// ---- q4_k ----

constexpr int part_values = 32, parts = 8;

/// x ≈ scale · q − minimum, q in 0 … 15
struct Fit {
  float scale = 0, minimum = 0;
};

/// Σ f(i) over a part, as lanes that the compiler can make vectors of.
template <class F>
float sum_of(F f) {
  float lanes[8] = {};
  for (int i = 0; i < part_values; i += 8)
    for (int l = 0; l < 8; ++l) lanes[l] += f(i + l);
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

/// Σ w (scale · q − minimum − x)², q chosen for the fit.
float error_of(const Fit& fit, const float* x, const float* w) {
  const float inverse = inverse_of(fit.scale);
  return sum_of([&](int i) {
    const float shifted = x[i] + fit.minimum;
    const float q = step_of(shifted > 0 ? shifted : 0, inverse, 15);
    const float error = fit.scale * q - shifted;
    return w[i] * error * error;
  });
}

/// Ways to lay 15 steps over the values, from a little wider to a little narrower than their range. Each
/// fixes the q, for which the best scale and minimum are a weighted least-squares line; the best line is the
/// fit.
Fit fit_part(const float* x, const float* w) {
  constexpr int candidates = 11;
  constexpr float steps_min = 14, steps_apart = 0.2f;
  float low = 0, high = x[0];
  for (int i = 0; i < part_values; ++i) low = std::min(low, x[i]), high = std::max(high, x[i]);
  Fit best{0, -low};  // a minimum is never negative
  if (high <= low) return best;
  best.scale = (high - low) / 15;
  float best_error = error_of(best, x, w);

  const float sw = sum_of([&](int i) { return w[i]; }), sx = sum_of([&](int i) { return w[i] * x[i]; });
  for (int c = 0; c < candidates; ++c) {
    const float inverse = (steps_min + steps_apart * static_cast<float>(c)) / (high - low);
    float q[part_values];
    for (int i = 0; i < part_values; ++i) q[i] = step_of(x[i] - low, inverse, 15);
    const float sq = sum_of([&](int i) { return w[i] * q[i]; });
    const float sqq = sum_of([&](int i) { return w[i] * q[i] * q[i]; });
    const float sqx = sum_of([&](int i) { return w[i] * q[i] * x[i]; });
    const float determinant = sw * sqq - sq * sq;
    if (determinant <= 0) continue;
    Fit fit{(sw * sqx - sq * sx) / determinant, (sq * sqx - sqq * sx) / determinant};
    if (fit.minimum < 0) fit = {sqx / sqq, 0};
    const float error = error_of(fit, x, w);
    if (error < best_error) best_error = error, best = fit;
  }
  return best;
}

/// Both as 6 bits: the integers next to the fit, or one beside them where the values come closer.
Fit round_fit(const Fit& fit, float d, float dmin, const float* x, const float* w) {
  const float scale = step_of(fit.scale, inverse_of(d), 63),
              minimum = step_of(fit.minimum, inverse_of(dmin), 63);
  Fit best{scale, minimum};
  float best_error = error_of({d * scale, dmin * minimum}, x, w);
  for (float s = std::max(scale - 1, 0.f); s <= std::min(scale + 1, 63.f); ++s) {
    for (float m = std::max(minimum - 1, 0.f); m <= std::min(minimum + 1, 63.f); ++m) {
      const float error = error_of({d * s, dmin * m}, x, w);
      if (error < best_error) best_error = error, best = {s, m};
    }
  }
  return best;
}

void encode_q4_k(const float* x, std::byte* block) {
  float w[parts * part_values];
  Fit fits[parts];
  Fit largest;
  for (int p = 0; p < parts; ++p) {
    const float* values = x + p * part_values;
    float* weights = w + p * part_values;
    // A large value's error weighs more in a product; the mean keeps small ones from being given up.
    const float mean = sum_of([&](int i) { return std::fabs(values[i]); }) / part_values;
    for (int i = 0; i < part_values; ++i) weights[i] = mean + std::fabs(values[i]);
    fits[p] = fit_part(values, weights);
    largest.scale = std::max(largest.scale, fits[p].scale);
    largest.minimum = std::max(largest.minimum, fits[p].minimum);
  }
  const uint16_t d_bits = f32_to_f16(largest.scale / 63), dmin_bits = f32_to_f16(largest.minimum / 63);
  const float d = f16_to_f32(d_bits), dmin = f16_to_f32(dmin_bits);
  std::memset(block, 0, info(DType::q4_k).block_bytes);
  store(block, d_bits);
  store(block + 2, dmin_bits);
  for (int p = 0; p < parts; ++p) {
    const float* values = x + p * part_values;
    const Fit rounded = round_fit(fits[p], d, dmin, values, w + p * part_values);
    const auto scale = static_cast<unsigned>(rounded.scale), minimum = static_cast<unsigned>(rounded.minimum);
    std::byte* bytes = block + 4 + p % 4;
    if (p < 4) {
      bytes[0] |= std::byte(scale), bytes[4] |= std::byte(minimum);
    } else {
      bytes[0] |= std::byte(scale >> 4 << 6), bytes[4] |= std::byte(minimum >> 4 << 6);
      bytes[8] = std::byte((scale & 15) | (minimum & 15) << 4);
    }
    const float inverse = inverse_of(d * rounded.scale);
    for (int i = 0; i < part_values; ++i) {
      const float shifted = std::max(values[i] + dmin * rounded.minimum, 0.f);
      const auto q = static_cast<unsigned>(step_of(shifted, inverse, 15));
      block[16 + p / 2 * 32 + i] |= std::byte(q << p % 2 * 4);
    }
  }
}

void encode_block(DType type, const float* x, std::byte* block) {
  switch (type) {
    case DType::f32:
      return store(block, *x);
    case DType::f16:
      return store(block, f32_to_f16(*x));
    case DType::bf16:
      return store(block, f32_to_bf16(*x));
    case DType::q8_0:
      return encode_q8_0(x, block);
    case DType::q4_0:
      return encode_q4_0(x, block);
    case DType::q4_1:
      return encode_q4_1(x, block);
    case DType::q4_k:
      return encode_q4_k(x, block);
    default:
      assert(!"can_encode says so");
  }
}

/// What a type holds at most: for a block that scales its values, what its largest step times half
/// precision's largest number gives.
float largest_of(DType type) {
  switch (type) {
    case DType::f16:
      return f16_max;
    case DType::bf16:
      return bf16_max;
    case DType::q8_0:
      return 127 * f16_max;
    case DType::q4_0:
      return 8 * f16_max;
    case DType::q4_1:
      return f16_max;  // a minimum is a value itself
    case DType::q4_k:
      return 32 * f16_max;  // 63 steps, with room for a line's ends
    default:
      return std::numeric_limits<float>::max();
  }
}

}  // namespace

bool can_encode(DType type) {
  constexpr DType types[] = {DType::f32,  DType::f16,  DType::bf16, DType::q8_0,
                             DType::q4_0, DType::q4_1, DType::q4_k};
  return std::ranges::find(types, type) != std::end(types);
}

void quantize_row(DType type, std::span<const float> row, std::span<std::byte> out) {
  assert(can_encode(type));
  const DTypeInfo& block = info(type);
  assert(row.size() % block.block_values == 0);
  assert(out.size() == row.size() / block.block_values * block.block_bytes);
  const float largest = largest_of(type);
  for (size_t i = 0; i < row.size(); ++i)
    if (!(std::fabs(row[i]) <= largest)) refuse(type, i, row[i]);
  std::byte* to = out.data();
  for (size_t i = 0; i < row.size(); i += block.block_values, to += block.block_bytes)
    encode_block(type, row.data() + i, to);
}

void quantize_block_fp8(std::span<const float> matrix, int64_t rows, int64_t columns,
                        std::span<std::byte> e4m3, std::span<float> scale_inv) {
  const int64_t across = fp8_blocks(columns), down = fp8_blocks(rows);
  assert(rows >= 0 && columns >= 0 && static_cast<int64_t>(matrix.size()) == rows * columns);
  assert(e4m3.size() == matrix.size() && static_cast<int64_t>(scale_inv.size()) == across * down);
  for (int64_t b = 0; b < across * down; ++b) {
    const int64_t top = b / across * fp8_block, left = b % across * fp8_block;
    const int64_t bottom = std::min(rows, top + fp8_block), right = std::min(columns, left + fp8_block);
    float largest = 0;
    for (int64_t r = top; r < bottom; ++r) {
      for (int64_t c = left; c < right; ++c) {
        const float x = matrix[static_cast<size_t>(r * columns + c)];
        if (!std::isfinite(x)) refuse(DType::f8_e4m3, static_cast<size_t>(c), x);
        largest = std::max(largest, std::fabs(x));
      }
    }
    // Next to nothing has no scale either: it would round to zero, and be divided by.
    const float scale = largest / f8_e4m3_max > 0 ? largest / f8_e4m3_max : 1;
    scale_inv[static_cast<size_t>(b)] = scale;
    for (int64_t r = top; r < bottom; ++r) {
      for (int64_t c = left; c < right; ++c) {
        const auto i = static_cast<size_t>(r * columns + c);
        e4m3[i] = std::byte{f32_to_f8_e4m3(matrix[i] / scale)};
      }
    }
  }
}

float quantize_row_i8(std::span<const float> row, std::span<std::byte> out) {
  assert(out.size() == row.size());
  float largest = 0;
  for (size_t i = 0; i < row.size(); ++i) {
    if (!std::isfinite(row[i])) refuse(DType::i8, i, row[i]);
    largest = std::max(largest, std::fabs(row[i]));
  }
  uint16_t bits = f32_to_bf16(largest / 127);
  if (bf16_to_f32(bits) < largest / 127) ++bits;
  // Next to nothing has no scale: it would round to zero, or be divided by a number next to it.
  const float scale = bf16_to_f32(bits) >= std::numeric_limits<float>::min() ? bf16_to_f32(bits) : 1;
  for (size_t i = 0; i < row.size(); ++i) {
    const float q = step_of(std::fabs(row[i]), 1 / scale, 127);
    store(out.data() + i, static_cast<int8_t>(row[i] < 0 ? -q : q));
  }
  return scale;
}

}  // namespace convoy::model
