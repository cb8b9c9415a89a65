#include "gpu/cpu/fast_latent.hpp"

#include <cstddef>

#include "gpu/cpu/float_math.hpp"
#include "gpu/cpu/latent.hpp"

namespace convoy::gpu {

namespace {

/// Heads that are compared with the cache together: each entry is read once for all of them.
constexpr int64_t heads_together = 16;

/// Whether linear_transposed computes on that type.
bool transposes(model::DType type) { return !quantized(type) || type == model::DType::q8_0; }

/// A thread's memory for one head of some rows.
struct AbsorbedScratch {
  float *in = nullptr, *out = nullptr;  // a product's, row after row
  float* widened = nullptr;             // a head's projection, where its type isn't computed on
  Activations quantised{};              // `in`
  std::byte* linear = nullptr;
};

/// Cuts memory into these parts; returns how many bytes they take.
size_t cut(std::byte* memory, const LatentShape& s, int64_t rows, AbsorbedScratch& parts) {
  size_t bytes = 0;
  const auto take = [&]<class T>(T*& part, int64_t count) {
    constexpr size_t line = 64;
    if (memory) part = reinterpret_cast<T*>(memory + bytes);
    bytes += (static_cast<size_t>(count) * sizeof(T) + line - 1) / line * line;
  };
  const int64_t columns = std::max(s.nope, s.latent), blocks = rows * columns / 32 + 1;
  take(parts.in, rows * columns), take(parts.out, rows * std::max(s.value, s.latent));
  take(parts.widened, std::max(s.nope, s.value) * s.latent);
  Activations& x = parts.quantised;
  take(x.q, rows * columns), take(x.d, blocks), take(x.s, blocks);
  take(x.sum, blocks), take(x.sum_low, blocks), take(x.sum_high, blocks);
  take(parts.linear, static_cast<int64_t>(linear_scratch_bytes(columns)));
  return bytes;
}

size_t score_bytes(int64_t heads, int64_t keys) {
  return static_cast<size_t>(std::min(heads, heads_together) * LatentTask::score_stride(keys)) *
         sizeof(float);
}

/// Rows of a weight as kernels take them.
struct WeightRows {
  model::DType type = model::DType::f32;
  const std::byte *weights = nullptr, *scales = nullptr;
  int64_t row_bytes = 0;
};

/// `count` rows from `first` on: in place if the kernel takes that, else widened.
WeightRows rows_from(const Weight& w, int64_t first, int64_t count, bool in_place, float* widened) {
  const bool by_row = w.type == model::DType::i8;
  if (w.packed && first % output_tile != 0) in_place = false;                  // within a tile
  if (w.scales && !by_row && first % model::fp8_block != 0) in_place = false;  // within a block of scales
  if (!in_place) {
    for (int64_t i = 0; i < count; ++i) read_row(w, first + i, widened + i * w.columns);
    return {.weights = reinterpret_cast<const std::byte*>(widened),
            .row_bytes = w.columns * static_cast<int64_t>(sizeof(float))};
  }
  const model::DTypeInfo& type = model::info(w.type);
  const int64_t row_bytes = w.columns / type.block_values * type.block_bytes;
  WeightRows rows{w.type, static_cast<const std::byte*>(w.data()) + first * row_bytes, nullptr, row_bytes};
  const int64_t scale = by_row ? first : first / model::fp8_block * model::fp8_blocks(w.columns);
  if (w.scales)
    rows.scales = static_cast<const std::byte*>(w.scales.get()) + scale * static_cast<int64_t>(sizeof(float));
  return rows;
}

/// The work on some rows of a step.
struct Band {
  const KernelTable& kernels;
  const LatentShape& shape;
  const LatentProjections& projections;
  std::span<const LatentRow> rows;
  const KvLayer& kv;
  Rows q, out;
  float *queries, *values;  // as LatentRooms has them

  int64_t count() const { return static_cast<int64_t>(rows.size()); }
  int64_t width() const { return shape.latent + shape.rope; }
  float* queries_of(int64_t head) const { return queries + head * count() * width(); }
  float* values_of(int64_t head) const { return values + head * count() * shape.latent; }

  /// own.out = own.in · weightsᵀ, [count(), outputs]
  void multiply(const WeightRows& weights, int64_t outputs, int64_t columns, const float* in,
                const AbsorbedScratch& own) const {
    Activations x{.values = in, .rows = count(), .columns = columns};
    if (quantized(weights.type)) {
      x = own.quantised;
      x.values = in, x.rows = count(), x.columns = columns;
      for (int64_t r = 0; r < count(); ++r) kernels.quantize_row(x, r);
    }
    const Product product{.type = weights.type,
                          .weights = weights.weights,
                          .scales = weights.scales,
                          .row_bytes = weights.row_bytes,
                          .outputs = outputs,
                          .out = own.out};
    kernels.linear(product, 0, outputs, x, own.linear);
  }

