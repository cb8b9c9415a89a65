#include "gpu/cpu/fast_weights.hpp"

#include <algorithm>
#include <cstring>

#include "gpu/cpu/float_math.hpp"
#include "gpu/cpu/kernels.hpp"
#include "gpu/cpu/memory.hpp"
#include "gpu/cpu/packed.hpp"

namespace convoy::gpu {

namespace {

constexpr size_t chunk_bytes = 64 << 20;
constexpr size_t alignment = 64;               // of each weight
constexpr size_t copied_together = 256 << 10;  // bytes, by one thread

}  // namespace

Buffer FastWeights::take(size_t bytes) {
  bytes = (bytes + alignment - 1) / alignment * alignment;
  if (taken_ + bytes > size_) {
    size_ = std::max(bytes, chunk_bytes);
    chunk_ = allocate_aligned(size_);
    taken_ = 0;
  }
  Buffer part(chunk_, static_cast<std::byte*>(chunk_.get()) + taken_);
  taken_ += bytes;
  return part;
}

Weight FastWeights::adopt(ThreadPool& pool, const model::Tensor& tensor) {
  Weight weight = adopt_weight(tensor);
  if (weight.rows == 1) return weight;
  const auto* const from = static_cast<const std::byte*>(weight.data());
  weight.packed = quantized(weight.type);
  if (weight.packed) {
    const auto row_bytes = static_cast<int64_t>(tensor.bytes.size()) / weight.rows;
    const int64_t tile_bytes = output_tile * row_bytes;
    weight.memory = take(packed_bytes(weight.rows, row_bytes));
    auto* const to = static_cast<std::byte*>(weight.memory.get());
    pool.parallel_for((weight.rows + output_tile - 1) / output_tile, [&](int64_t tile, int) {
      pack_tile(weight.type, from + tile * tile_bytes,
                std::min(output_tile, weight.rows - tile * output_tile), row_bytes, to + tile * tile_bytes);
    });
    return weight;
  }
  const size_t bytes = tensor.bytes.size();
  weight.memory = take(bytes);
  auto* const to = static_cast<std::byte*>(weight.memory.get());
  pool.parallel_for(static_cast<int64_t>((bytes + copied_together - 1) / copied_together),
                    [&](int64_t piece, int) {
                      const size_t begin = static_cast<size_t>(piece) * copied_together;
                      std::memcpy(to + begin, from + begin, std::min(copied_together, bytes - begin));
                    });
  return weight;
}

}  // namespace convoy::gpu
