#include <algorithm>
#include <cassert>
#include <optional>
#include <string>
#include <vector>

#include "gpu/cpu/cpu_backend.hpp"
#include "gpu/cpu/fast.hpp"
#include "gpu/cpu/float_math.hpp"
#include "gpu/cpu/kernels.hpp"
#include "gpu/cpu/kv_values.hpp"
#include "model/error.hpp"

namespace convoy::gpu {
namespace {

/// Rows of activations that pass over an unpacked tile of weights before the next: with 1536 columns, 200 KB
/// of L2.
constexpr int64_t rows_per_pass = 128;
/// Chunks that a loop is cut into for each thread, so that a thread that lost its core delays the others
/// little.
constexpr int64_t chunks_per_thread = 2;
/// Rows that one chunk of an operation on single rows takes; fewer rows than two of these stay on the caller.
constexpr int64_t rows_per_chunk = 16;
/// Queries of one attention task: they share the keys that are in the first cache.
constexpr int64_t queries_per_task = 24;

bool quantized(model::DType type) { return model::info(type).block_values > 1; }

/// Outputs of one product, or of a gate and then its partner, which are computed together.
struct Part {
  Product product;
  std::optional<Product> gated;
};

Activations rows_from(const Activations& x, int64_t first, int64_t rows) {
  Activations part{.values = x.values + first * x.columns, .rows = rows, .columns = x.columns};
  if (!x.q) return part;
  const int64_t blocks = first * (x.columns / 32);
  part.q = x.q + first * x.columns, part.d = x.d + blocks, part.s = x.s + blocks;
  part.sum = x.sum + blocks, part.sum_low = x.sum_low + blocks, part.sum_high = x.sum_high + blocks;
  return part;
}

/// KV of a block lies as keys [kv_heads · head_dim, 64 tokens], so that scores of 16 tokens are one register,
/// and values [64 tokens, kv_heads · head_dim].
class FastBackend final : public CpuBackend {
 public:
  FastBackend(const KernelTable& kernels, int threads)
      : CpuBackend(threads), kernels_(kernels), scratch_(threads) {}

  // All tables give the same bits, so the instruction set is not part of the name.
  std::string_view variant() const override { return "cpu-int8"; }

  Weight adopt(const model::Tensor& tensor) override;
  void embed(const Weight& table, std::span<const int32_t> ids, Rows x) override;
  void add_norm(Rows x, Rows delta, const Weight& w, float eps, Rows h) override;
  void linear(Rows h, std::span<const Projection> projections) override;
  void gated_linear(Rows h, const Weight& gate, const Weight& up, Rows out) override;
  void rope_write(Rows q, Rows k, Rows v, const HeadNorms& norms, const AttentionShape& shape,
                  std::span<const SequenceRows> sequences, const KvLayer& kv) override;
  void attention(Rows q, const AttentionShape& shape, std::span<const SequenceRows> sequences,
                 const KvLayer& kv, Rows out) override;
  void head(Rows x, Rows delta, const Weight& norm, float eps, const Weight& head,
            std::span<const int32_t> rows, Rows logits) override;

  void check_heads(int64_t head_dim) const override;

 private:
  /// body(first, last) over ranges of rows, on several threads if there are many.
  template <class Body>
  void for_rows(int64_t rows, const Body& body);
  Activations activations(Rows h, bool quantize);
  void multiply(const Activations& x, std::span<const Part> parts);
  void norm_heads(float* heads, int64_t count, const Weight* norm, float eps) const;
  void widen(AttentionTask& task, const KvLayer& kv, float* to);
  std::byte* scratch(int thread) { return scratch_[static_cast<size_t>(thread)].data(); }
  void reserve_scratch(size_t bytes);

  const KernelTable& kernels_;
  std::vector<std::vector<std::byte>> scratch_;  // of each thread