  /// A head's queries, moved into the latents' space.
  void move_queries(int64_t head, const AbsorbedScratch& own) const {
    const LatentShape& s = shape;
    float* const to = queries_of(head);
    for (int64_t r = 0; r < count(); ++r) {
      const float* const from = row_of(q, rows[static_cast<size_t>(r)].row) + head * (s.nope + s.rope);
      std::copy_n(from, s.nope, own.in + r * s.nope);
      std::copy_n(from + s.nope, s.rope, to + r * width() + s.latent);
    }
    if (projections.joint) {
      const WeightRows key = rows_from(*projections.joint, head * (s.nope + s.value), s.nope,
                                       transposes(projections.joint->type), own.widened);
      kernels.linear_transposed(
          {key.type, key.weights, key.scales, key.row_bytes, s.nope, s.latent, own.in, count(), to, width()});
      return;
    }
    multiply(rows_from(*projections.key, head * s.latent, s.latent, true, own.widened), s.latent, s.nope,
             own.in, own);
    for (int64_t r = 0; r < count(); ++r) std::copy_n(own.out + r * s.latent, s.latent, to + r * width());
  }

  /// Some heads of a row against its sequence's entries.
  void attend(int64_t row, int64_t head, int64_t heads, float* scores) const {
    const LatentRow& of = rows[static_cast<size_t>(row)];
    LatentTask t;
    t.q = queries_of(head) + row * width(), t.q_stride = count() * width();
    t.out = values_of(head) + row * shape.latent, t.out_stride = count() * shape.latent;
    t.queries = heads, t.keys = of.keys;
    t.width = width(), t.values = shape.latent, t.scale = shape.scale;
    t.blocks = of.blocks, t.type = kv.type, t.entries = kv.streams[0].memory.get(), t.scores = scores;
    kernels.latent_attention(t);
  }

  /// What a head attended to, out of the latents' space.
  void move_values(int64_t head, const AbsorbedScratch& own) const {
    const LatentShape& s = shape;
    const bool joint = projections.joint != nullptr;
    const WeightRows value =
        joint ? rows_from(*projections.joint, head * (s.nope + s.value) + s.nope, s.value, true, own.widened)
              : rows_from(*projections.value, head * s.value, s.value, true, own.widened);
    multiply(value, s.value, s.latent, values_of(head), own);
    for (int64_t r = 0; r < count(); ++r)
      std::copy_n(own.out + r * s.value, s.value,
                  row_of(out, rows[static_cast<size_t>(r)].row) + head * s.value);
  }
};

/// As many heads as read entries together without leaving threads idle.
int64_t heads_per_task(int64_t heads, int64_t rows, int threads) {
  constexpr int64_t least = 4, tasks_per_thread = 2;
  int64_t together = std::min(heads, heads_together);
  while (together > least && rows * (heads / together) < tasks_per_thread * threads) together /= 2;
  return together;
}

void run(const Band& band, ThreadPool& pool, ThreadScratch& scratch) {
  const int64_t heads = band.shape.heads;
  int64_t keys = 0;
  for (const LatentRow& row : band.rows) keys = std::max(keys, row.keys);
  AbsorbedScratch unused;
  scratch.reserve(std::max(cut(nullptr, band.shape, band.count(), unused), score_bytes(heads, keys)));
  const auto of_head = [&](int thread) {
    AbsorbedScratch own;
    cut(scratch.of(thread), band.shape, band.count(), own);
    return own;
  };
  // By heads: each head's projections are read once, whatever the number of rows.
  pool.parallel_for(heads, [&](int64_t head, int thread) { band.move_queries(head, of_head(thread)); });
  const int64_t together = heads_per_task(heads, band.count(), pool.threads());
  const int64_t tasks_per_row = (heads + together - 1) / together;
  pool.parallel_for(band.count() * tasks_per_row, [&](int64_t task, int thread) {
    const int64_t head = task % tasks_per_row * together;
    band.attend(task / tasks_per_row, head, std::min(together, heads - head), scratch.floats_of(thread));
  });
  pool.parallel_for(heads, [&](int64_t head, int thread) { band.move_values(head, of_head(thread)); });
}

}  // namespace

size_t fast_latent_thread_bytes(const StepBounds& b) {
  if (b.latent.heads == 0) return 0;
  AbsorbedScratch unused;
  return std::max(cut(nullptr, b.latent, std::min(b.rows, latent_rows_together), unused),
                  score_bytes(b.latent.heads, b.context_tokens));
}

void fast_latent_attention(const KernelTable& kernels, ThreadPool& pool, ThreadScratch& scratch,
                           LatentRooms& rooms, Rows q, const LatentProjections& projections,
                           const LatentShape& shape, std::span<const SequenceRows> sequences,
                           const KvLayer& kv, Rows out) {
  LatentRow* const rows = rooms.rows.at_least(q.rows);
  int64_t count = 0;
  for (const SequenceRows& s : sequences) {
    if (s.rows > shape.absorbed_rows_max) {
      latent_attention(pool, scratch, q, projections, shape, {&s, 1}, kv, out);
      continue;
    }
    for (int64_t i = 0; i < s.rows; ++i)
      rows[count++] = {s.first_row + i, s.first_position + i + 1, s.blocks.data()};
  }
  for (int64_t first = 0; first < count; first += latent_rows_together) {
    const int64_t together = std::min(latent_rows_together, count - first);
    const int64_t of_heads = shape.heads * together;
    run({kernels,
         shape,
         projections,
         {rows + first, static_cast<size_t>(together)},
         kv,
         q,
         out,
         rooms.queries.at_least(of_heads * (shape.latent + shape.rope)),
         rooms.values.at_least(of_heads * shape.latent)},
        pool, scratch);
  }
}

}  // namespace convoy::gpu
