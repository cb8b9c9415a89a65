// Operations on single rows: quantisation of activations, norms, and the functions that others share. Part of
// kernels.inl.

/// Blocks below this hold nothing that a product would notice; 127 / amax would overflow near zero.
constexpr float quantized_min = 1e-30f;

void quantize_row(const Activations& x, int64_t row) {
  const int64_t blocks = x.columns / block_values;
  const float* values = x.values + row * x.columns;
  int8_t* q = x.q + row * x.columns;
  Vf poison = splat(0);
  for (int64_t b = 0; b < blocks; ++b) {
    const Vf low = load(values + b * block_values), high = load(values + b * block_values + lanes);
    const float amax = max_lanes(vmax(vabs(low), vabs(high)));
    // x·0 is 0, or NaN where x is not finite.
    poison = fma(high, splat(0), fma(low, splat(0), poison));
    const bool tiny = amax < quantized_min;
    const float d = tiny ? 0 : amax / 127, inverse = tiny ? 0 : 127 / amax;
    const Vi low_q = round_to_int(mul(low, splat(inverse))), high_q = round_to_int(mul(high, splat(inverse)));
    store_int8(q + b * block_values, low_q);
    store_int8(q + b * block_values + lanes, high_q);
    // Sums of 16 numbers up to 127 fit into 16 bits: adding lanes once adds both.
    const int32_t both = sum_lanes(add_upper_half(low_q, high_q));
    const int32_t sum_low = static_cast<int16_t>(both), sum_high = (both >> 16) + (sum_low < 0);
    const int64_t i = row * blocks + b;
    x.d[i] = d;
    x.sum[i] = sum_low + sum_high;
    x.sum_low[i] = sum_low;
    x.sum_high[i] = sum_high;
    x.s[i] = d * static_cast<float>(sum_low + sum_high);
  }
  // All products of the row have this block in them.
  x.d[row * blocks] += sum_lanes(poison);
}

/// e^x for finite x up to 88, 0 far below; Cody-Waite reduction and a Taylor polynomial, relative error <
/// 3e-7.
[[gnu::always_inline]] inline Vf vexp(Vf x) {
  x = vmin(splat(88), vmax(splat(-87), x));
  const Vi n = round_to_int(mul(x, splat(1.44269504f)));
  const Vf k = to_float(n);
  const Vf r = fma(k, splat(2.12194440e-4f), fma(k, splat(-0.693359375f), x));
  Vf p = splat(1.f / 5040);
  p = fma(p, r, splat(1.f / 720));
  p = fma(p, r, splat(1.f / 120));
  p = fma(p, r, splat(1.f / 24));
  p = fma(p, r, splat(1.f / 6));
  p = fma(p, r, splat(0.5f));
  p = fma(p, r, splat(1));
  p = fma(p, r, splat(1));
  return mul(p, power_of_two(n));
}

[[gnu::always_inline]] inline Vf silu(Vf x) { return divide(x, add(splat(1), vexp(sub(splat(0), x)))); }

/// Outputs from `first` on of a row, up to 16: the product, or what gates it. Sums come through memory: as
/// arguments of a call they would all have to leave their registers.
[[gnu::noinline]] void store_outputs(const Product& p, int64_t row, int64_t first, const float* sums) {
  float* out = p.out + row * p.outputs + first;
  const int64_t n = p.outputs - first;
  Vf acc = load(sums);
  if (p.bias) acc = add(acc, n < lanes ? load_part(p.bias + first, n) : load(p.bias + first));
  if (p.gate) acc = mul(silu(n < lanes ? load_part(out, n) : load(out)), acc);
  n < lanes ? store_part(out, acc, n) : store(out, acc);
}

/// h may be nullptr: only the sum is wanted then.
void add_norm(float* x, const float* delta, const float* w, float eps, float* h, int64_t width) {
  Vf squares = splat(0);
  for (int64_t i = 0; i < width; i += lanes) {
    const int64_t n = width - i;
    Vf v = n < lanes ? load_part(x + i, n) : load(x + i);
    if (delta) {
      v = add(v, n < lanes ? load_part(delta + i, n) : load(delta + i));
      n < lanes ? store_part(x + i, v, n) : store(x + i, v);
    }
    squares = fma(v, v, squares);
  }
  if (!h) return;
  const Vf scale = splat(1 / __builtin_sqrtf(sum_lanes(squares) / static_cast<float>(width) + eps));
  for (int64_t i = 0; i < width; i += lanes) {
    const int64_t n = width - i;
    if (n < lanes)
      store_part(h + i, mul(mul(load_part(x + i, n), scale), load_part(w + i, n)), n);
    else
      store(h + i, mul(mul(load(x + i), scale), load(w + i)));
  }
}
