#include <algorithm>
#include <array>
#include <cassert>
#include <string>

#include "gpu/cpu/cpu_backend.hpp"
#include "gpu/cpu/fast.hpp"
#include "gpu/cpu/fast_scratch.hpp"
#include "gpu/cpu/fast_weights.hpp"
#include "gpu/cpu/float_math.hpp"
#include "gpu/cpu/kernels.hpp"
#include "gpu/cpu/kv_values.hpp"
#include "gpu/kv_types.hpp"
#include "model/error.hpp"

namespace convoy::gpu {
namespace {

/// Rows of activations that pass over an unpacked tile of weights before the next: with 1536 columns, 200 KB
/// of int8 values, in the second cache.
constexpr int64_t rows_per_pass = 128;
/// Chunks that a loop is cut into for each thread, so that a thread that lost its core delays the others
/// little.
constexpr int64_t chunks_per_thread = 2;
/// Outputs of a product that stay in one chunk: kernels take tiles together.
constexpr int64_t outputs_together = 2 * output_tile;
/// Values that one chunk of a norm or a quantisation takes, about a microsecond of work, and rows that one of
/// a rotation takes, which waits for the lines of the cache that it writes. Less than two chunks stays on the
/// caller.
constexpr int64_t values_per_chunk = 4096, rotate_rows_per_chunk = 2;
int64_t rows_per_chunk(int64_t width) { return std::max<int64_t>(1, values_per_chunk / width); }
/// The same of attention: its tasks differ more, and a task fetches what the next one of its chunk begins
/// with.
constexpr int64_t attention_chunks_per_thread = 8;
/// Products of the same rows in one call: queries, keys and values.
constexpr size_t projections_max = 3;

Activations rows_from(const Activations& x, int64_t first, int64_t rows) {
  Activations part{.values = x.values + first * x.columns, .rows = rows, .columns = x.columns};
  if (!x.q) return part;
  const int64_t blocks = first * (x.columns / 32);
  part.q = x.q + first * x.columns, part.d = x.d + blocks, part.s = x.s + blocks;
  part.sum = x.sum + blocks, part.sum_low = x.sum_low + blocks, part.sum_high = x.sum_high + blocks;
  return part;
}

/// KV of a block lies head after head: keys in strips [head_dim, 16 tokens], so that scores of 16 tokens are
/// one register and what they are computed of lies together, and values [64 tokens, head_dim].
class FastBackend final : public CpuBackend {
 public:
  // All tables give the same bits, so the instruction set is not part of the name. The number grows when they
  // give other bits than before.
  FastBackend(const KernelTable& kernels, int threads)
      : CpuBackend("cpu-int8 2", threads), kernels_(kernels) {}

  Weight adopt(const model::Tensor& tensor) override;
  bool copies_weights() const override { return true; }
  model::DType kv_type() const override { return cpu_kv_type; }
  void embed(const Weight& table, std::span<const int32_t> ids, Rows x) override;
  void add_norm(Rows x, Rows delta, const Weight& w, float eps, Rows h) override;
  void linear(Rows h, std::span<const Projection> projections) override;
  void gated_linear(Rows h, const GatedProjection& projection) override;
  void gate_experts(Rows h, const ExpertSet& experts, std::span<const ExpertRows> parts, Rows out) override;
  void project_experts(Rows gated, const ExpertSet& experts, std::span<const ExpertRows> parts,
                       Rows out) override;
  void rope_write(Rows q, Rows k, Rows v, const HeadNorms& norms, const AttentionShape& shape,
                  std::span<const SequenceRows> sequences, const KvLayer& kv) override;
  void attention(Rows q, const AttentionShape& shape, std::span<const SequenceRows> sequences,
                 const KvLayer& kv, Rows out) override;
  void latent_attention(Rows q, const LatentProjections& projections, const LatentShape& shape,
                        std::span<const SequenceRows> sequences, const KvLayer& kv, Rows out) override {
    fast_latent_attention(kernels_, pool_, scratch_, rooms_.latent, q, projections, shape, sequences, kv,
                          out);
  }
  void head(Rows x, Rows delta, const Weight& norm, float eps, const Weight& head,
            std::span<const int32_t> rows, Rows logits) override;

