#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "gpu/cpu/fast.hpp"
#include "gpu/cpu/kernels.hpp"
#include "gpu/cpu/thread_pool.hpp"
#include "gpu/sampler.hpp"
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
float* row_of(Rows rows, int64_t r) { return static_cast<float*>(rows.data) + r * rows.width; }

Buffer allocate_aligned(size_t bytes) {
  constexpr size_t alignment = 64;
  // Large blocks come from the kernel as untouched pages, so a KV pool costs memory only where it is used.
  void* memory =
      std::aligned_alloc(alignment, (std::max<size_t>(bytes, 1) + alignment - 1) / alignment * alignment);
  if (!memory) throw std::bad_alloc();
  return Buffer(memory, std::free);
}

/// Outputs of one product, or of a gate and then its partner, which are computed together.
struct Part {
  Product product;
  std::optional<Product> gated;
};

Activations rows_from(const Activations& x, int64_t first, int64_t rows) {
  const int64_t values = first * x.columns, blocks = first * (x.columns / 32);
  return {x.values + values, x.q + values, x.d + blocks, x.s + blocks, x.sum + blocks, rows, x.columns};
}

/// KV of a block lies as keys [kv_heads · head_dim, 64 tokens], so that scores of 16 tokens are one register,
/// and values [64 tokens, kv_heads · head_dim].
class FastBackend final : public Backend {
 public:
  FastBackend(const KernelTable& kernels, int threads)
      : kernels_(kernels), pool_(threads), scratch_(threads) {}

  // All tables give the same bits, so the instruction set is not part of the name.
  std::string_view variant() const override { return "cpu-int8"; }

  Buffer allocate(size_t bytes) override { return allocate_aligned(bytes); }
  Weight adopt(const model::Tensor& tensor) override;
  void set_rope(const model::Rope& rope, int64_t head_dim, int64_t positions) override;
  void embed(const Weight& table, std::span<const int32_t> ids, Rows x) override;
  void add_norm(Rows x, Rows delta, const Weight& w, float eps, Rows h) override;
  void linear(Rows h, std::span<const Projection> projections) override;
  void gated_linear(Rows h, const Weight& gate, const Weight& up, Rows out) override;
  void rope_write(Rows q, Rows k, Rows v, const AttentionShape& shape,
                  std::span<const SequenceRows> sequences, const KvLayer& kv) override;
  void attention(Rows q, const AttentionShape& shape, std::span<const SequenceRows> sequences,
                 const KvLayer& kv, Rows out) override;
  void head(Rows x, Rows delta, const Weight& norm, float eps, const Weight& head,
            std::span<const int32_t> rows, Rows logits) override;
  void sample(Rows logits, std::span<const SampleRow> rows, std::span<SampledToken> out) override;
  void read(Rows from, std::span<float> to) override;
  void write(std::span<const float> from, Rows to) override;
  void wait() override {}

 private:
  /// body(first, last) over ranges of rows, on several threads if there are many.
  template <class Body>
  void for_rows(int64_t rows, const Body& body);
  Activations activations(Rows h, bool quantize);
  void multiply(const Activations& x, std::span<const Part> parts);
  std::byte* scratch(int thread) { return scratch_[static_cast<size_t>(thread)].data(); }
  void reserve_scratch(size_t bytes);
  void rotate(float* heads, int64_t count, int64_t position) const;

  const KernelTable& kernels_;
  ThreadPool pool_;
  std::vector<std::vector<std::byte>> scratch_;  // of each thread

  // Of the rows that the latest product read.
  std::vector<int8_t> q_;
  std::vector<float> d_, s_, head_rows_;
  std::vector<int32_t> sum_;
  std::vector<Part> parts_;
  std::vector<AttentionTask> tasks_;

  model::RopePairs pairs_ = model::RopePairs::half_split;
  std::vector<float> cos_, sin_;  // [positions, rope_half_]
  int64_t rope_half_ = 0, positions_ = 0;
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
                     "allowed: f32, f16, bf16, q8_0, q4_0, q4_1");
  if (tensor.rows() == 1) {  // norms and biases are small and read by float kernels: widened once
    Weight w{allocate(static_cast<size_t>(tensor.columns()) * sizeof(float)), model::DType::f32, 1,
             tensor.columns()};
    model::dequantize_row(tensor, 0, {static_cast<float*>(w.memory.get()), static_cast<size_t>(w.columns)});
    return w;
  }
  auto* data = const_cast<std::byte*>(tensor.bytes.data());  // never written: the mapping is read-only
  return {Buffer(std::const_pointer_cast<model::Mapping>(tensor.owner), data), tensor.type, tensor.rows(),
          tensor.columns()};
}

void FastBackend::embed(const Weight& table, std::span<const int32_t> ids, Rows x) {
  assert(static_cast<int64_t>(ids.size()) == x.rows && table.columns == x.width);
  model::Tensor tensor{table.type, {table.rows, table.columns}, {}, nullptr};
  tensor.bytes = {static_cast<const std::byte*>(table.data()),
                  static_cast<size_t>(table.rows) * tensor.row_bytes()};
  for (int64_t r = 0; r < x.rows; ++r) {
    assert(ids[r] >= 0 && ids[r] < table.rows);
    model::dequantize_row(tensor, ids[r], {row_of(x, r), static_cast<size_t>(x.width)});
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
  if (q_.size() < values) q_.resize(values), d_.resize(blocks), s_.resize(blocks), sum_.resize(blocks);
  x.q = q_.data(), x.d = d_.data(), x.s = s_.data(), x.sum = sum_.data();
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
    parts_.push_back({product_of(*p.weight, p.bias, p.out, false), std::nullopt});
    quantize |= quantized(p.weight->type);
  }
  multiply(activations(h, quantize), parts_);
}

