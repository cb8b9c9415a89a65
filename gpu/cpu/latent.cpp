#include "gpu/cpu/latent.hpp"

#include <algorithm>
#include <cassert>

#include "gpu/cpu/float_math.hpp"
#include "gpu/cpu/kv_values.hpp"

namespace convoy::gpu {

namespace {

/// A thread's scratch, cut for the head that it works on.
struct HeadScratch {
  float *key = nullptr, *value = nullptr;    // one head's projections: [nope, latent], [value, latent]
  float* row = nullptr;                      // [nope]
  float* entry = nullptr;                    // [latent + rope]
  float* weights = nullptr;                  // [positions]
  float *query = nullptr, *sum = nullptr;    // absorbed: [latent + rope], [latent]
  float *keys = nullptr, *values = nullptr;  // projected up: [positions, nope + rope], [positions, value]
};

/// Cuts memory into the parts that a sequence of so many positions needs; returns how many bytes they take.
size_t cut(std::byte* memory, const LatentShape& s, int64_t positions, bool up, HeadScratch& parts) {
  size_t bytes = 0;
  const auto take = [&](float*& part, int64_t count) {
    constexpr size_t line = 64;
    if (memory) part = reinterpret_cast<float*>(memory + bytes);
    bytes += (static_cast<size_t>(count) * sizeof(float) + line - 1) / line * line;
  };
  take(parts.key, s.nope * s.latent), take(parts.value, s.value * s.latent), take(parts.row, s.nope);
  take(parts.entry, s.latent + s.rope), take(parts.weights, positions);
  if (up)
    take(parts.keys, positions * (s.nope + s.rope)), take(parts.values, positions * s.value);
  else
    take(parts.query, s.latent + s.rope), take(parts.sum, s.latent);
  return bytes;
}

/// The larger of what the two ways need, if a sequence may go both.
size_t scratch_bytes(const LatentShape& shape, int64_t positions, int64_t rows_max) {
  HeadScratch unused;
  size_t bytes = 0;
  for (const bool up : {false, true})
    if (!up || rows_max > shape.absorbed_rows_max)
      bytes = std::max(bytes, cut(nullptr, shape, positions, up, unused));
  return bytes;
}

/// A head's projections as float32.
void read_projections(const LatentProjections& from, const LatentShape& s, int64_t head,
                      const HeadScratch& to) {
  if (from.joint) {
    const int64_t first = head * (s.nope + s.value);
    for (int64_t i = 0; i < s.nope; i++) read_row(*from.joint, first + i, to.key + i * s.latent);
    for (int64_t i = 0; i < s.value; i++) read_row(*from.joint, first + s.nope + i, to.value + i * s.latent);
    return;
  }
  for (int64_t j = 0; j < s.latent; j++) {
    read_row(*from.key, head * s.latent + j, to.row);
    for (int64_t i = 0; i < s.nope; i++) to.key[i * s.latent + j] = to.row[i];
  }
  for (int64_t i = 0; i < s.value; i++) read_row(*from.value, head * s.value + i, to.value + i * s.latent);
}

/// The work of one head on one sequence. q and out: where the head's part of the sequence's first row lies.
struct HeadTask {
  const LatentShape& shape;
  const KvLayer& kv;
  const SequenceRows& sequence;
  const float* q;
  int64_t q_stride;
  float* out;
  int64_t out_stride;
  HeadScratch scratch;

