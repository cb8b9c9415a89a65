// Every operation of every backend against its formula, in double, written out here.

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>

#include "test/gpu/device_rows.hpp"

using namespace convoy;
using namespace convoy::gpu;
using namespace convoy::gpu::test;
using model::DType;

namespace {

std::vector<double> rms_norm(const std::vector<double>& x, const std::vector<float>& w, double eps) {
  std::vector<double> h;
  for (size_t r = 0; r < x.size() / w.size(); r++) {
    double squares = 0;
    for (size_t i = 0; i < w.size(); i++) squares += x[r * w.size() + i] * x[r * w.size() + i];
    for (size_t i = 0; i < w.size(); i++)
      h.push_back(x[r * w.size() + i] / std::sqrt(squares / static_cast<double>(w.size()) + eps) * w[i]);
  }
  return h;
}

/// A cache that holds only NaNs: what was never written must never be read.
KvLayer poisoned_kv(Backend& backend, int64_t blocks, int64_t width) {
  const size_t values = static_cast<size_t>(blocks * kv_block_tokens * width);
  KvLayer kv{
      {{backend.allocate(values * sizeof(float)), width}, {backend.allocate(values * sizeof(float)), width}},
      blocks};
  const std::vector<float> poison(values, std::numeric_limits<float>::quiet_NaN());
  for (const KvStream& stream : kv.streams)
    backend.write(poison, {stream.memory.get(), blocks * kv_block_tokens, width});
  return kv;
}

/// silu of the gate's products times the other's, each with its bias if there are any.
std::vector<double> gated_product(const std::vector<float>& h, const model::Tensor& gate,
                                  const model::Tensor& up, int64_t n,
                                  const std::vector<float>& gate_bias = {},
                                  const std::vector<float>& up_bias = {}) {
  std::vector<double> gates = product(h, widened(gate), n), ups = product(h, widened(up), n);
  for (size_t i = 0; i < ups.size(); i++) {
    if (!gate_bias.empty())
      gates[i] += gate_bias[i % gate_bias.size()], ups[i] += up_bias[i % up_bias.size()];
    gates[i] *= ups[i] / (1 + std::exp(-gates[i]));
  }
  return gates;
}

}  // namespace

BOOST_AUTO_TEST_CASE(embed_widens_the_rows_of_its_ids) {
  for_each_backend([](const BackendChoice&, Backend& backend) {
    for (DType type : weight_types) {
      const int64_t width = columns_of(type, 64);
      const model::Tensor table = TensorMaker(1).make({10, width}, type, 1);
      const std::vector<int32_t> ids = {3, 9, 0, 3};
      DeviceRows x(backend, 4, width);
      backend.embed(backend.adopt(table), ids, x.view);
      const std::vector<float> values = widened(table), own = x.read();
      for (size_t r = 0; r < ids.size(); r++)
        for (int64_t i = 0; i < width; i++)
          BOOST_REQUIRE_EQUAL(own[r * width + i], values[ids[r] * width + i]);
    }
  });
}

BOOST_AUTO_TEST_CASE(add_norm_adds_then_normalises) {
  for_each_backend([](const BackendChoice&, Backend& backend) {
    TensorMaker maker(2);
    const std::vector<float> x = maker.values(5 * 96, 3), delta = maker.values(5 * 96);
    const model::Tensor w = maker.make({96}, DType::f32, 1);
    const Weight weight = backend.adopt(w);
    std::vector<double> sum(x.begin(), x.end());

    DeviceRows plain(backend, 5, 96, x), h(backend, 5, 96), d(backend, 5, 96, delta);
    backend.add_norm(plain.view, Rows{}, weight, 1e-5f, h.view);
    BOOST_TEST(error_of(h.read(), rms_norm(sum, widened(w), 1e-5)) < float_tolerance);
    BOOST_TEST(plain.read() == x);

    for (size_t i = 0; i < sum.size(); i++) sum[i] = x[i] + delta[i];
    backend.add_norm(plain.view, d.view, weight, 1e-5f, h.view);
    BOOST_TEST(error_of(plain.read(), sum) < float_tolerance);
    BOOST_TEST(error_of(h.read(), rms_norm({sum.begin(), sum.end()}, widened(w), 1e-5)) < float_tolerance);

    DeviceRows sum_only(backend, 5, 96, x);
    backend.add_norm(sum_only.view, d.view, weight, 1e-5f, Rows{});
    BOOST_TEST(sum_only.read() == plain.read());
  });
}