void FastBackend::gated_linear(Rows h, const Weight& gate, const Weight& up, Rows out) {
  if (h.rows == 0) return;
  assert(gate.columns == h.width && up.columns == h.width && gate.rows == up.rows && out.rows == h.rows);
  parts_.assign(1, {product_of(gate, nullptr, out, false), product_of(up, nullptr, out, true)});
  multiply(activations(h, quantized(gate.type) || quantized(up.type)), parts_);
}

void FastBackend::set_rope(const model::Rope& rope, int64_t head_dim, int64_t positions) {
  const std::vector<double> frequencies = model::rope_frequencies(rope, head_dim);
  pairs_ = rope.pairs;
  positions_ = positions;
  rope_half_ = head_dim / 2;
  cos_.clear(), sin_.clear();
  for (int64_t p = 0; p < positions; ++p) {
    for (double frequency : frequencies) {
      cos_.push_back(static_cast<float>(std::cos(static_cast<double>(p) * frequency)));
      sin_.push_back(static_cast<float>(std::sin(static_cast<double>(p) * frequency)));
    }
  }
}

void FastBackend::rotate(float* heads, int64_t count, int64_t position) const {
  assert(position < positions_);
  const float* __restrict cosines = cos_.data() + position * rope_half_;
  const float* __restrict sines = sin_.data() + position * rope_half_;
  const int64_t half = rope_half_;
  const bool split = pairs_ == model::RopePairs::half_split;
  const int64_t step = split ? 1 : 2, apart = split ? half : 1;
  for (float* head = heads; head < heads + count * 2 * half; head += 2 * half) {
    for (int64_t i = 0; i < half; ++i) {
      const float a = head[i * step], b = head[i * step + apart];
      head[i * step] = a * cosines[i] - b * sines[i];
      head[i * step + apart] = b * cosines[i] + a * sines[i];
    }
  }
}

void FastBackend::rope_write(Rows q, Rows k, Rows v, const AttentionShape& shape,
                             std::span<const SequenceRows> sequences, const KvLayer& kv) {
  assert(shape.head_dim == 2 * rope_half_);
  float* keys = static_cast<float*>(kv.k.get());
  float* values = static_cast<float*>(kv.v.get());
  for (const SequenceRows& s : sequences) {
    for_rows(s.rows, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const int64_t row = s.first_row + i, position = s.first_position + i;
        const int64_t block = s.blocks[position / kv_block_tokens], token = position % kv_block_tokens;
        float* key = keys + block * kv_block_tokens * kv.width + token;
        // A key's values lie a line each apart: they are fetched while its query is rotated.
        for (int64_t j = 0; j < kv.width; ++j) __builtin_prefetch(key + j * kv_block_tokens, 1);
        rotate(row_of(q, row), shape.heads, position);
        rotate(row_of(k, row), shape.kv_heads, position);
        for (int64_t j = 0; j < kv.width; ++j) key[j * kv_block_tokens] = row_of(k, row)[j];
        std::copy_n(row_of(v, row), kv.width, values + (block * kv_block_tokens + token) * kv.width);
      }
    });
  }
}

void FastBackend::attention(Rows q, const AttentionShape& shape, std::span<const SequenceRows> sequences,
                            const KvLayer& kv, Rows out) {
  const int64_t d = shape.head_dim, group = shape.heads / shape.kv_heads;
  if (d % output_tile != 0)
    throw InputError("heads of " + std::to_string(d) + " dimensions", "fast CPU kernels",
                     "they take multiples of 16; use the reference kernels");
  tasks_.clear();
  int64_t scores_max = 0;
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
        t.keys = static_cast<const float*>(kv.k.get()) + offset * kv_block_tokens;
        t.values = static_cast<const float*>(kv.v.get()) + offset;
        t.width = kv.width;
        const int64_t keys =
            (t.first_position + rows + kv_block_tokens - 1) / kv_block_tokens * kv_block_tokens;
        scores_max = std::max(scores_max, t.queries * (keys + 1));
        tasks_.push_back(t);
      }
    }
  }
  reserve_scratch(static_cast<size_t>(scores_max) * sizeof(float));
  pool_.parallel_for(static_cast<int64_t>(tasks_.size()), [&](int64_t i, int thread) {
    AttentionTask t = tasks_[static_cast<size_t>(i)];
    t.inverse = reinterpret_cast<float*>(scratch(thread));
    t.scores = t.inverse + t.queries;
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

void FastBackend::sample(Rows logits, std::span<const SampleRow> rows, std::span<SampledToken> out) {
  assert(static_cast<int64_t>(rows.size()) == logits.rows && rows.size() == out.size());
  for (int64_t r = 0; r < logits.rows; ++r)
    out[r] = sample_token({row_of(logits, r), static_cast<size_t>(logits.width)}, rows[r]);
}

void FastBackend::read(Rows from, std::span<float> to) {
  assert(static_cast<int64_t>(to.size()) == from.rows * from.width);
  std::copy_n(row_of(from, 0), to.size(), to.data());
}

void FastBackend::write(std::span<const float> from, Rows to) {
  assert(static_cast<int64_t>(from.size()) == to.rows * to.width);
  std::copy_n(from.data(), from.size(), row_of(to, 0));
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