  void check_heads(int64_t head_dim) const override;
  uint64_t reserved_bytes(const StepBounds& bounds) const override {
    return scratch_bytes_of<FastRooms>(pool_.threads(), fast_thread_bytes(bounds), bounds);
  }

 private:
  size_t scratch_bytes(const StepBounds& bounds) const override { return fast_thread_bytes(bounds); }
  void each_room(const StepBounds& bounds, TakeRoom take) override { rooms_.each(bounds, take); }

  /// body(first, last) over ranges of rows, on several threads if there are many.
  template <class Body>
  void for_rows(int64_t rows, int64_t rows_each, const Body& body);
  Activations activations(Rows h, bool quantize);
  void multiply(const Activations& x, std::span<const RowProduct> parts);
  /// product_of_rows(part) for each part, all in one loop.
  template <class ProductOfRows>
  void multiply_experts(Rows h, std::span<const ExpertRows> parts, const ProductOfRows& product_of_rows);
  void norm_heads(float* heads, int64_t count, const Weight* norm, float eps) const;

  const KernelTable& kernels_;
  FastWeights weights_;
  FastRooms rooms_;
};

template <class Body>
void FastBackend::for_rows(int64_t rows, int64_t rows_each, const Body& body) {
  if (rows < 2 * rows_each) return body(0, rows);
  pool_.parallel_for((rows + rows_each - 1) / rows_each, [&](int64_t chunk, int) {
    body(chunk * rows_each, std::min(rows, (chunk + 1) * rows_each));
  });
}

Weight FastBackend::adopt(const model::Tensor& tensor) {
  if (tensor.type == model::DType::i64)
    throw InputError("a weight of 64-bit integers", "fast CPU kernels",
                     "allowed: floats of 32, 16 and 8 bits, and all quantised types");
  return weights_.adopt(pool_, tensor);
}

void FastBackend::check_heads(int64_t head_dim) const {
  if (head_dim % attention_values_step != 0)
    throw InputError("heads of " + std::to_string(head_dim) +
                         " values, and the fast kernels take multiples of " +
                         std::to_string(attention_values_step),
                     "head_dim of the model", "use the backend \"cpu-reference\"");
}

void FastBackend::embed(const Weight& table, std::span<const int32_t> ids, Rows x) {
  assert(static_cast<int64_t>(ids.size()) == x.rows && table.columns == x.width);
  for (int64_t r = 0; r < x.rows; ++r) read_row(table, ids[r], row_of(x, r));
}

void FastBackend::add_norm(Rows x, Rows delta, const Weight& w, float eps, Rows h) {
  assert(w.columns == x.width);
  const float* weight = vector_values(w);
  for_rows(x.rows, rows_per_chunk(x.width), [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r)
      kernels_.add_norm(row_of(x, r), delta.data ? row_of(delta, r) : nullptr, weight, eps,
                        h.data ? row_of(h, r) : nullptr, x.width);
  });
}

Activations FastBackend::activations(Rows h, bool quantize) {
  Activations x;
  x.values = row_of(h, 0), x.rows = h.rows, x.columns = h.width;
  if (!quantize) return x;
  assert(h.width % 32 == 0);
  const int64_t values = h.rows * h.width, blocks = values / 32;
  x.q = rooms_.q.at_least(values), x.d = rooms_.d.at_least(blocks), x.s = rooms_.s.at_least(blocks);
  x.sum = rooms_.sum.at_least(3 * blocks);
  x.sum_low = x.sum + blocks, x.sum_high = x.sum_low + blocks;
  for_rows(h.rows, rows_per_chunk(h.width), [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) kernels_.quantize_row(x, r);
  });
  return x;
}

