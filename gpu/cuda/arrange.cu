#include "gpu/cuda/arrange.hpp"

#include "gpu/cuda/launch.cuh"

namespace convoy::cuda {
namespace {

constexpr int threads = 256;

/// What a row's values in its file are made of.
struct FileRow {
  const unsigned char* bytes;
  DType type;
  int columns;

  /// Byte, or nibble, `value` of the row; behind its end 0.
  __device__ uint32_t value(int value) const {
    if (value >= columns) return 0;
    const BlockSize size = block_size(type);
    const int head = head_bytes(type), in_block = value % size.values;
    const unsigned char* const from = bytes + value / size.values * size.bytes + head;
    if (!has_nibbles(type)) return from[in_block];
    // The halves of a byte are values that lie half of this apart.
    const int group = size.values == 32 ? 32 : 64, in_group = in_block % group;
    return from[in_block / group * group / 2 + in_group % (group / 2)] >> (in_group / (group / 2) * 4) & 15;
  }
  __device__ unsigned char head(int byte) const {
    const BlockSize size = block_size(type);
    const int head = head_bytes(type), block = byte / head;
    return block * size.values < columns ? bytes[block * size.bytes + byte % head] : 0;
  }
};

/// A block a row. Bytes: the matrix, read and written.
__global__ void __launch_bounds__(threads)
    arrange_rows(const Matrix weight, std::byte* data, uint32_t* not_numbers) {
  extern __shared__ uint4 dynamic[];
  auto* const row =
      reinterpret_cast<uint4*>(data + blockIdx.y * weight.expert_bytes + int64_t{blockIdx.x} * weight.pitch);
  const int pieces = static_cast<int>(weight.pitch / sizeof(uint4));
  for (int i = static_cast<int>(threadIdx.x); i < pieces; i += threads) dynamic[i] = row[i];
  __syncthreads();
  const FileRow file{reinterpret_cast<const unsigned char*>(dynamic), weight.type, weight.columns};
  auto* const to = reinterpret_cast<unsigned char*>(row);
  const int units = weight.heads_from, heads = head_bytes(weight.type),
            pitch = static_cast<int>(weight.pitch);
  for (int i = static_cast<int>(threadIdx.x); i < units; i += threads) {
    const int run = i / run_bytes, byte = i % run_bytes;
    const int value = has_nibbles(weight.type) ? run * 2 * run_bytes + byte : i;
    const uint32_t low = file.value(value),
                   high = has_nibbles(weight.type) ? file.value(value + run_bytes) << 4 : 0;
    if (weight.type == DType::f8_e4m3 && (low & 127) == 127) atomicAdd(not_numbers, 1);
    to[run / 2 * unit_bytes + place_in_unit(weight.type, run % 2, byte)] =
        static_cast<unsigned char>(low | high);
  }
  for (int i = units + static_cast<int>(threadIdx.x); i < pitch; i += threads)
    to[i] = heads > 0 ? file.head(i - units) : 0;
}

}  // namespace

void arrange(const Matrix& weight, int experts, uint32_t* not_numbers, cudaStream_t stream) {
  if (weight.pitch > shared_memory_max())
    throw refusal("a weight with rows of " + std::to_string(weight.columns) + " values", "checkpoint",
                  "no kernel holds them; convert it to bf16");
  check(cudaFuncSetAttribute(arrange_rows, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_memory_max()),
        "cudaFuncSetAttribute");
  const dim3 grid(static_cast<unsigned>(weight.rows), static_cast<unsigned>(experts));
  arrange_rows<<<grid, threads, static_cast<size_t>(weight.pitch), stream>>>(
      weight, const_cast<std::byte*>(weight.data), not_numbers);
  check(cudaGetLastError(), "arranging a weight");
}

}  // namespace convoy::cuda