  /// What is cached of a position, [latent + rope]; valid until the next call.
  const float* entry(int64_t position) const {
    return load_kv(kv_entry(kv, 0, sequence, position), shape.latent + shape.rope, kv.type, scratch.entry);
  }
  int64_t seen_by(int64_t row) const { return sequence.first_position + row + 1; }
};

/// Queries go into the latents' space, and what attention gives comes out of it: nothing is computed per
/// cached token but two products of its entry.
void absorbed(const HeadTask& t) {
  const LatentShape& s = t.shape;
  const HeadScratch& own = t.scratch;
  for (int64_t r = 0; r < t.sequence.rows; r++) {
    const float* q = t.q + r * t.q_stride;
    std::fill_n(own.query, s.latent, 0.0f);
    for (int64_t i = 0; i < s.nope; i++) add_scaled(q[i], own.key + i * s.latent, s.latent, own.query);
    std::copy_n(q + s.nope, s.rope, own.query + s.latent);

    const int64_t seen = t.seen_by(r);
    for (int64_t p = 0; p < seen; p++)
      own.weights[p] = s.scale * dot(own.query, t.entry(p), s.latent + s.rope);
    const float total = exponentials({own.weights, static_cast<size_t>(seen)});
    std::fill_n(own.sum, s.latent, 0.0f);
    for (int64_t p = 0; p < seen; p++) add_scaled(own.weights[p], t.entry(p), s.latent, own.sum);
    float* out = t.out + r * t.out_stride;
    for (int64_t i = 0; i < s.value; i++) out[i] = dot(own.value + i * s.latent, own.sum, s.latent) / total;
  }
}

/// Keys and values of every cached token are computed once, and all the rows attend to them.
void projected_up(const HeadTask& t) {
  const LatentShape& s = t.shape;
  const HeadScratch& own = t.scratch;
  const int64_t end = t.sequence.first_position + t.sequence.rows, key_width = s.nope + s.rope;
  for (int64_t p = 0; p < end; p++) {
    const float* entry = t.entry(p);
    float *key = own.keys + p * key_width, *value = own.values + p * s.value;
    for (int64_t i = 0; i < s.nope; i++) key[i] = dot(own.key + i * s.latent, entry, s.latent);
    std::copy_n(entry + s.latent, s.rope, key + s.nope);
    for (int64_t i = 0; i < s.value; i++) value[i] = dot(own.value + i * s.latent, entry, s.latent);
  }
  for (int64_t r = 0; r < t.sequence.rows; r++) {
    const int64_t seen = t.seen_by(r);
    for (int64_t p = 0; p < seen; p++)
      own.weights[p] = s.scale * dot(t.q + r * t.q_stride, own.keys + p * key_width, key_width);
    const float total = exponentials({own.weights, static_cast<size_t>(seen)});
    float* out = t.out + r * t.out_stride;
    std::fill_n(out, s.value, 0.0f);
    for (int64_t p = 0; p < seen; p++) add_scaled(own.weights[p], own.values + p * s.value, s.value, out);
    for (int64_t i = 0; i < s.value; i++) out[i] /= total;
  }
}

}  // namespace

void latent_write(ThreadPool& pool, Rows q, Rows kv_a, const Weight& norm, float eps,
                  const LatentShape& shape, std::span<const SequenceRows> sequences, const KvLayer& kv,
                  const Rotations& rotations) {
  assert(kv_a.width == shape.latent + shape.rope && rotations.width() == shape.rope);
  const int64_t head_width = shape.nope + shape.rope;
  const float* w = vector_values(norm);
  const auto write = [&](const SequenceRows& s, int64_t row) {
    const int64_t position = s.first_position + row - s.first_row;
    float* entry = row_of(kv_a, row);
    rotate(rotations, row_of(q, row) + shape.nope, shape.heads, head_width, position);
    rms_norm(entry, w, shape.latent, eps, entry);
    rotate(rotations, entry + shape.latent, 1, shape.rope, position);
    store_kv(entry, kv_a.width, kv.type, kv_entry(kv, 0, s, position));
  };
  constexpr int64_t rows_per_chunk = 2;  // they wait for the lines of the cache that they write
  pool.parallel_for((q.rows + rows_per_chunk - 1) / rows_per_chunk, [&](int64_t chunk, int) {
    const int64_t first = chunk * rows_per_chunk, last = first + rows_per_chunk;
    for (const SequenceRows& s : sequences) {
      const int64_t end = std::min(last, s.first_row + s.rows);
      for (int64_t row = std::max(first, s.first_row); row < end; row++) write(s, row);
    }
  });
}

size_t latent_scratch_bytes(const StepBounds& bounds) {
  return bounds.latent.heads == 0 ? 0 : scratch_bytes(bounds.latent, bounds.context_tokens, bounds.rows);
}

void latent_attention(ThreadPool& pool, ThreadScratch& scratch, Rows q, const LatentProjections& projections,
                      const LatentShape& shape, std::span<const SequenceRows> sequences, const KvLayer& kv,
                      Rows out) {
  const int64_t head_width = shape.nope + shape.rope;
  for (const SequenceRows& s : sequences)
    scratch.reserve(scratch_bytes(shape, s.first_position + s.rows, s.rows));
  // By heads: each head's projections are read once, whatever the number of rows.
  pool.parallel_for(shape.heads, [&](int64_t head, int thread) {
    HeadScratch own;
    cut(scratch.of(thread), shape, 0, false, own);  // the projections lie first, whatever follows
    read_projections(projections, shape, head, own);
    for (const SequenceRows& s : sequences) {
      const bool up = s.rows > shape.absorbed_rows_max;
      cut(scratch.of(thread), shape, s.first_position + s.rows, up, own);
      const HeadTask task{shape,     kv,
                          s,         row_of(q, s.first_row) + head * head_width,
                          q.width,   row_of(out, s.first_row) + head * shape.value,
                          out.width, own};
      up ? projected_up(task) : absorbed(task);
    }
  });
}

}  // namespace convoy::gpu
