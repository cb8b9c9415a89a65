#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>

#include "test/cpu/inputs.hpp"

using namespace convoy::gpu;
using namespace convoy::gpu::test;

namespace {

struct Matrix {
  DType type;
  int64_t inputs, columns;
  std::vector<std::byte> bytes;
  std::vector<float> scales{};

  Matrix(Random& random, DType type, int64_t inputs, int64_t columns)
      : type(type), inputs(inputs), columns(columns), bytes(random.weights(type, inputs, columns)) {
    scales = random.values(static_cast<int64_t>(convoy::model::scale_count(type, inputs, columns)));
  }
  const std::byte* scale_bytes() const {
    return scales.empty() ? nullptr : std::as_bytes(std::span(scales)).data();
  }
  /// [inputs, columns]
  std::vector<float> widened() const {
    convoy::model::Tensor tensor{type, {inputs, columns}, bytes, nullptr};
    tensor.scales = std::as_bytes(std::span(scales));
    std::vector<float> all;
    for (int64_t i = 0; i < inputs; ++i) {
      std::vector<float> row(static_cast<size_t>(columns));
      convoy::model::dequantize_row(tensor, i, row);
      all.insert(all.end(), row.begin(), row.end());
    }
    return all;
  }
  std::vector<float> run(const KernelTable& kernels, const std::vector<float>& x) const {
    const int64_t rows = static_cast<int64_t>(x.size()) / inputs, stride = columns + 5;
    std::vector<float> out(static_cast<size_t>(rows * stride), -1), dense;
    const auto taken = as_taken(type, bytes, inputs);
    kernels.linear_transposed({type, taken.data(), scale_bytes(), static_cast<int64_t>(bytes.size()) / inputs,
                               inputs, columns, x.data(), rows, out.data(), stride});
    for (int64_t r = 0; r < rows; ++r) {
      dense.insert(dense.end(), out.begin() + r * stride, out.begin() + r * stride + columns);
      for (int64_t c = columns; c < stride; ++c) BOOST_TEST(out[r * stride + c] == -1);
    }
    return dense;
  }
};

/// A cache of entries, its blocks scattered, and queries that see all of it.
struct Scene {
  int64_t width, values, queries, keys;
  std::vector<uint32_t> table;
  std::vector<float> q, cache;  // [queries, width], [blocks, 64, width]

  Scene(Random& random, int64_t width, int64_t values, int64_t queries, int64_t keys)
      : width(width), values(values), queries(queries), keys(keys), q(random.values(queries * width)) {
    const int64_t blocks = (keys + 63) / 64;
    for (int64_t b = 0; b < blocks; ++b) table.push_back(static_cast<uint32_t>(2 * (blocks - 1 - b)));
    // What nobody wrote is poison: a result that touched it is NaN.
    cache.assign(static_cast<size_t>(2 * blocks * 64 * width), std::nanf(""));
    for (int64_t p = 0; p < keys; ++p)
      for (int64_t c = 0; c < width; ++c) cache[static_cast<size_t>(at(p) + c)] = random.normal();
  }
  int64_t at(int64_t p) const { return (table[static_cast<size_t>(p / 64)] * 64 + p % 64) * width; }

  /// Of queries [first, first + count).
  std::vector<float> run(const KernelTable& kernels, int64_t first, int64_t count) const {
    return run(kernels, first, count, DType::f32, cache.data());
  }
  std::vector<float> run(const KernelTable& kernels, int64_t first, int64_t count, DType type,
                         const void* entries) const {
    std::vector<float> out(static_cast<size_t>(count * values), -1),
        scores(static_cast<size_t>(count * LatentTask::score_stride(keys)));
    LatentTask t;
    t.q = q.data() + first * width, t.q_stride = width, t.out = out.data(), t.out_stride = values;
    t.queries = count, t.keys = keys, t.width = width, t.values = values, t.scale = 0.2f;
    t.blocks = table.data(), t.type = type, t.entries = entries, t.scores = scores.data();
    kernels.latent_attention(t);
    return out;
  }