/// Cuts (rows, outputs) of all parts, one after the other, into chunks of about the same work: with few rows
/// by outputs only, each weight being read once.
void FastBackend::multiply(const Activations& x, std::span<const RowProduct> parts) {
  scratch_.reserve(linear_scratch_bytes(x.columns));
  const auto tiles_of = [](const RowProduct& p) {
    return (p.product.outputs + outputs_together - 1) / outputs_together;
  };
  // use(rows of one pass, how many, work of each of its tiles)
  const auto each_pass = [](const RowProduct& p, const auto& use) {
    for (int64_t row = 0; row < p.rows; row += rows_per_pass) {
      const int64_t rows = std::min(rows_per_pass, p.rows - row);
      use(row, rows, (rows + unpacking_rows) * (p.gated ? 2 : 1));
    }
  };
  int64_t work = 0;
  for (const RowProduct& p : parts)
    each_pass(p, [&](int64_t, int64_t, int64_t each) { work += tiles_of(p) * each; });

  const auto run = [&](Product product, int64_t first, int64_t last, const Activations& rows, int64_t row,
                       int thread) {
    product.out += row * product.outputs;
    kernels_.linear(product, first, std::min(product.outputs, last), rows, scratch_.of(thread));
  };
  const int64_t chunks = pool_.threads() == 1 ? 1 : chunks_per_thread * pool_.threads();
  pool_.parallel_for(chunks, [&](int64_t chunk, int thread) {
    // A tile is of the chunk in which its work begins.
    int64_t from = work * chunk / chunks, to = work * (chunk + 1) / chunks;
    for (const RowProduct& p : parts) {
      each_pass(p, [&](int64_t row, int64_t count, int64_t each) {
        const auto tile_at = [&](int64_t at) {
          return std::clamp<int64_t>((at + each - 1) / each, 0, tiles_of(p)) * outputs_together;
        };
        const int64_t first = tile_at(from), last = tile_at(to);
        from -= tiles_of(p) * each, to -= tiles_of(p) * each;
        if (first >= last) return;
        const Activations rows = rows_from(x, p.first_row + row, count);
        if (!p.gated) return run(p.product, first, last, rows, row, thread);
        Product gate = p.product, gated = *p.gated;
        gate.next = gated.weights + first * gated.row_bytes;
        gated.fetched = true;
        run(gate, first, last, rows, row, thread);
        run(gated, first, last, rows, row, thread);
      });
    }
  });
}

Product product_of(const Weight& w, const Weight* bias, Rows out, bool gate) {
  assert(out.width == w.rows && (!bias || bias->columns == w.rows));
  const int64_t row_bytes = w.columns / model::info(w.type).block_values * model::info(w.type).block_bytes;
  return {.type = w.type,
          .weights = static_cast<const std::byte*>(w.data()),
          .scales = static_cast<const std::byte*>(w.scales.get()),
          .row_bytes = row_bytes,
          .outputs = w.rows,
          .bias = bias ? vector_values(*bias) : nullptr,
          .out = row_of(out, 0),
          .gate = gate};
}

template <class ProductOfRows>
void FastBackend::multiply_experts(Rows h, std::span<const ExpertRows> parts,
                                   const ProductOfRows& product_of_rows) {
  RowProduct* const all = rooms_.parts.at_least(static_cast<int64_t>(parts.size()));
  bool quantize = false;
  for (size_t i = 0; i < parts.size(); ++i) {
    all[i] = product_of_rows(parts[i]);
    all[i].first_row = parts[i].first, all[i].rows = parts[i].rows;
    quantize |= quantized(all[i].product.type) || (all[i].gated && quantized(all[i].gated->type));
  }
  multiply(activations(h, quantize), {all, parts.size()});
}

void FastBackend::linear(Rows h, std::span<const Projection> projections) {
  if (h.rows == 0) return;
  std::array<RowProduct, projections_max> parts;
  size_t count = 0;
  bool quantize = false;
  for (const Projection& p : projections) {
    assert(p.weight->columns == h.width && p.out.rows == h.rows);
    assert(count < parts.size());
    parts[count++] = {product_of(*p.weight, p.bias, p.out, false), std::nullopt, 0, h.rows};
    quantize |= quantized(p.weight->type);
  }
  multiply(activations(h, quantize), std::span(parts).first(count));
}

