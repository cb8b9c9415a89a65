#include "gpu/backend.hpp"

#include <boost/test/unit_test.hpp>
#include <cmath>

#include "gpu/cpu/fast.hpp"
#include "gpu/stage_shape.hpp"
#include "model/error.hpp"
#include "test/cpu/inputs.hpp"

using namespace convoy::gpu;
using namespace convoy::gpu::test;

namespace {

Rows rows_of(std::vector<float>& values, int64_t rows) {
  return {values.data(), rows, static_cast<int64_t>(values.size()) / rows};
}

/// One sequence's way through the operations of a layer, in steps of `chunk` rows.
std::vector<float> layer(Backend& backend, Random random, int64_t rows_total, int64_t chunk) {
  constexpr int64_t hidden = 96, head_dim = 32, heads = 4, kv_heads = 2, inner = 160, vocab = 50;
  const AttentionShape shape{heads, kv_heads, head_dim, 0.17f};
  const auto weight = [&](DType type, int64_t rows, int64_t columns, std::vector<std::byte>& bytes) {
    bytes = random.weights(type, rows, columns);
    return backend.adopt({type, {rows, columns}, bytes, nullptr});
  };
  std::vector<std::byte> bytes[10];
  const Weight q = weight(DType::q4_1, heads * head_dim, hidden, bytes[0]);
  const Weight k = weight(DType::bf16, kv_heads * head_dim, hidden, bytes[1]);
  const Weight v = weight(DType::q8_0, kv_heads * head_dim, hidden, bytes[2]);
  const Weight o = weight(DType::f32, hidden, heads * head_dim, bytes[3]);
  const Weight gate = weight(DType::q4_0, inner, hidden, bytes[4]),
               up = weight(DType::q4_1, inner, hidden, bytes[5]);
  const Weight head = weight(DType::q8_0, vocab, hidden, bytes[6]);
  const Weight norm = weight(DType::f32, 1, hidden, bytes[7]);
  const Weight q_norm = weight(DType::f32, 1, head_dim, bytes[8]),
               k_norm = weight(DType::f32, 1, head_dim, bytes[9]);
  const auto x_all = random.values(rows_total * hidden);

  const RotationTable rotations({}, head_dim, rows_total);
  backend.set_rope(rotations.view());
  const std::vector<uint32_t> blocks{2, 0, 1};
  const size_t cache = static_cast<size_t>(3 * kv_block_tokens * kv_heads * head_dim) * sizeof(float);
  const int64_t kv_width = kv_heads * head_dim;
  const KvLayer kv{{{backend.allocate(cache), kv_width}, {backend.allocate(cache), kv_width}}, 3};
  std::vector<float> result;
  for (int64_t first = 0; first < rows_total; first += chunk) {
    const int64_t n = std::min(chunk, rows_total - first);
    const auto buffer = [&](int64_t width) { return std::vector<float>(static_cast<size_t>(n * width)); };
    std::vector<float> x(x_all.begin() + first * hidden, x_all.begin() + (first + n) * hidden);
    auto h = buffer(hidden), qs = buffer(heads * head_dim), ks = buffer(kv_width), vs = buffer(kv_width);
    auto attended = qs, delta = buffer(hidden), gated = buffer(inner), logits = buffer(vocab);
    const SequenceRows sequence[] = {{0, n, first, blocks}};
    backend.add_norm(rows_of(x, n), {}, norm, 1e-5f, rows_of(h, n));
    const Projection qkv[] = {
        {&q, nullptr, rows_of(qs, n)}, {&k, nullptr, rows_of(ks, n)}, {&v, nullptr, rows_of(vs, n)}};
    backend.linear(rows_of(h, n), qkv);
    backend.rope_write(rows_of(qs, n), rows_of(ks, n), rows_of(vs, n), {&q_norm, &k_norm, 1e-5f}, shape,
                       sequence, kv);
    backend.attention(rows_of(qs, n), shape, sequence, kv, rows_of(attended, n));
    const Projection out[] = {{&o, nullptr, rows_of(delta, n)}};
    backend.linear(rows_of(attended, n), out);
    backend.gated_linear(rows_of(h, n), {&gate, &up, nullptr, nullptr, rows_of(gated, n)});
    std::vector<int32_t> all(static_cast<size_t>(n));
    for (int64_t r = 0; r < n; ++r) all[static_cast<size_t>(r)] = static_cast<int32_t>(r);
    backend.head(rows_of(x, n), rows_of(delta, n), norm, 1e-5f, head, all, rows_of(logits, n));
    for (int64_t r = 0; r < n; ++r) {
      result.insert(result.end(), gated.begin() + r * inner, gated.begin() + (r + 1) * inner);
      result.insert(result.end(), logits.begin() + r * vocab, logits.begin() + (r + 1) * vocab);
    }
  }
  return result;
}

}  // namespace

BOOST_AUTO_TEST_CASE(any_threads_and_chunks_give_the_same_bits) {
  if (!best_kernels()) {
    BOOST_TEST_MESSAGE("skipped: no vector kernels run on this processor");
    return;
  }
  const Random random;
  const auto expected = layer(*make_fast_backend(1), random, 150, 150);
  for (float x : expected) BOOST_REQUIRE(std::isfinite(x));
  for (const KernelTable* kernels : runnable_kernels()) {
    for (int threads : {1, 2, 3}) {
      const auto backend = make_fast_backend(*kernels, threads);
      for (int64_t chunk : {1, 3, 33, 140}) {
        if (kernels == &scalar_kernels() && chunk < 33) continue;
        BOOST_TEST(same_bits(layer(*backend, random, 150, chunk), expected),
                   kernels->name << ", " << threads << " threads, " << chunk << " rows a step");
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(fast_and_reference_backends_agree_within_the_error_of_int8_activations) {
  if (!best_kernels()) return;
  const Random random;
  const auto fast = layer(*make_fast_backend(2), random, 100, 100);
  const auto reference = layer(*make_cpu_backend(Kernels::reference, 1), random, 100, 100);
  double error = 0, size = 0;
  for (size_t i = 0; i < fast.size(); ++i) {
    error += std::pow(double(fast[i]) - reference[i], 2);
    size += std::pow(double(reference[i]), 2);
  }
  BOOST_TEST(std::sqrt(error / size) < 0.03);
}

BOOST_AUTO_TEST_CASE(a_weight_of_integers_and_odd_head_sizes_are_refused) {
  if (!best_kernels()) return;
  const auto backend = make_fast_backend(1);
  convoy::model::Tensor tensor{DType::i64, {2, 2}, {}, nullptr};
  BOOST_CHECK_THROW(backend->adopt(tensor), convoy::InputError);
  std::vector<float> q(24);
  BOOST_CHECK_THROW(backend->attention(rows_of(q, 1), {1, 1, 24, 1}, {}, {}, rows_of(q, 1)),
                    convoy::InputError);
}

BOOST_AUTO_TEST_CASE(heads_that_the_fast_kernels_do_not_take_are_refused_before_a_step) {
  BOOST_CHECK_NO_THROW(make_cpu_backend(Kernels::reference, 1)->check_heads(40));
  std::unique_ptr<Backend> fast;
  try {
    fast = make_cpu_backend(Kernels::fast, 1);
  } catch (const convoy::InputError&) {
    return;  // this processor has none
  }
  BOOST_CHECK_NO_THROW(fast->check_heads(48));
  BOOST_CHECK_EXCEPTION(fast->check_heads(40), convoy::InputError, [](const convoy::InputError& e) {
    return std::string(e.what()).find("cpu-reference") != std::string::npos;
  });
}
