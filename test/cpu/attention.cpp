#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>

#include "gpu/step.hpp"
#include "test/cpu/inputs.hpp"

using namespace convoy::gpu;
using namespace convoy::gpu::test;

namespace {

/// A cache of one key head among `kv_heads`, its blocks scattered, and queries of rows at the end of the
/// sequence.
struct Scene {
  int64_t head_dim, kv_heads, group, keys;
  int64_t width = head_dim * kv_heads, head = kv_heads - 1;
  std::vector<uint32_t> table;
  std::vector<float> k, v, q;  // k, v: [keys, head_dim]; q: [keys, group, head_dim]
  std::vector<float> key_cache, value_cache;

  Scene(Random& random, int64_t head_dim, int64_t kv_heads, int64_t group, int64_t keys)
      : head_dim(head_dim), kv_heads(kv_heads), group(group), keys(keys) {
    k = random.values(keys * head_dim), v = random.values(keys * head_dim),
    q = random.values(keys * group * head_dim);
    const int64_t blocks = (keys + 63) / 64;
    for (int64_t b = 0; b < blocks; ++b) table.push_back(static_cast<uint32_t>(2 * (blocks - 1 - b)));
    // What nobody wrote is poison: a result that touched it is NaN.
    key_cache.assign(static_cast<size_t>(2 * blocks * 64 * width), std::nanf(""));
    value_cache = key_cache;
    for (int64_t p = 0; p < keys; ++p) {
      for (int64_t d = 0; d < head_dim; ++d) {
        const int64_t in_block = table[p / 64] * kv_heads + head;
        key_cache[((in_block * 4 + p % 64 / 16) * head_dim + d) * 16 + p % 16] = k[p * head_dim + d];
        value_cache[(in_block * 64 + p % 64) * head_dim + d] = v[p * head_dim + d];
      }
    }
  }

  /// [rows, group, head_dim] of rows [first, first + rows).
  std::vector<float> run(const KernelTable& kernels, int64_t first, int64_t rows) const {
    return run(kernels, first, rows, DType::f32, key_cache.data(), value_cache.data());
  }

  /// The same from caches of another type.
  std::vector<float> run(const KernelTable& kernels, int64_t first, int64_t rows, DType type,
                         const void* cached_keys, const void* cached_values) const {
    std::vector<float> out(static_cast<size_t>(rows * group * head_dim), -1);
    AttentionTask t;
    t.row_stride = group * head_dim, t.group = group, t.queries = rows * group, t.first_position = first;
    t.q = q.data() + first * t.row_stride, t.out = out.data();
    t.head_dim = head_dim, t.scale = 1 / std::sqrt(static_cast<float>(head_dim));
    t.blocks = table.data(), t.width = width;
    const auto bytes = static_cast<int64_t>(convoy::model::info(type).block_bytes);
    t.type = type;
    t.keys = static_cast<const std::byte*>(cached_keys) + head * 64 * head_dim * bytes;
    t.values = static_cast<const std::byte*>(cached_values) + head * 64 * head_dim * bytes;
    std::vector<float> scratch(static_cast<size_t>(t.queries * ((first + rows + 63) / 64 * 64 + 1)));
    t.inverse = scratch.data(), t.scores = scratch.data() + t.queries;
    kernels.attention(t);
    return out;
  }

  /// The largest error against double precision, in parts of what the result is a mean of. NaN counts.
  double worst(const std::vector<float>& out, int64_t first) const {
    double worst = 0;
    for (int64_t i = 0; i < static_cast<int64_t>(out.size()) / head_dim; ++i) {
      const int64_t query = first * group + i, seen = query / group + 1;
      std::vector<double> e(static_cast<size_t>(seen));
      double sum = 0;
      for (int64_t p = 0; p < seen; ++p) {
        double score = 0;
        for (int64_t j = 0; j < head_dim; ++j) score += double(q[query * head_dim + j]) * k[p * head_dim + j];
        sum += e[p] = std::exp(score / std::sqrt(double(head_dim)));
      }
      for (int64_t d = 0; d < head_dim; ++d) {
        double result = 0, size = 0;
        for (int64_t p = 0; p < seen; ++p) {
          result += e[p] / sum * v[p * head_dim + d];
          size += e[p] / sum * std::fabs(v[p * head_dim + d]);
        }
        const double error = std::fabs(out[i * head_dim + d] - result) / size;
        if (!(error <= worst)) worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
      }
    }
    return worst;
  }
};

}  // namespace