void FastBackend::gated_linear(Rows h, const GatedProjection& p) {
  if (h.rows == 0) return;
  const Weight &gate = *p.gate, &up = *p.up;
  assert(gate.columns == h.width && up.columns == h.width && gate.rows == up.rows && p.out.rows == h.rows);
  const RowProduct part[] = {
      {product_of(gate, p.gate_bias, p.out, false), product_of(up, p.up_bias, p.out, true), 0, h.rows}};
  multiply(activations(h, quantized(gate.type) || quantized(up.type)), part);
}

void FastBackend::gate_experts(Rows h, const ExpertSet& experts, std::span<const ExpertRows> parts,
                               Rows out) {
  multiply_experts(h, parts, [&](const ExpertRows& part) {
    const Weight &gate = experts.gate[static_cast<size_t>(part.expert)],
                 &up = experts.up[static_cast<size_t>(part.expert)];
    const Rows rows = gpu::rows_from(out, part.first, part.rows);
    return RowProduct{product_of(gate, nullptr, rows, false), product_of(up, nullptr, rows, true)};
  });
}

void FastBackend::project_experts(Rows gated, const ExpertSet& experts, std::span<const ExpertRows> parts,
                                  Rows out) {
  multiply_experts(gated, parts, [&](const ExpertRows& part) {
    const Weight& down = experts.down[static_cast<size_t>(part.expert)];
    return RowProduct{product_of(down, nullptr, gpu::rows_from(out, part.first, part.rows), false),
                      std::nullopt};
  });
}

void FastBackend::norm_heads(float* heads, int64_t count, const Weight* norm, float eps) const {
  if (!norm) return;
  const int64_t width = norm->columns;
  const float* weight = vector_values(*norm);
  for (float* head = heads; head < heads + count * width; head += width)
    kernels_.add_norm(head, nullptr, weight, eps, head, width);
}

void FastBackend::rope_write(Rows q, Rows k, Rows v, const HeadNorms& norms, const AttentionShape& shape,
                             std::span<const SequenceRows> sequences, const KvLayer& kv) {
  assert(shape.head_dim == rope_.width());
  const int64_t d = shape.head_dim, width = k.width;
  void* const keys = kv.streams[0].memory.get();
  void* const values = kv.streams[1].memory.get();
  const int64_t apart = kv_strip_tokens * model::info(kv.type).block_bytes;  // bytes, of a key's values
  const auto write = [&](const SequenceRows& s, int64_t row) {
    const int64_t position = s.first_position + row - s.first_row;
    const KvPlace place = KvPlace::of(s.blocks.data(), position);
    const auto key = [&](int64_t head) { return kv_at(keys, kv.type, place.by_head_value(width, d, head)); };
    // A key's values lie in as many lines as its strip: they are fetched while its query is rotated.
    for (int64_t head = 0; head < shape.kv_heads; ++head)
      for (int64_t at = 0; at < d * apart; at += 64) __builtin_prefetch(key(head) + at, 1);
    norm_heads(row_of(q, row), shape.heads, norms.q, norms.eps);
    norm_heads(row_of(k, row), shape.kv_heads, norms.k, norms.eps);
    rotate(rope_, row_of(q, row), shape.heads, d, position);
    rotate(rope_, row_of(k, row), shape.kv_heads, d, position);
    for (int64_t head = 0; head < shape.kv_heads; ++head) {
      scatter_kv(row_of(k, row) + head * d, d, kv.type, key(head), apart);
      store_kv(row_of(v, row) + head * d, d, kv.type,
               kv_at(values, kv.type, place.by_head_token(width, d, head)));
    }
  };
  for_rows(q.rows, rotate_rows_per_chunk, [&](int64_t first, int64_t last) {
    for (const SequenceRows& s : sequences) {
      const int64_t end = std::min(last, s.first_row + s.rows);
      for (int64_t row = std::max(first, s.first_row); row < end; ++row) write(s, row);
    }
  });
}