BOOST_AUTO_TEST_CASE(linear_multiplies_by_every_type_of_weight_and_adds_the_bias) {
  for_each_backend([](const BackendChoice& choice, Backend& backend) {
    for (DType type : weight_types)
      for (int64_t rows : {1, 3, 17}) BOOST_TEST_CONTEXT(model::info(type).name << ", " << rows << " rows") {
          TensorMaker maker(3);
          const int64_t n = columns_of(type, 96);
          const std::vector<float> h = maker.values(rows * n);
          const model::Tensor a = maker.make({37, n}, type, 1), b = maker.make({64, n}, type, 1);
          const model::Tensor bias = maker.make({64}, DType::f32, 1);
          const Weight wa = backend.adopt(a), wb = backend.adopt(b), wbias = backend.adopt(bias);
          DeviceRows input(backend, rows, n, h), ya(backend, rows, 37), yb(backend, rows, 64);
          const Projection projections[] = {{&wa, nullptr, ya.view}, {&wb, &wbias, yb.view}};
          backend.linear(input.view, projections);
          std::vector<double> expected = product(h, widened(b), n);
          for (size_t i = 0; i < expected.size(); i++) expected[i] += widened(bias)[i % 64];
          BOOST_TEST(error_of(ya.read(), product(h, widened(a), n)) < tolerance(choice, type));
          BOOST_TEST(error_of(yb.read(), expected) < tolerance(choice, type));
        }
  });
}

/// The same tensor with scales of its own, as FP8 has one for 128 by 128 values and int8 one for a row.
model::Tensor scaled(model::Tensor tensor, TensorMaker& maker) {
  int64_t count = 1;
  for (const int64_t n : model::scales_shape(tensor.type, tensor.rows(), tensor.columns())) count *= n;
  auto bytes = std::make_shared<std::vector<float>>(maker.values(count));
  for (float& scale : *bytes) scale = 0.5f + scale * scale;
  tensor.scales = std::as_bytes(std::span(*bytes));
  tensor.scales_owner = std::shared_ptr<const model::Mapping>(bytes, nullptr);
  return tensor;
}

BOOST_AUTO_TEST_CASE(scaled_weights_are_scaled_before_the_bias_is_added) {
  for_each_backend([](const BackendChoice&, Backend& backend) {
    for (const DType type : {DType::f8_e4m3, DType::i8})
      for (const int64_t rows : {1, 3, 17})
        BOOST_TEST_CONTEXT(model::info(type).name << ", " << rows << " rows") {
          TensorMaker maker(12);
          const int64_t n = 160, outputs = 200;  // blocks of 128 that are cut off on both sides
          const std::vector<float> h = maker.values(rows * n);
          const model::Tensor a = scaled(maker.make({outputs, n}, type, 1), maker),
                              gate = scaled(maker.make({outputs, n}, type, 0.05f), maker),
                              up = scaled(maker.make({outputs, n}, type, 1), maker);
          const model::Tensor bias = maker.make({outputs}, DType::f32, 30);
          const Weight wa = backend.adopt(a), wbias = backend.adopt(bias);
          DeviceRows input(backend, rows, n, h), y(backend, rows, outputs), gated(backend, rows, outputs);
          const Projection projection[] = {{&wa, &wbias, y.view}};
          backend.linear(input.view, projection);
          std::vector<double> expected = product(h, widened(a), n);
          for (size_t i = 0; i < expected.size(); i++) expected[i] += widened(bias)[i % outputs];
          BOOST_TEST(error_of(y.read(), expected) < float_tolerance);

          const Weight wgate = backend.adopt(gate), wup = backend.adopt(up);
          backend.gated_linear(input.view, {&wgate, &wup, nullptr, nullptr, gated.view});
          expected = gated_product(h, gate, up, n);
          BOOST_TEST(error_of(gated.read(), expected) < 4 * float_tolerance);
        }
  });
}