  /// The largest error against double precision, in parts of what the result is a mean of. NaN counts.
  double worst(const std::vector<float>& out) const {
    double worst = 0;
    for (int64_t i = 0; i < queries; ++i) {
      std::vector<double> e;
      double sum = 0;
      for (int64_t p = 0; p < keys; ++p) {
        double score = 0;
        for (int64_t c = 0; c < width; ++c) score += double(q[i * width + c]) * cache[at(p) + c];
        e.push_back(std::exp(score * double(0.2f)));
        sum += e.back();
      }
      for (int64_t c = 0; c < values; ++c) {
        double result = 0, size = 0;
        for (int64_t p = 0; p < keys; ++p) {
          result += e[p] / sum * cache[at(p) + c];
          size += e[p] / sum * std::fabs(cache[at(p) + c]);
        }
        const double error = std::fabs(out[i * values + c] - result) / size;
        if (!(error <= worst)) worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
      }
    }
    return worst;
  }
};

constexpr DType transposed_types[] = {DType::f32,     DType::f16, DType::bf16,
                                      DType::f8_e4m3, DType::i8,  DType::q8_0};

}  // namespace

BOOST_AUTO_TEST_CASE(a_transposed_product_is_the_sum_over_decoded_weights) {
  Random random;
  for (const DType type : transposed_types)
    for (const auto& [inputs, columns] : {std::pair{128, 512}, {24, 96}, {130, 300}, {1, 40}, {33, 7}}) {
      if (columns % convoy::model::info(type).block_values != 0) continue;
      const Matrix matrix(random, type, inputs, columns);
      const std::vector<float> weights = matrix.widened(), x = random.values(9 * inputs);
      const auto expected = matrix.run(scalar_kernels(), x);
      double worst = 0;
      for (int64_t r = 0; r < 9; ++r)
        for (int64_t c = 0; c < columns; ++c) {
          double sum = 0, magnitude = 0;
          for (int64_t i = 0; i < inputs; ++i) {
            const double term = double(x[r * inputs + i]) * weights[i * columns + c];
            sum += term, magnitude += std::fabs(term);
          }
          worst = std::max(worst, std::fabs(expected[r * columns + c] - sum) / (magnitude + 1e-30));
        }
      BOOST_TEST(worst <= 2e-6, convoy::model::info(type).name << ": " << worst);
      for (const KernelTable* kernels : runnable_kernels())
        for (int64_t rows = 1; rows <= 9; ++rows) {
          const std::vector<float> last(x.end() - rows * inputs, x.end());
          BOOST_TEST(same_bits(matrix.run(*kernels, last), {expected.end() - rows * columns, expected.end()}),
                     kernels->name << " " << convoy::model::info(type).name << " " << inputs << "×" << columns
                                   << ", " << rows << " rows");
        }
    }
}

BOOST_AUTO_TEST_CASE(latent_attention_is_the_softmax_weighted_mean_of_the_entries_first_values) {
  Random random;
  for (const auto& [width, values, queries, keys] :
       {std::array{16, 16, 1, 1}, {72, 64, 3, 130}, {576, 512, 16, 65}, {40, 24, 5, 64}, {50, 37, 9, 200}}) {
    const Scene scene(random, width, values, queries, keys);
    std::vector<float> expected;
    for (const KernelTable* kernels : runnable_kernels()) {
      const auto out = scene.run(*kernels, 0, queries);
      BOOST_TEST(scene.worst(out) <= 3e-6, kernels->name << " " << width << ": " << scene.worst(out));
      if (expected.empty()) expected = out;
      BOOST_TEST(same_bits(out, expected), kernels->name << " " << width);
      for (int64_t together = 1; together < queries; ++together) {
        const auto part = scene.run(*kernels, queries - together, together);
        BOOST_TEST(same_bits(part, {expected.end() - together * values, expected.end()}),
                   kernels->name << ", " << together << " queries");
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(narrow_entries_give_the_bits_of_their_values_in_float32) {
  Random random;
  for (const DType type : narrow_kv_types)
    for (const auto& [width, values] : {std::pair{72, 64}, {576, 512}, {50, 37}}) {
      Scene scene(random, width, values, 6, 150);
      const auto entries = narrowed(scene.cache, type);
      for (const KernelTable* kernels : runnable_kernels())
        BOOST_TEST(same_bits(scene.run(*kernels, 0, 6, type, entries.data()), scene.run(*kernels, 0, 6)),
                   kernels->name << " " << convoy::model::info(type).name << " " << width);
    }
}