void FastBackend::attention(Rows q, const AttentionShape& shape, std::span<const SequenceRows> sequences,
                            const KvLayer& kv, Rows out) {
  const int64_t d = shape.head_dim, group = shape.heads / shape.kv_heads;
  if (d % output_tile != 0)
    throw InputError("heads of " + std::to_string(d) + " dimensions", "fast CPU kernels",
                     "they take multiples of 16; use the backend \"cpu-reference\"");
  int64_t rows_all = 0, count = 0;
  for (const SequenceRows& s : sequences) rows_all += s.rows;
  AttentionTask* const tasks = rooms_.tasks.at_least(rows_all * shape.heads);
  // Query heads that share a key head read its cache once. A few rows are cut by query head all the same
  // where their key heads alone would leave threads idle.
  const bool few = rows_all * shape.kv_heads < pool_.threads();
  const int64_t width = kv.streams[0].width, rows_max = rows_per_task(group), heads = few ? 1 : group;
  size_t scratch = 0;
  for (const SequenceRows& s : sequences) {
    for (int64_t first = 0; first < s.rows; first += rows_max) {
      const int64_t rows = std::min(rows_max, s.rows - first);
      for (int64_t head = 0; head < shape.heads; head += heads) {
        const int64_t key_head = head / group;
        AttentionTask& t = tasks[count++] = {};
        t.q = row_of(q, s.first_row + first) + head * d;
        t.out = row_of(out, s.first_row + first) + head * d;
        t.row_stride = q.width, t.group = heads, t.queries = rows * heads;
        t.first_position = s.first_position + first;
        t.head_dim = d, t.scale = shape.scale, t.blocks = s.blocks.data(), t.width = width, t.type = kv.type;
        t.keys = kv_at(kv.streams[0].memory.get(), kv.type, KvPlace().by_head_value(width, d, key_head));
        t.values = kv_at(kv.streams[1].memory.get(), kv.type, KvPlace().by_head_token(width, d, key_head));
        const int64_t keys = kv_blocks_for(t.first_position + rows) * kv_block_tokens;
        scratch = std::max(scratch, attention_scratch_bytes(t.queries, keys));
      }
    }
  }
  scratch_.reserve(scratch);
  // Several tasks in one chunk, because a task fetches what the next one begins with.
  const int64_t chunks = std::min(count, attention_chunks_per_thread * pool_.threads());
  pool_.parallel_for(chunks, [&](int64_t chunk, int thread) {
    const int64_t first = count * chunk / chunks, last = count * (chunk + 1) / chunks;
    for (int64_t i = first; i < last; ++i) {
      AttentionTask t = tasks[i];
      t.inverse = scratch_.floats_of(thread);
      t.scores = t.inverse + t.queries;
      t.fetched = i > first;
      t.next = i + 1 < last ? &tasks[i + 1] : nullptr;
      kernels_.attention(t);
    }
  });
}

void FastBackend::head(Rows x, Rows delta, const Weight& norm, float eps, const Weight& head,
                       std::span<const int32_t> rows, Rows logits) {
  const int64_t count = static_cast<int64_t>(rows.size()), n = x.width;
  if (count == 0) return;
  const Rows h{rooms_.head_rows.at_least(count * n), count, n};
  for (int64_t i = 0; i < count; ++i) {
    float* const row = row_of(h, i);
    std::copy_n(row_of(x, rows[i]), n, row);
    kernels_.add_norm(row, delta.data ? row_of(delta, rows[i]) : nullptr, vector_values(norm), eps, row, n);
  }
  const Projection projection[] = {{&head, nullptr, logits}};
  linear(h, projection);
}

}  // namespace

std::unique_ptr<Backend> make_fast_backend(const KernelTable& kernels, int threads) {
  return std::make_unique<FastBackend>(kernels, threads);
}

std::unique_ptr<Backend> make_fast_backend(int threads) {
  const KernelTable* kernels = best_kernels();
  if (!kernels)
    throw InputError("this processor has neither AVX2 with FMA and F16C nor AVX-512 VNNI", "fast CPU kernels",
                     "use the backend \"cpu-reference\"");
  return make_fast_backend(*kernels, threads);
}

}  // namespace convoy::gpu
