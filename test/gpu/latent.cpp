// Multi-head latent attention: both of its forms against the definition, and each row against itself in other
// company.

#include <algorithm>
#include <cstring>
#include <numeric>

#include "model/format/quantize.hpp"
#include "test/gpu/device_rows.hpp"

using namespace convoy;
using namespace convoy::gpu;
using namespace convoy::gpu::test;
using model::DType;

namespace {

constexpr int64_t heads = 3, latent = 64, nope = 32, rope = 8, value = 24;
constexpr int64_t query = nope + rope, entry = latent + rope;
constexpr int64_t always_absorbed = 1 << 20, never_absorbed = 0;
constexpr float eps = 1e-6f;
constexpr double forms_tolerance = 1e-5;

/// A whole sequence: what its rows bring, and which blocks it has.
struct Sequence {
  std::vector<float> q, kv_a;  // [length, heads · query], [length, entry]
  std::vector<uint32_t> blocks;
  int64_t length() const { return static_cast<int64_t>(kv_a.size()) / entry; }
};

Sequence sequence_of(int64_t length, uint32_t seed, std::vector<uint32_t> blocks) {
  TensorMaker maker(seed);
  return {maker.values(length * heads * query, 2), maker.values(length * entry, 3), std::move(blocks)};
}

/// Lengths around a block's, over blocks in no order.
std::vector<Sequence> ragged() {
  return {sequence_of(1, 31, {6}), sequence_of(65, 32, {9, 2}), sequence_of(64, 33, {0}),
          sequence_of(130, 34, {7, 4, 8})};
}
constexpr int64_t all_blocks = 10;

/// The same numbers joint and split.
struct Projections {
  Projections() {
    TensorMaker maker(35);
    joint = maker.make({heads * (nope + value), latent}, DType::f32, 0.3f);
    key = maker.make({heads * latent, nope}, DType::f32, 0),
    this->values = maker.make({heads * value, latent}, DType::f32, 0);
    for (int64_t h = 0; h < heads; h++) {
      for (int64_t i = 0; i < nope; i++)
        for (int64_t j = 0; j < latent; j++)
          put(key, (h * latent + j) * nope + i, at(joint, (h * (nope + value) + i) * latent + j));
      for (int64_t i = 0; i < value * latent; i++)
        put(values, h * value * latent + i, at(joint, (h * (nope + value) + nope) * latent + i));
    }
  }
  static float at(const model::Tensor& tensor, int64_t index) {
    float number;
    std::memcpy(&number, tensor.bytes.data() + index * 4, 4);
    return number;
  }
  static void put(model::Tensor& tensor, int64_t index, float number) {
    std::memcpy(const_cast<std::byte*>(tensor.bytes.data()) + index * 4, &number, 4);
  }
  model::Tensor joint, key, values;
};

const Projections& projections() {
  static const Projections made;
  return made;
}

/// A matrix of float32 as another type, with scales where the type has some.
model::Tensor encoded(const model::Tensor& wide, DType type) {
  const int64_t rows = wide.rows(), columns = wide.columns();
  std::vector<float> values(static_cast<size_t>(rows * columns));
  std::memcpy(values.data(), wide.bytes.data(), wide.bytes.size());
  model::Tensor tensor{.type = type, .shape = wide.shape, .bytes = {}, .owner = {}};
  auto bytes = std::make_shared<std::vector<std::byte>>(tensor.row_bytes() * static_cast<size_t>(rows));
  auto scales = std::make_shared<std::vector<float>>(model::scale_count(type, rows, columns));
  if (type == DType::f8_e4m3) {
    model::quantize_block_fp8(values, rows, columns, *bytes, *scales);
  } else {
    for (size_t r = 0; r < static_cast<size_t>(rows); r++) {
      const auto row =
          std::span(values).subspan(r * static_cast<size_t>(columns), static_cast<size_t>(columns));
      const auto out = std::span(*bytes).subspan(r * tensor.row_bytes(), tensor.row_bytes());
      if (type == DType::i8)
        (*scales)[r] = model::quantize_row_i8(row, out);
      else
        model::quantize_row(type, row, out);
    }
  }
  tensor.bytes = *bytes, tensor.owner = {bytes, nullptr};
  tensor.scales = std::as_bytes(std::span(*scales)), tensor.scales_owner = {scales, nullptr};
  return tensor;
}

const model::Tensor& norm() {
  static const model::Tensor made = TensorMaker(36).make({latent}, DType::f32, 1);
  return made;
}

LatentShape shape_of(int64_t absorbed_rows_max) {
  return {heads, latent, nope, rope, value, 0.15f, absorbed_rows_max};
}

/// Every byte is `filling`.
KvLayer filled_kv(Backend& backend, DType type, int filling) {
  const size_t bytes =
      static_cast<size_t>(all_blocks * kv_block_tokens * entry) * model::info(type).block_bytes;
  KvLayer kv{{{backend.allocate(bytes), entry}}, all_blocks, type};
  std::memset(kv.streams[0].memory.get(), filling, bytes);
  return kv;
}

struct Way {
  int64_t absorbed_rows_max = always_absorbed;
  int64_t chunk = 512;  // rows of a sequence in a step
  bool joint = true;
  DType type = DType::f32;     // of the cache
  DType weights = DType::f32;  // of the projections
};

/// Runs the sequences side by side; the rows of each, [length, heads · value].
std::vector<std::vector<float>> run(Backend& backend, const std::vector<Sequence>& sequences,
                                    const Way& way) {
  model::Rope rotation;
  rotation.pairs = model::RopePairs::interleaved;
  const RotationTable rotations(rotation, rope, 512);
  backend.set_rope(rotations.view());
  const auto adopt = [&](const model::Tensor& tensor) { return backend.adopt(encoded(tensor, way.weights)); };
  const Weight weight = backend.adopt(norm()), joint = adopt(projections().joint),
               key = adopt(projections().key), values = adopt(projections().values);
  const LatentProjections split{nullptr, &key, &values}, whole{&joint, nullptr, nullptr};
  const LatentShape shape = shape_of(way.absorbed_rows_max);
  const KvLayer kv = filled_kv(backend, way.type, 0xff);  // a NaN in every type

  std::vector<std::vector<float>> results(sequences.size());
  for (int64_t position = 0;; position += way.chunk) {
    std::vector<SequenceRows> step;
    std::vector<float> q, kv_a;
    std::vector<size_t> who;
    for (size_t i = 0; i < sequences.size(); i++) {
      const Sequence& s = sequences[i];
      const int64_t rows = std::min(way.chunk, s.length() - position);
      if (rows <= 0) continue;
      step.push_back({static_cast<int64_t>(kv_a.size()) / entry, rows, position, s.blocks});
      q.insert(q.end(), s.q.begin() + position * heads * query,
               s.q.begin() + (position + rows) * heads * query);
      kv_a.insert(kv_a.end(), s.kv_a.begin() + position * entry, s.kv_a.begin() + (position + rows) * entry);
      who.push_back(i);
    }
    if (step.empty()) return results;
    const int64_t rows = static_cast<int64_t>(kv_a.size()) / entry;
    DeviceRows dq(backend, rows, heads * query, q), dkv(backend, rows, entry, kv_a),
        out(backend, rows, heads * value);
    backend.latent_write(dq.view, dkv.view, weight, eps, shape, step, kv);
    backend.latent_attention(dq.view, way.joint ? whole : split, shape, step, kv, out.view);
    const std::vector<float> own = out.read();
    for (size_t i = 0; i < step.size(); i++) {
      const auto first = own.begin() + step[i].first_row * heads * value;
      results[who[i]].insert(results[who[i]].end(), first, first + step[i].rows * heads * value);
    }
  }
}

/// Rotates neighbouring pairs at a position.
void rotate(std::vector<double>& x, size_t first, int64_t position) {
  for (int64_t i = 0; i < rope; i += 2) {
    const double angle = static_cast<double>(position) * std::pow(10000.0, -static_cast<double>(i) / rope);
    double &a = x[first + static_cast<size_t>(i)], &b = x[first + static_cast<size_t>(i) + 1];
    const double turned = a * std::cos(angle) - b * std::sin(angle);
    b = b * std::cos(angle) + a * std::sin(angle), a = turned;
  }
}

/// The paper's formulas, word by word: keys and values of all heads from the normalised latents.
std::vector<double> by_definition(const Sequence& s) {
  const std::vector<float> w = widened(norm()), kv_b = widened(projections().joint);
  std::vector<double> entries(s.kv_a.begin(), s.kv_a.end()), q(s.q.begin(), s.q.end()), out;
  for (int64_t p = 0; p < s.length(); p++) {
    double* c = entries.data() + p * entry;
    const double squares = std::inner_product(c, c + latent, c, 0.0);
    for (int64_t i = 0; i < latent; i++) c[i] *= w[i] / std::sqrt(squares / latent + eps);
    rotate(entries, static_cast<size_t>(p * entry + latent), p);
    for (int64_t h = 0; h < heads; h++) rotate(q, static_cast<size_t>((p * heads + h) * query + nope), p);
  }
  const auto projected = [&](int64_t p, int64_t h, int64_t row) {
    const double* c = entries.data() + p * entry;
    return std::inner_product(c, c + latent, kv_b.data() + (h * (nope + value) + row) * latent, 0.0);
  };
  for (int64_t r = 0; r < s.length(); r++)
    for (int64_t h = 0; h < heads; h++) {
      const double* own = q.data() + (r * heads + h) * query;
      std::vector<double> result(value, 0.0);
      double sum = 0;
      for (int64_t p = 0; p <= r; p++) {
        double score = std::inner_product(own + nope, own + query, entries.data() + p * entry + latent, 0.0);
        for (int64_t i = 0; i < nope; i++) score += own[i] * projected(p, h, i);
        const double weight = std::exp(score * double{0.15f});
        sum += weight;
        for (int64_t i = 0; i < value; i++) result[i] += weight * projected(p, h, nope + i);
      }
      for (const double number : result) out.push_back(number / sum);
    }
  return out;
}

double difference(const std::vector<float>& a, const std::vector<float>& b) {
  return error_of(a, std::vector<double>(b.begin(), b.end()));
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

BOOST_AUTO_TEST_CASE(both_forms_give_what_the_definition_gives) {
  const std::vector<Sequence> sequences = ragged();
  std::vector<std::vector<double>> expected;
  for (const Sequence& s : sequences) expected.push_back(by_definition(s));
  for_each_backend([&](const BackendChoice&, Backend& backend) {
    for (const bool joint : {true, false}) {
      const auto absorbed = run(backend, sequences, {.absorbed_rows_max = always_absorbed, .joint = joint});
      const auto projected = run(backend, sequences, {.absorbed_rows_max = never_absorbed, .joint = joint});
      const auto mixed = run(backend, sequences, {.absorbed_rows_max = 64, .chunk = 100, .joint = joint});
      for (size_t i = 0; i < sequences.size(); i++)
        BOOST_TEST_CONTEXT(sequences[i].length() << " tokens, projections " << (joint ? "joint" : "split")) {
          BOOST_TEST(error_of(absorbed[i], expected[i]) < forms_tolerance);
          BOOST_TEST(error_of(projected[i], expected[i]) < forms_tolerance);
          BOOST_TEST(error_of(mixed[i], expected[i]) < forms_tolerance);
          BOOST_TEST(difference(absorbed[i], projected[i]) < forms_tolerance);
        }
      BOOST_TEST(!same_bits(absorbed[3], projected[3]));  // or one form was compared with itself
    }
  });
}

BOOST_AUTO_TEST_CASE(projections_of_every_type_give_what_the_reference_makes_of_them) {
  const std::vector<Sequence> sequences = ragged();
  const auto reference = make_cpu_backend(Kernels::reference, 1);
  for (const DType type :
       {DType::f16, DType::bf16, DType::f8_e4m3, DType::i8, DType::q8_0, DType::q4_0, DType::q4_1})
    for (const bool joint : {true, false}) {
      const Way way{.joint = joint, .weights = type};
      const auto expected = run(*reference, sequences, way);
      for_each_backend([&](const BackendChoice& choice, Backend& backend) {
        const auto own = run(backend, sequences, way);
        for (size_t i = 0; i < sequences.size(); i++)
          BOOST_TEST(difference(own[i], expected[i]) < std::max(tolerance(choice, type), forms_tolerance),
                     model::info(type).name << ", projections " << (joint ? "joint" : "split"));
      });
    }
}

BOOST_AUTO_TEST_CASE(a_row_has_the_same_bits_in_any_company) {
  const std::vector<Sequence> sequences = ragged();
  for (Way way : {Way{}, Way{.joint = false}, Way{.type = DType::bf16}, Way{.type = DType::f16},
                  Way{.type = DType::f8_e4m3}, Way{.weights = DType::q8_0},
                  Way{.joint = false, .weights = DType::q8_0}, Way{.absorbed_rows_max = never_absorbed}}) {
    std::vector<std::vector<float>> alone_with[2];
    for_each_backend([&](const BackendChoice& choice, Backend& backend) {
      auto& alone = alone_with[choice.kernels == Kernels::fast];
      if (alone.empty())
        for (const Sequence& s : sequences) alone.push_back(run(backend, {s}, way)[0]);
      for (const int64_t chunk : {1, 7, 64, 512}) BOOST_TEST_CONTEXT("chunks of " << chunk) {
          way.chunk = chunk;
          // Last comes first, on blocks that all differ.
          std::vector<Sequence> others(sequences.rbegin(), sequences.rend());
          uint32_t block = all_blocks;
          for (Sequence& s : others)
            for (uint32_t& b : s.blocks) b = --block;
          const auto own = run(backend, sequences, way), moved = run(backend, others, way);
          for (size_t i = 0; i < sequences.size(); i++) {
            BOOST_TEST(same_bits(own[i], alone[i]));
            BOOST_TEST(same_bits(moved[sequences.size() - 1 - i], alone[i]));
          }
        }
    });
  }
}

BOOST_AUTO_TEST_CASE(a_narrow_cache_costs_no_more_than_its_rounding) {
  const std::vector<Sequence> sequences = ragged();
  for_each_backend([&](const BackendChoice&, Backend& backend) {
    for (const int64_t form : {always_absorbed, never_absorbed}) {
      const auto wide = run(backend, sequences, {.absorbed_rows_max = form});
      // To nearest: half of the last of 8, 11 and 4 bits. Scores and values are rounded both, hence twice.
      for (const auto& [type, rounding] :
           {std::pair{DType::bf16, 1.0 / 512}, {DType::f16, 1.0 / 4096}, {DType::f8_e4m3, 1.0 / 32}}) {
        const auto narrow = run(backend, sequences, {.absorbed_rows_max = form, .type = type});
        for (size_t i = 0; i < sequences.size(); i++) {
          BOOST_TEST(difference(narrow[i], wide[i]) < 2 * rounding);
          BOOST_TEST(difference(narrow[i], wide[i]) > rounding / 100);  // or it was not narrow
        }
      }
    }
  });
}

BOOST_AUTO_TEST_CASE(an_entry_takes_latent_and_key_in_the_caches_type_and_nothing_else) {
  model::Config v3;
  v3.latent = model::LatentAttention{.latent = 512, .nope = 128, .rope = 64, .value = 128};
  const std::vector<model::CacheStream> streams = model::cache_streams(v3);
  BOOST_REQUIRE(streams.size() == 1u);
  const auto token_bytes = [&](DType type) {
    return streams[0].width / streams[0].tokens_per_entry * model::info(type).block_bytes;
  };
  BOOST_TEST(token_bytes(DType::bf16) == 1152);
  BOOST_TEST(token_bytes(DType::f16) == 1152);
  BOOST_TEST(token_bytes(DType::f8_e4m3) == 576);
  BOOST_TEST(token_bytes(DType::f32) == 2304);

  // 70 tokens into blocks 7 and 4: bytes that kept two different fillings were not written.
  const Sequence s = sequence_of(70, 37, {7, 4});
  for_each_backend([&](const BackendChoice&, Backend& backend) {
    const RotationTable rotations({}, rope, 512);
    backend.set_rope(rotations.view());
    for (const DType type : {DType::f32, DType::bf16, DType::f16, DType::f8_e4m3}) {
      const int64_t block_bytes = kv_block_tokens * entry * model::info(type).block_bytes;
      std::vector<bool> written(static_cast<size_t>(all_blocks * block_bytes), false);
      for (const int filling : {0x55, 0xaa}) {
        const KvLayer kv = filled_kv(backend, type, filling);
        DeviceRows q(backend, 70, heads * query, s.q), kv_a(backend, 70, entry, s.kv_a);
        const SequenceRows rows{0, 70, 0, s.blocks};
        backend.latent_write(q.view, kv_a.view, backend.adopt(norm()), eps, shape_of(0), {&rows, 1}, kv);
        const auto* bytes = static_cast<const unsigned char*>(kv.streams[0].memory.get());
        for (size_t i = 0; i < written.size(); i++) written[i] = written[i] || bytes[i] != filling;
      }
      for (int64_t b = 0; b < all_blocks; b++) {
        const auto first = written.begin() + b * block_bytes;
        const int64_t tokens = b == 7 ? 64 : b == 4 ? 6 : 0;
        BOOST_TEST(std::count(first, first + block_bytes, true) ==
                   tokens * entry * model::info(type).block_bytes);
      }
    }
  });
}