BOOST_AUTO_TEST_CASE(gated_linear_multiplies_silu_of_the_gate_with_up) {
  for_each_backend([](const BackendChoice& choice, Backend& backend) {
    for (DType type : weight_types) BOOST_TEST_CONTEXT(model::info(type).name) {
        TensorMaker maker(4);
        const int64_t n = columns_of(type, 64);
        const std::vector<float> h = maker.values(3 * n);
        const model::Tensor gate = maker.make({96, n}, type, 1), up = maker.make({96, n}, type, 1);
        DeviceRows input(backend, 3, n, h), out(backend, 3, 96);
        const Weight wgate = backend.adopt(gate), wup = backend.adopt(up);
        backend.gated_linear(input.view, {&wgate, &wup, nullptr, nullptr, out.view});
        BOOST_TEST(error_of(out.read(), gated_product(h, gate, up, n)) < 2 * tolerance(choice, type));

        const model::Tensor gate_bias = maker.make({96}, DType::f32, 30),
                            up_bias = maker.make({96}, DType::f32, 30);
        const Weight wgate_bias = backend.adopt(gate_bias), wup_bias = backend.adopt(up_bias);
        backend.gated_linear(input.view, {&wgate, &wup, &wgate_bias, &wup_bias, out.view});
        BOOST_TEST(error_of(out.read(), gated_product(h, gate, up, n, widened(gate_bias), widened(up_bias))) <
                   2 * tolerance(choice, type));
      }
  });
}

BOOST_AUTO_TEST_CASE(rope_write_rotates_pairs_by_their_position) {
  for_each_backend([](const BackendChoice&, Backend& backend) {
    for (model::RopePairs pairs : {model::RopePairs::half_split, model::RopePairs::interleaved}) {
      const int64_t d = 32, heads = 2, kv_heads = 1, rows = 3, first_position = 63;
      TensorMaker maker(5);
      const std::vector<float> q = maker.values(rows * heads * d), k = maker.values(rows * d);
      DeviceRows dq(backend, rows, heads * d, q), dk(backend, rows, d, k), dv(backend, rows, d, k);
      const KvLayer kv = poisoned_kv(backend, 4, d);
      model::Rope rope;
      rope.pairs = pairs;
      const RotationTable rotations(rope, d, 128);
      backend.set_rope(rotations.view());
      const std::vector<uint32_t> table = {3, 1};
      const SequenceRows sequence{0, rows, first_position, table};
      backend.rope_write(dq.view, dk.view, dv.view, {}, {heads, kv_heads, d, 1}, {&sequence, 1}, kv);

      const auto rotated = [&](const std::vector<float>& x, int64_t row, int64_t head, int64_t count,
                               int64_t i) {
        const int64_t half = d / 2, pair = pairs == model::RopePairs::half_split ? i % half : i / 2;
        const bool second = pairs == model::RopePairs::half_split ? i >= half : i % 2 == 1;
        const int64_t other =
            pairs == model::RopePairs::half_split ? (second ? i - half : i + half) : (i ^ 1);
        const double angle = static_cast<double>(first_position + row) * std::pow(10000.0, -2.0 * pair / d);
        const auto at = [&](int64_t j) { return double{x[(row * count + head) * d + j]}; };
        return at(i) * std::cos(angle) + (second ? 1 : -1) * at(other) * std::sin(angle);
      };
      std::vector<double> expected_q, expected_k;
      for (int64_t r = 0; r < rows; r++) {
        for (int64_t head = 0; head < heads; head++)
          for (int64_t i = 0; i < d; i++) expected_q.push_back(rotated(q, r, head, heads, i));
        for (int64_t i = 0; i < d; i++) expected_k.push_back(rotated(k, r, 0, 1, i));
      }
      BOOST_TEST(error_of(dq.read(), expected_q) < float_tolerance);
      BOOST_TEST(error_of(dk.read(), expected_k) < float_tolerance);
    }
  });
}

BOOST_AUTO_TEST_CASE(rope_write_normalises_each_head_by_its_own_size_before_it_turns) {
  for_each_backend([](const BackendChoice&, Backend& backend) {
    const int64_t d = 48, heads = 3, kv_heads = 2, rows = 40, first_position = 60;
    const AttentionShape shape{heads, kv_heads, d, 1};
    TensorMaker maker(13);
    std::vector<float> q = maker.values(rows * heads * d), k = maker.values(rows * kv_heads * d);
    for (int64_t i = 0; i < d; i++) q[i] *= 100;  // no head is measured by another's size
    const model::Tensor q_norm = maker.make({d}, DType::f32, 1), k_norm = maker.make({d}, DType::bf16, 1);
    const Weight wq = backend.adopt(q_norm), wk = backend.adopt(k_norm);
    const RotationTable rotations({}, d, 128);
    backend.set_rope(rotations.view());
    const std::vector<uint32_t> table = {3, 1};
    const SequenceRows sequence[] = {{0, rows, first_position, table}};
    const auto write = [&](const std::vector<float>& qs, const std::vector<float>& ks,
                           const HeadNorms& norms) {
      DeviceRows dq(backend, rows, heads * d, qs), dk(backend, rows, kv_heads * d, ks),
          dv(backend, rows, kv_heads * d, k);
      const KvLayer kv = poisoned_kv(backend, 4, kv_heads * d);
      backend.rope_write(dq.view, dk.view, dv.view, norms, shape, sequence, kv);
      return std::pair(dq.read(), dk.read());
    };
    const auto narrow = [](const std::vector<double>& x) { return std::vector<float>(x.begin(), x.end()); };
    const auto [own_q, own_k] = write(q, k, {&wq, &wk, 1e-5f});
    const auto [expected_q, expected_k] =
        write(narrow(rms_norm({q.begin(), q.end()}, widened(q_norm), 1e-5)),
              narrow(rms_norm({k.begin(), k.end()}, widened(k_norm), 1e-5)), {});
    BOOST_TEST(error_of(own_q, {expected_q.begin(), expected_q.end()}) < float_tolerance);
    BOOST_TEST(error_of(own_k, {expected_k.begin(), expected_k.end()}) < float_tolerance);
  });
}