  // Of the rows that the latest product read.
  std::vector<int8_t> q_;
  std::vector<float> d_, s_, head_rows_;
  std::vector<int32_t> sum_;  // whole blocks', then their first halves', then their second
  std::vector<Part> parts_;
  std::vector<AttentionTask> tasks_;
  std::vector<uint32_t> counting_;  // 0, 1, 2 …: the block table of a widened copy
};

void FastBackend::reserve_scratch(size_t bytes) {
  for (auto& s : scratch_) {
    if (s.size() < bytes) s.resize(bytes);
  }
}

template <class Body>
void FastBackend::for_rows(int64_t rows, const Body& body) {
  if (rows < 2 * rows_per_chunk) return body(0, rows);
  pool_.parallel_for((rows + rows_per_chunk - 1) / rows_per_chunk, [&](int64_t chunk, int) {
    body(chunk * rows_per_chunk, std::min(rows, (chunk + 1) * rows_per_chunk));
  });
}

Weight FastBackend::adopt(const model::Tensor& tensor) {
  if (tensor.type == model::DType::i64)
    throw InputError("a weight of 64-bit integers", "fast CPU kernels",
                     "allowed: floats of 32, 16 and 8 bits, and all quantised types");
  if (tensor.rows() == 1) {  // norms and biases are small and read by float kernels: widened once
    Weight w{allocate(static_cast<size_t>(tensor.columns()) * sizeof(float)), model::DType::f32, 1,
             tensor.columns()};
    model::dequantize_row(tensor, 0, {static_cast<float*>(w.memory.get()), static_cast<size_t>(w.columns)});
    return w;
  }
  return mapped_weight(tensor);
}

void FastBackend::check_heads(int64_t head_dim) const {
  if (head_dim % attention_values_step != 0)
    throw InputError("heads of " + std::to_string(head_dim) +
                         " values, and the fast kernels take multiples of " +
                         std::to_string(attention_values_step),
                     "head_dim of the model", "set stage.kernels = \"reference\"");
}

void FastBackend::embed(const Weight& table, std::span<const int32_t> ids, Rows x) {
  assert(static_cast<int64_t>(ids.size()) == x.rows && table.columns == x.width);
  const WeightRows rows(table);
  for (int64_t r = 0; r < x.rows; ++r) {
    assert(ids[r] >= 0 && ids[r] < table.rows);
    rows.read(ids[r], row_of(x, r));
  }
}

void FastBackend::add_norm(Rows x, Rows delta, const Weight& w, float eps, Rows h) {
  assert(w.type == model::DType::f32 && w.columns == x.width);
  const float* weight = static_cast<const float*>(w.data());
  for_rows(x.rows, [&](int64_t first, int64_t last) {
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
  const size_t values = static_cast<size_t>(h.rows * h.width), blocks = values / 32;
  if (q_.size() < values) q_.resize(values), d_.resize(blocks), s_.resize(blocks), sum_.resize(3 * blocks);
  x.q = q_.data(), x.d = d_.data(), x.s = s_.data(), x.sum = sum_.data();
  x.sum_low = x.sum + blocks, x.sum_high = x.sum_low + blocks;
  for_rows(h.rows, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) kernels_.quantize_row(x, r);
  });
  return x;
}

/// Cuts (rows, outputs) of all parts into chunks: with few rows by outputs only, each weight being read once.
void FastBackend::multiply(const Activations& x, std::span<const Part> parts) {
  reserve_scratch(linear_scratch_bytes(x.columns));
  int64_t tiles = 0;
  for (const Part& p : parts) tiles += (p.product.outputs + output_tile - 1) / output_tile;
  const int64_t passes = (x.rows + rows_per_pass - 1) / rows_per_pass;
  const int64_t loops = pool_.threads() == 1 ? 1 : chunks_per_thread * pool_.threads();
  const int64_t wanted = std::min(tiles, std::max<int64_t>(1, loops / passes));
  const int64_t chunk_outputs = (tiles + wanted - 1) / wanted * output_tile;
  int64_t chunks = 0;
  for (const Part& p : parts) chunks += (p.product.outputs + chunk_outputs - 1) / chunk_outputs;

  const auto run = [&](Product product, int64_t first, int64_t row, int64_t rows, int thread) {
    product.out += row * product.outputs;
    const int64_t last = std::min(product.outputs, first + chunk_outputs);
    kernels_.linear(product, first, last, rows_from(x, row, rows), scratch(thread));
  };
  pool_.parallel_for(chunks * passes, [&](int64_t chunk, int thread) {
    const int64_t row = chunk / chunks * rows_per_pass, rows = std::min(rows_per_pass, x.rows - row);
    int64_t first = chunk % chunks * chunk_outputs;
    for (const Part& p : parts) {
      const int64_t padded = (p.product.outputs + chunk_outputs - 1) / chunk_outputs * chunk_outputs;
      if (first < padded) {
        if (!p.gated) return run(p.product, first, row, rows, thread);
        Product gate = p.product, gated = *p.gated;
        gate.next = gated.weights + first * gated.row_bytes;
        gated.fetched = true;
        run(gate, first, row, rows, thread);
        return run(gated, first, row, rows, thread);
      }
      first -= padded;
    }
  });
}

Product product_of(const Weight& w, const Weight* bias, Rows out, bool gate) {
  assert(out.width == w.rows && (!bias || (bias->type == model::DType::f32 && bias->columns == w.rows)));
  const int64_t row_bytes = w.columns / model::info(w.type).block_values * model::info(w.type).block_bytes;
  return {w.type,
          static_cast<const std::byte*>(w.data()),
          row_bytes,
          w.rows,
          bias ? static_cast<const float*>(bias->data()) : nullptr,
          row_of(out, 0),
          gate};
}

void FastBackend::linear(Rows h, std::span<const Projection> projections) {
  if (h.rows == 0) return;
  parts_.clear();
  bool quantize = false;
  for (const Projection& p : projections) {
    assert(p.weight->columns == h.width && p.out.rows == h.rows);
    if (p.weight->scales) {
      gpu::multiply(pool_, h, *p.weight, p.bias, p.out);
      continue;
    }
    parts_.push_back({product_of(*p.weight, p.bias, p.out, false), std::nullopt});
    quantize |= quantized(p.weight->type);
  }
  if (!parts_.empty()) multiply(activations(h, quantize), parts_);
}

void FastBackend::gated_linear(Rows h, const Weight& gate, const Weight& up, Rows out) {
  if (h.rows == 0) return;
  assert(gate.columns == h.width && up.columns == h.width && gate.rows == up.rows && out.rows == h.rows);
  if (gate.scales || up.scales) return gpu::gated_linear(pool_, h, gate, up, out);
  parts_.assign(1, {product_of(gate, nullptr, out, false), product_of(up, nullptr, out, true)});
  multiply(activations(h, quantized(gate.type) || quantized(up.type)), parts_);
}

void FastBackend::norm_heads(float* heads, int64_t count, const Weight* norm, float eps) const {
  if (!norm) return;
  assert(norm->type == model::DType::f32);
  const int64_t width = norm->columns;
  const float* weight = static_cast<const float*>(norm->data());
  for (float* head = heads; head < heads + count * width; head += width)
    kernels_.add_norm(head, nullptr, weight, eps, head, width);
}

void FastBackend::rope_write(Rows q, Rows k, Rows v, const HeadNorms& norms, const AttentionShape& shape,
                             std::span<const SequenceRows> sequences, const KvLayer& kv) {
  assert(shape.head_dim == rope_.width());
  const int64_t d = shape.head_dim, width = k.width;
  void* const keys = kv.streams[0].memory.get();
  void* const values = kv.streams[1].memory.get();
  for (const SequenceRows& s : sequences) {
    for_rows(s.rows, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const int64_t row = s.first_row + i, position = s.first_position + i;
        const KvPlace place = KvPlace::of(s.blocks.data(), position);
        const auto key = [&](int64_t j) { return kv_at(keys, kv.type, place.by_value(width, j)); };
        // A key's values lie a line each apart: they are fetched while its query is rotated.
        for (int64_t j = 0; j < width; ++j) __builtin_prefetch(key(j), 1);
        norm_heads(row_of(q, row), shape.heads, norms.q, norms.eps);
        norm_heads(row_of(k, row), shape.kv_heads, norms.k, norms.eps);
        rope_.rotate(row_of(q, row), shape.heads, d, position);
        rope_.rotate(row_of(k, row), shape.kv_heads, d, position);
        for (int64_t j = 0; j < width; ++j) store_kv(row_of(k, row) + j, 1, kv.type, key(j));
        store_kv(row_of(v, row), width, kv.type, kv_at(values, kv.type, place.by_token(width)));
      }
    });
  }
}

