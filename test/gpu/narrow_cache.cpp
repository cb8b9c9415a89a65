// Grouped-query attention over caches in bf16, f16 and f8_e4m3: exact but for the rounding of what was
// written.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "test/gpu/device_rows.hpp"

using namespace convoy;
using namespace convoy::gpu;
using namespace convoy::gpu::test;
using model::DType;

namespace {

constexpr AttentionShape shape{.heads = 4, .kv_heads = 2, .head_dim = 32, .scale = 0.2f};
constexpr int64_t q_width = shape.heads * shape.head_dim, width = shape.kv_heads * shape.head_dim;
constexpr int64_t all_blocks = 9;

struct Sequence {
  std::vector<float> q, k, v;
  std::vector<uint32_t> blocks;
  int64_t length() const { return static_cast<int64_t>(k.size()) / width; }
};

Sequence sequence_of(int64_t length, uint32_t seed, std::vector<uint32_t> blocks) {
  TensorMaker maker(seed);
  return {maker.values(length * q_width, 3), maker.values(length * width, 2), maker.values(length * width),
          std::move(blocks)};
}

std::vector<Sequence> ragged() {
  return {sequence_of(70, 41, {5, 0}), sequence_of(1, 42, {8}), sequence_of(64, 43, {2}),
          sequence_of(131, 44, {7, 1, 4})};
}

constexpr DType narrow_types[]{DType::bf16, DType::f16, DType::f8_e4m3};

float rounded(float value, DType type) {
  if (type == DType::bf16) return model::bf16_to_f32(model::f32_to_bf16(value));
  if (type == DType::f8_e4m3) return model::f8_e4m3_to_f32(model::f32_to_f8_e4m3(value));
  return model::f16_to_f32(model::f32_to_f16(value));
}

/// Runs the sequences side by side in steps of at most `chunk` rows of each, without rotations, so that the
/// cache holds exactly k and v; the rows of each sequence.
std::vector<std::vector<float>> run(Backend& backend, const std::vector<Sequence>& sequences, DType type,
                                    int64_t chunk) {
  model::Rope still;
  still.frequency_divisors.assign(shape.head_dim / 2, 1e30f);
  const RotationTable rotations(still, shape.head_dim, 512);
  backend.set_rope(rotations.view());
  const size_t bytes =
      static_cast<size_t>(all_blocks * kv_block_tokens * width) * model::info(type).block_bytes;
  KvLayer kv{{{backend.allocate(bytes), width}, {backend.allocate(bytes), width}}, all_blocks, type};
  for (const KvStream& stream : kv.streams) std::memset(stream.memory.get(), 0xff, bytes);  // NaNs

  std::vector<std::vector<float>> results(sequences.size());
  for (int64_t position = 0;; position += chunk) {
    std::vector<SequenceRows> step;
    std::vector<float> q, k, v;
    std::vector<size_t> who;
    for (size_t i = 0; i < sequences.size(); i++) {
      const Sequence& s = sequences[i];
      const int64_t rows = std::min(chunk, s.length() - position);
      if (rows <= 0) continue;
      step.push_back({static_cast<int64_t>(k.size()) / width, rows, position, s.blocks});
      who.push_back(i);
      const auto append = [&](std::vector<float>& to, const std::vector<float>& from, int64_t of_row) {
        to.insert(to.end(), from.begin() + position * of_row, from.begin() + (position + rows) * of_row);
      };
      append(q, s.q, q_width), append(k, s.k, width), append(v, s.v, width);
    }
    if (step.empty()) return results;
    const int64_t rows = static_cast<int64_t>(k.size()) / width;
    DeviceRows dq(backend, rows, q_width, q), dk(backend, rows, width, k), dv(backend, rows, width, v),
        out(backend, rows, q_width);
    backend.rope_write(dq.view, dk.view, dv.view, {}, shape, step, kv);
    backend.attention(dq.view, shape, step, kv, out.view);
    const std::vector<float> own = out.read();
    for (size_t i = 0; i < step.size(); i++) {
      const auto first = own.begin() + step[i].first_row * q_width;
      results[who[i]].insert(results[who[i]].end(), first, first + step[i].rows * q_width);
    }
  }
}

/// To nearest: half of the last of 8, 11 and 4 bits.
double rounding_of(DType type) {
  return type == DType::bf16 ? 1.0 / 512 : type == DType::f16 ? 1.0 / 4096 : 1.0 / 32;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_narrow_cache_gives_the_bits_of_a_wide_one_that_holds_rounded_values) {
  const std::vector<Sequence> sequences = ragged();
  for_each_backend([&](const BackendChoice&, Backend& backend) {
    for (const DType type : narrow_types)
      for (const int64_t chunk : {1, 20, 512})
        BOOST_TEST_CONTEXT(model::info(type).name << ", chunks of " << chunk) {
          std::vector<Sequence> before = sequences;
          for (Sequence& s : before)
            for (auto* values : {&s.k, &s.v})
              for (float& value : *values) value = rounded(value, type);
          const auto narrow = run(backend, sequences, type, chunk),
                     wide = run(backend, before, DType::f32, chunk),
                     exact = run(backend, sequences, DType::f32, chunk);
          for (size_t i = 0; i < sequences.size(); i++) {
            BOOST_TEST(same_bits(narrow[i], wide[i]));
            const double error = error_of(narrow[i], {exact[i].begin(), exact[i].end()});
            BOOST_TEST(error < 2 * rounding_of(type));
            BOOST_TEST(error > 1e-5);  // or nothing was rounded
          }
        }
  });
}

BOOST_AUTO_TEST_CASE(a_row_over_a_narrow_cache_has_the_same_bits_in_any_company) {
  const std::vector<Sequence> sequences = ragged();
  for (const DType type : narrow_types) {
    std::vector<std::vector<float>> alone[2];
    for_each_backend([&](const BackendChoice& choice, Backend& backend) {
      auto& expected = alone[choice.kernels == Kernels::fast];
      if (expected.empty())
        for (const Sequence& s : sequences) expected.push_back(run(backend, {s}, type, 512)[0]);
      for (const int64_t chunk : {1, 7, 64, 512}) BOOST_TEST_CONTEXT("chunks of " << chunk) {
          const auto own = run(backend, sequences, type, chunk);
          for (size_t i = 0; i < sequences.size(); i++) BOOST_TEST(same_bits(own[i], expected[i]));
        }
    });
  }
}

// A sequence of one token attends to nothing but its own value, with a weight of 1.
BOOST_AUTO_TEST_CASE(what_8_bits_cannot_hold_is_kept_as_448_and_what_is_not_a_number_stays_so) {
  constexpr float infinity = std::numeric_limits<float>::infinity(), nan = std::nanf("");
  constexpr std::pair<float, float> kept[]{
      {448, 448},      {464, 448},          {465, 448}, {1e30f, 448}, {-449, -448},   {-infinity, -448},
      {infinity, 448}, {nan, nan},          {17, 16},   {19, 20},     {-0x1p-10f, 0}, {0x1.8p-9f, 0x1p-8f},
      {0.3f, 0.3125f}, {-0x1p-9f, -0x1p-9f}};
  Sequence one = sequence_of(1, 45, {3});
  std::vector<float> expected = one.v;
  for (float& value : expected) value = rounded(value, DType::f8_e4m3);
  for (size_t i = 0; i < std::size(kept); i++) one.v[i + 9] = kept[i].first, expected[i + 9] = kept[i].second;
  for_each_backend([&](const BackendChoice&, Backend& backend) {
    const std::vector<float> own = run(backend, {one}, DType::f8_e4m3, 1)[0];
    for (int64_t i = 0; i < q_width; i++) {
      const int64_t head = i / shape.head_dim, key_head = head / (shape.heads / shape.kv_heads);
      const float value = expected[static_cast<size_t>(key_head * shape.head_dim + i % shape.head_dim)];
      const float found = own[static_cast<size_t>(i)];
      BOOST_TEST((std::isnan(value) ? std::isnan(found) : found == value),
                 "value " << i << " is " << found << " instead of " << value);
    }
  });
}

// Keys lie elsewhere than values: theirs show in the scores.
BOOST_AUTO_TEST_CASE(keys_beyond_8_bits_are_kept_as_448) {
  std::vector<Sequence> far = ragged(), clamped = far;
  for (size_t i = 0; i < far.size(); i++) {
    for (float& value : far[i].q) value /= 300;
    clamped[i].q = far[i].q;
    for (size_t j = 0; j < far[i].k.size(); j++) {
      far[i].k[j] *= 300;  // up to ±600
      clamped[i].k[j] = std::clamp(far[i].k[j], -448.0f, 448.0f);
    }
  }
  for_each_backend([&](const BackendChoice&, Backend& backend) {
    const auto own = run(backend, far, DType::f8_e4m3, 20),
               expected = run(backend, clamped, DType::f8_e4m3, 20),
               exact = run(backend, far, DType::f32, 20);
    for (size_t i = 0; i < far.size(); i++) BOOST_TEST(same_bits(own[i], expected[i]));
    BOOST_TEST(error_of(own[3], {exact[3].begin(), exact[3].end()}) > 1e-3);  // or nothing was clamped
  });
}