BOOST_AUTO_TEST_CASE(attention_is_causal_and_grouped_over_what_rope_write_put_into_the_cache) {
  for_each_backend([](const BackendChoice&, Backend& backend) {
    const int64_t d = 32, heads = 4, kv_heads = 2, width = kv_heads * d, total = 130, rows = 70;
    const AttentionShape shape{heads, kv_heads, d, 0.2f};
    TensorMaker maker(6);
    const std::vector<float> q = maker.values(rows * heads * d, 4), k = maker.values(total * width),
                             v = maker.values(total * width);
    const KvLayer kv = poisoned_kv(backend, 4, width);
    const std::vector<uint32_t> table = {2, 0, 3};
    model::Rope still;  // rotates by nothing
    still.frequency_divisors.assign(d / 2, 1e30f);
    const RotationTable rotations(still, d, total);
    backend.set_rope(rotations.view());
    DeviceRows other_q(backend, total, heads * d, maker.values(total * heads * d)),
        dk(backend, total, width, k), dv(backend, total, width, v);
    const SequenceRows written{0, total, 0, table};
    backend.rope_write(other_q.view, dk.view, dv.view, {}, shape, {&written, 1}, kv);

    DeviceRows dq(backend, rows, heads * d, q), out(backend, rows, heads * d);
    const SequenceRows sequence{0, rows, total - rows, table};
    backend.attention(dq.view, shape, {&sequence, 1}, kv, out.view);

    std::vector<double> expected;
    for (int64_t r = 0; r < rows; r++)
      for (int64_t head = 0; head < heads; head++) {
        const int64_t kv_head = head / (heads / kv_heads);
        std::vector<double> weights;
        double sum = 0;
        for (int64_t p = 0; p <= total - rows + r; p++) {
          double score = 0;
          for (int64_t i = 0; i < d; i++)
            score += double{q[(r * heads + head) * d + i]} * k[p * width + kv_head * d + i];
          weights.push_back(std::exp(score * shape.scale));
          sum += weights.back();
        }
        for (int64_t i = 0; i < d; i++) {
          double value = 0;
          for (size_t p = 0; p < weights.size(); p++)
            value += weights[p] / sum * v[p * width + kv_head * d + i];
          expected.push_back(value);
        }
      }
    BOOST_TEST(error_of(out.read(), expected) < 2 * float_tolerance);
  });
}

BOOST_AUTO_TEST_CASE(head_computes_the_listed_rows_only) {
  for_each_backend([](const BackendChoice& choice, Backend& backend) {
    for (DType type : {DType::f32, DType::q8_0}) {
      TensorMaker maker(7);
      const std::vector<float> x = maker.values(4 * 64), delta = maker.values(4 * 64);
      const model::Tensor norm = maker.make({64}, DType::f32, 1), weight = maker.make({50, 64}, type, 1);
      DeviceRows dx(backend, 4, 64, x), dd(backend, 4, 64, delta), logits(backend, 2, 50);
      const std::vector<int32_t> rows = {1, 3};
      backend.head(dx.view, dd.view, backend.adopt(norm), 1e-6f, backend.adopt(weight), rows, logits.view);
      std::vector<double> sum;
      for (int32_t r : rows)
        for (int64_t i = 0; i < 64; i++) sum.push_back(x[r * 64 + i] + delta[r * 64 + i]);
      const std::vector<double> h = rms_norm(sum, widened(norm), 1e-6);
      const std::vector<double> expected = product({h.begin(), h.end()}, widened(weight), 64);
      BOOST_TEST(error_of(logits.read(), expected) < tolerance(choice, type));
    }
  });
}