BOOST_AUTO_TEST_CASE(attention_is_the_softmax_weighted_mean_of_values) {
  Random random;
  for (const auto& [head_dim, kv_heads, group, keys] :
       {std::array{16, 1, 1, 1}, {64, 3, 3, 130}, {128, 2, 4, 65}, {80, 2, 7, 64}, {32, 1, 2, 200}}) {
    const Scene scene(random, head_dim, kv_heads, group, keys);
    std::vector<float> expected;
    for (const KernelTable* kernels : runnable_kernels()) {
      const auto out = scene.run(*kernels, 0, keys);
      BOOST_TEST(scene.worst(out, 0) <= 2e-6,
                 kernels->name << " head_dim " << head_dim << ": " << scene.worst(out, 0));
      if (expected.empty()) expected = out;
      BOOST_TEST(same_bits(out, expected), kernels->name << " head_dim " << head_dim);
    }
  }
}

BOOST_AUTO_TEST_CASE(a_query_gives_the_same_bits_in_any_chunk) {
  Random random;
  const Scene scene(random, 64, 3, 3, 150);
  for (const KernelTable* kernels : runnable_kernels()) {
    if (kernels == &scalar_kernels()) continue;  // slow, and equal to the others by the test above
    const auto whole = scene.run(*kernels, 0, 150);
    for (int64_t chunk : {1, 2, 3, 7, 8, 64}) {
      std::vector<float> parts;
      for (int64_t first = 0; first < 150; first += chunk) {
        const auto part = scene.run(*kernels, first, std::min<int64_t>(chunk, 150 - first));
        parts.insert(parts.end(), part.begin(), part.end());
      }
      BOOST_TEST(same_bits(parts, whole), kernels->name << " in chunks of " << chunk);
    }
  }
}

BOOST_AUTO_TEST_CASE(a_narrow_cache_gives_the_bits_of_its_values_in_float32) {
  Random random;
  for (const DType type : narrow_kv_types) {
    Scene scene(random, 80, 2, 7, 150);
    const auto keys = narrowed(scene.key_cache, type), values = narrowed(scene.value_cache, type);
    for (const KernelTable* kernels : runnable_kernels()) {
      BOOST_TEST(same_bits(scene.run(*kernels, 0, 150, type, keys.data(), values.data()),
                           scene.run(*kernels, 0, 150)),
                 kernels->name << " " << convoy::model::info(type).name);
      BOOST_TEST(same_bits(scene.run(*kernels, 149, 1, type, keys.data(), values.data()),
                           scene.run(*kernels, 149, 1)),
                 kernels->name << " " << convoy::model::info(type).name << ", one row");
    }
  }
}

BOOST_AUTO_TEST_CASE(every_value_of_8_bits_is_read_exactly) {
  Random random;
  const Scene scene(random, 256, 1, 1, 1);  // one key: what comes out is its value
  const auto keys = random.weights(DType::f8_e4m3, 64, 256);
  std::vector<std::byte> values(64 * 256);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::byte>(i);
  for (const KernelTable* kernels : runnable_kernels()) {
    const auto out = scene.run(*kernels, 0, 1, DType::f8_e4m3, keys.data(), values.data());
    for (size_t i = 0; i < 256; ++i) {
      const float value = convoy::model::f8_e4m3_to_f32(static_cast<uint8_t>(i));
      BOOST_TEST((i % 128 == 127 ? std::isnan(out[i]) : out[i] == value), kernels->name << " " << i);
    }
  }
}

BOOST_AUTO_TEST_CASE(scores_far_apart_neither_overflow_nor_lose_the_largest) {
  Random random;
  Scene scene(random, 16, 1, 1, 100);
  for (float& x : scene.q) x *= 1000;
  for (const KernelTable* kernels : runnable_kernels())
    for (float x : scene.run(*kernels, 99, 1)) BOOST_TEST(std::isfinite(x), kernels->name);
}