/// Lets a task read a narrow cache: a float32 copy of the blocks that it needs of its key head, in `to`.
void FastBackend::widen(AttentionTask& t, const KvLayer& kv, float* to) {
  const int64_t d = t.head_dim, offset = t.key_offset, width = kv.streams[0].width;
  const int64_t keys = t.first_position + t.queries / t.group;
  const int64_t blocks = kv_blocks_for(keys);
  float* values = to + blocks * d * kv_block_tokens;
  for (int64_t b = 0; b < blocks; ++b) {
    KvPlace from = KvPlace::first_in(t.blocks, b), copy = KvPlace::first_in(counting_.data(), b);
    load_kv(kv_at(kv.streams[0].memory.get(), kv.type, from.by_value(width, offset)), d * kv_block_tokens,
            kv.type, to + copy.by_value(d));
    for (; from.token < kv_block_tokens; ++from.token, ++copy.token)
      load_kv(kv_at(kv.streams[1].memory.get(), kv.type, from.by_token(width, offset)), d, kv.type,
              values + copy.by_token(d));
  }
  t.keys = to, t.values = values, t.width = d, t.blocks = counting_.data();
}

void FastBackend::attention(Rows q, const AttentionShape& shape, std::span<const SequenceRows> sequences,
                            const KvLayer& kv, Rows out) {
  const int64_t d = shape.head_dim, group = shape.heads / shape.kv_heads;
  if (d % output_tile != 0)
    throw InputError("heads of " + std::to_string(d) + " dimensions", "fast CPU kernels",
                     "they take multiples of 16; use the reference kernels");
  tasks_.clear();
  const bool narrow = kv.type != model::DType::f32;
  int64_t scores_max = 0, keys_max = 0;
  for (const SequenceRows& s : sequences) {
    const int64_t rows_max = std::max<int64_t>(1, queries_per_task / group);
    // A single row is cut by query head, so that few key heads still occupy all threads.
    const int64_t heads = s.rows == 1 && pool_.threads() > 1 ? 1 : group;
    for (int64_t first = 0; first < s.rows; first += rows_max) {
      for (int64_t head = 0; head < shape.heads; head += heads) {
        const int64_t offset = head / group * d, rows = std::min(rows_max, s.rows - first);
        AttentionTask t;
        t.q = row_of(q, s.first_row + first) + head * d;
        t.out = row_of(out, s.first_row + first) + head * d;
        t.row_stride = q.width, t.group = heads, t.queries = rows * heads;
        t.first_position = s.first_position + first;
        t.head_dim = d, t.scale = shape.scale, t.blocks = s.blocks.data();
        t.key_offset = offset;
        if (!narrow) {
          t.width = kv.streams[0].width;
          t.keys =
              static_cast<const float*>(kv.streams[0].memory.get()) + KvPlace().by_value(t.width, offset);
          t.values =
              static_cast<const float*>(kv.streams[1].memory.get()) + KvPlace().by_token(t.width, offset);
        }
        const int64_t keys = kv_blocks_for(t.first_position + rows) * kv_block_tokens;
        scores_max = std::max(scores_max, t.queries * (keys + 1));
        keys_max = std::max(keys_max, keys);
        tasks_.push_back(t);
      }
    }
  }
  while (narrow && static_cast<int64_t>(counting_.size()) < keys_max / kv_block_tokens)
    counting_.push_back(static_cast<uint32_t>(counting_.size()));
  reserve_scratch(static_cast<size_t>(scores_max + (narrow ? 2 * keys_max * d : 0)) * sizeof(float));
  pool_.parallel_for(static_cast<int64_t>(tasks_.size()), [&](int64_t i, int thread) {
    AttentionTask t = tasks_[static_cast<size_t>(i)];
    t.inverse = reinterpret_cast<float*>(scratch(thread));
    t.scores = t.inverse + t.queries;
    if (narrow) widen(t, kv, t.inverse + scores_max);
    kernels_.attention(t);
  });
}

void FastBackend::head(Rows x, Rows delta, const Weight& norm, float eps, const Weight& head,
                       std::span<const int32_t> rows, Rows logits) {
  const int64_t count = static_cast<int64_t>(rows.size()), n = x.width;
  if (count == 0) return;
  head_rows_.resize(static_cast<size_t>(2 * count * n));
  const Rows sums{head_rows_.data(), count, n}, h{head_rows_.data() + count * n, count, n};
  for (int64_t i = 0; i < count; ++i) {
    std::copy_n(row_of(x, rows[i]), n, row_of(sums, i));
    kernels_.add_norm(row_of(sums, i), delta.data ? row_of(delta, rows[i]) : nullptr,
                      static_cast<const float*>(norm.data()), eps, row_of(h, i), n);
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
                     "use the reference kernels");
  return make_fast_backend(*kernels, threads);
}

}  // namespace convoy::gpu
