#include "gpu/cpu/latent.hpp"

#include <algorithm>
#include <cassert>
#include <memory>
#include <vector>

#include "gpu/cpu/float_math.hpp"
#include "gpu/cpu/kv_values.hpp"

namespace convoy::gpu {

namespace {

/// The cached entries of one sequence, by position.
class Entries {
 public:
  Entries(const KvLayer& kv, const SequenceRows& sequence)
      : kv_(kv), sequence_(sequence), width_(kv.streams[0].width), scratch_(static_cast<size_t>(width_)) {}
  /// [latent + rope]; valid until the next call.
  const float* at(int64_t position) { return load_kv(place(position), width_, kv_.type, scratch_.data()); }
  std::byte* place(int64_t position) const { return kv_entry(kv_, 0, sequence_, position); }

 private:
  const KvLayer& kv_;
  const SequenceRows& sequence_;
  int64_t width_;
  std::vector<float> scratch_;
};

/// One head's projections as float32: key [nope, latent], value [value, latent].
struct HeadProjections {
  HeadProjections(const LatentProjections& from, const LatentShape& shape, int64_t head)
      : key(std::make_unique_for_overwrite<float[]>(static_cast<size_t>(shape.nope * shape.latent))),
        value(std::make_unique_for_overwrite<float[]>(static_cast<size_t>(shape.value * shape.latent))) {
    if (from.joint) {
      const WeightRows rows(*from.joint);
      const int64_t first = head * (shape.nope + shape.value);
      for (int64_t i = 0; i < shape.nope; i++) rows.read(first + i, key.get() + i * shape.latent);
      for (int64_t i = 0; i < shape.value; i++)
        rows.read(first + shape.nope + i, value.get() + i * shape.latent);
      return;
    }
    WeightRows transposed(*from.key);
    for (int64_t j = 0; j < shape.latent; j++) {
      const float* row = transposed.row(head * shape.latent + j);
      for (int64_t i = 0; i < shape.nope; i++) key[static_cast<size_t>(i * shape.latent + j)] = row[i];
    }
    const WeightRows rows(*from.value);
    for (int64_t i = 0; i < shape.value; i++)
      rows.read(head * shape.value + i, value.get() + i * shape.latent);
  }
  std::unique_ptr<float[]> key, value;  // not zeroed first: as large as the weights themselves
};

/// The work of one head on one sequence. q and out: where the head's part of the sequence's first row lies.
struct HeadTask {
  const LatentShape& shape;
  const HeadProjections& head;
  const SequenceRows& sequence;
  const float* q;
  int64_t q_stride;
  float* out;
  int64_t out_stride;
};

/// Queries go into the latents' space, and what attention gives comes out of it: nothing is computed per
/// cached token but two products of its entry.
void absorbed(const HeadTask& t, Entries& entries) {
  const LatentShape& s = t.shape;
  std::vector<float> query(static_cast<size_t>(s.latent + s.rope)), sum(static_cast<size_t>(s.latent)),
      weights;
  for (int64_t r = 0; r < t.sequence.rows; r++) {
    const float* q = t.q + r * t.q_stride;
    std::fill_n(query.begin(), s.latent, 0.0f);
    for (int64_t i = 0; i < s.nope; i++)
      add_scaled(q[i], t.head.key.get() + i * s.latent, s.latent, query.data());
    std::copy_n(q + s.nope, s.rope, query.begin() + s.latent);

    const int64_t seen = t.sequence.first_position + r + 1;
    weights.resize(static_cast<size_t>(seen));
    for (int64_t p = 0; p < seen; p++)
      weights[p] = s.scale * dot(query.data(), entries.at(p), s.latent + s.rope);
    const float total = exponentials(weights);
    std::fill(sum.begin(), sum.end(), 0.0f);
    for (int64_t p = 0; p < seen; p++) add_scaled(weights[p], entries.at(p), s.latent, sum.data());
    float* out = t.out + r * t.out_stride;
    for (int64_t i = 0; i < s.value; i++)
      out[i] = dot(t.head.value.get() + i * s.latent, sum.data(), s.latent) / total;
  }
}

/// Keys and values of every cached token are computed once, and all the rows attend to them.
void projected_up(const HeadTask& t, Entries& entries) {
  const LatentShape& s = t.shape;
  const int64_t end = t.sequence.first_position + t.sequence.rows, key_width = s.nope + s.rope;
  std::vector<float> keys(static_cast<size_t>(end * key_width)), values(static_cast<size_t>(end * s.value)),
      weights;
  for (int64_t p = 0; p < end; p++) {
    const float* entry = entries.at(p);
    float* key = keys.data() + p * key_width;
    for (int64_t i = 0; i < s.nope; i++) key[i] = dot(t.head.key.get() + i * s.latent, entry, s.latent);
    std::copy_n(entry + s.latent, s.rope, key + s.nope);
    for (int64_t i = 0; i < s.value; i++)
      values[static_cast<size_t>(p * s.value + i)] = dot(t.head.value.get() + i * s.latent, entry, s.latent);
  }
  for (int64_t r = 0; r < t.sequence.rows; r++) {
    const int64_t seen = t.sequence.first_position + r + 1;
    weights.resize(static_cast<size_t>(seen));
    for (int64_t p = 0; p < seen; p++)
      weights[p] = s.scale * dot(t.q + r * t.q_stride, keys.data() + p * key_width, key_width);
    const float total = exponentials(weights);
    float* out = t.out + r * t.out_stride;
    std::fill_n(out, s.value, 0.0f);
    for (int64_t p = 0; p < seen; p++) add_scaled(weights[p], values.data() + p * s.value, s.value, out);
    for (int64_t i = 0; i < s.value; i++) out[i] /= total;
  }
}

}  // namespace

void latent_write(Rows q, Rows kv_a, const Weight& norm, float eps, const LatentShape& shape,
                  std::span<const SequenceRows> sequences, const KvLayer& kv, const RopeTable& rope) {
  assert(kv_a.width == shape.latent + shape.rope && rope.width() == shape.rope);
  const int64_t head_width = shape.nope + shape.rope;
  WeightRows weight(norm);
  const float* w = weight.row(0);
  for (const SequenceRows& s : sequences) {
    const Entries entries(kv, s);
    for (int64_t i = 0; i < s.rows; i++) {
      const int64_t row = s.first_row + i, position = s.first_position + i;
      float* entry = row_of(kv_a, row);
      rope.rotate(row_of(q, row) + shape.nope, shape.heads, head_width, position);
      rms_norm(entry, w, shape.latent, eps, entry);
      rope.rotate(entry + shape.latent, 1, shape.rope, position);
      store_kv(entry, kv_a.width, kv.type, entries.place(position));
    }
  }
}

void latent_attention(ThreadPool& pool, Rows q, const LatentProjections& projections,
                      const LatentShape& shape, std::span<const SequenceRows> sequences, const KvLayer& kv,
                      Rows out) {
  const int64_t head_width = shape.nope + shape.rope;
  // By heads: each head's projections are read once, whatever the number of rows.
  pool.parallel_for(shape.heads, [&](int64_t head, int) {
    const HeadProjections own(projections, shape, head);
    for (const SequenceRows& s : sequences) {
      Entries entries(kv, s);
      const HeadTask task{shape,    own,
                          s,        row_of(q, s.first_row) + head * head_width,
                          q.width,  row_of(out, s.first_row) + head * shape.value,
                          out.width};
      if (s.rows > shape.absorbed_rows_max)
        projected_up(task, entries);
      else
        absorbed(task, entries);
    }
  });
}

}  // namespace convoy::gpu
