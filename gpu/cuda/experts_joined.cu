// The last product of a single row's experts, and its join, in one launch (experts.hpp).

#include <algorithm>

#include "gpu/cuda/elementwise.cuh"
#include "gpu/cuda/experts.hpp"
#include "gpu/cuda/gemm_stream.cuh"
#include "gpu/cuda/gemm_stream.hpp"

namespace convoy::cuda {
namespace {

/// So many share a multiprocessor.
constexpr int blocks_of_multiprocessor = 2;
/// Chunks of columns that a warp has under way. Two are multiplied at once.
constexpr int ring = 16, at_once = 2;
constexpr int outputs_at_once = 8;

struct JoinedArgs {
  Product product;
  const __nv_bfloat16* in;  // [visits, in_pitch]
  int64_t in_pitch;
  int32_t experts;  // those of higher numbers are the product's shared ones
  JoinExperts join;
};

/// A block takes an even share of the outputs, of all visits, a warp every eighth visit. A thread copies what
/// it reads itself, so nobody waits for anybody until the block's visits are added up. The row's bits are
/// those of the two kernels.
/// Bytes: the weights of the visits' experts; operations: 2 · outputs · columns a visit.
__global__ void __launch_bounds__(stream_threads, blocks_of_multiprocessor)
    stream_and_join(const JoinedArgs args) {
  extern __shared__ uint4 dynamic[];  // [ring][threads], [warps][staged], [visits][outputs]
  let_next_begin();
  if (!has_row(args.join.rows, 0)) return wait_for_previous();
  const StreamPlace place;
  const int columns = args.product.weight.columns, visits = args.join.visits, staged = staged_pitch(columns);
  const int64_t all = args.join.width;
  const int begin = static_cast<int>(all * blockIdx.x / gridDim.x),
            outputs = static_cast<int>(all * (blockIdx.x + 1) / gridDim.x) - begin;
  uint4* const own_ring = dynamic + place.thread;
  auto* const row = reinterpret_cast<__nv_bfloat16*>(dynamic + ring * stream_threads) + place.warp * staged;
  auto* const parts =
      reinterpret_cast<float*>(dynamic + ring * stream_threads) + stream_warps * staged / 2;  // of two bytes

  // A visit's outputs come in rounds, as many in each as leave none short. What lies behind the last column
  // is zeros.
  const int rounds = (outputs + outputs_at_once - 1) / outputs_at_once,
            per_round = (outputs + rounds - 1) / rounds;
  const int own_chunks = (columns - place.quarter * chunk_values + 31) / 32,
            chunks = ((columns + 31) / 32 + at_once - 1) / at_once * at_once;
  const std::byte* from = nullptr;
  int64_t pitch = 0;
  int visit = place.warp, left = 0, next = 0, fetched = 0, read = 0;
  bool there = false;
  const auto begin_round = [&] {
    if (left == 0 && visit < visits) {
      const int expert = __ldcg(args.join.tables.expert + visit);
      const Matrix weight = expert < args.experts ? of_expert(args.product.weight, expert)
                                                  : of_expert(args.product.shared, expert - args.experts);
      pitch = weight.pitch, from = weight.data + (begin + place.group) * pitch + place.quarter * 16;
      left = outputs, visit += stream_warps;
    }
    there = place.group < min(per_round, left);
    left -= min(per_round, left), next = 0;
  };
  const uint64_t policy = read_once();
  const auto turn = [](int& at) {
    const int now = at;
    at = now + 1 == ring ? 0 : now + 1;
    return now;
  };
  const auto fetch = [&] {
    copy_weights_or_zeros(own_ring + turn(fetched) * stream_threads, from + next * 64,
                          there && next < own_chunks, policy);
    end_copies();
    if (++next < chunks) return;
    from += per_round * pitch;
    begin_round();
  };
  begin_round();
  for (int i = 0; i < ring; i++) fetch();
  wait_for_previous();

  for (int own = place.warp; own < visits; own += stream_warps) {
    __syncwarp();
    for (int i = place.lane; i < columns / chunk_values; i += 32)
      reinterpret_cast<uint4*>(row)[i] = reinterpret_cast<const uint4*>(args.in + own * args.in_pitch)[i];
    __syncwarp();
    for (int first = 0; first < outputs; first += per_round) {
      float sums[4] = {};
      for (int chunk = 0; chunk < chunks; chunk += at_once) {
        wait_for_copies<ring - at_once>();
#pragma unroll
        for (int i = 0; i < at_once; i++) {
          const uint4 w = own_ring[turn(read) * stream_threads];
          const uint4 x =
              chunk + i < own_chunks
                  ? *reinterpret_cast<const uint4*>(row + (chunk + i) * 32 + place.quarter * chunk_values)
                  : uint4{0, 0, 0, 0};
          mma(sums, {w.x, 0, w.y, 0}, x.x, x.y);
          mma(sums, {w.z, 0, w.w, 0}, x.z, x.w);
        }
#pragma unroll
        for (int i = 0; i < at_once; i++) fetch();
      }
      if (place.quarter == 0 && place.group < min(per_round, outputs - first))
        parts[own * outputs + first + place.group] = sums[0];
    }
  }
  wait_for_copies<0>();
  __syncthreads();
  for (int i = place.thread; i < outputs; i += stream_threads) {
    float sum = args.join.out[begin + i];
    for (int v = 0; v < visits; v++) sum = fmaf(args.join.tables.weight[v], parts[v * outputs + i], sum);
    args.join.out[begin + i] = sum;
  }
}

}  // namespace

bool multiply_and_join(const Product& product, const Rows& in, int32_t experts, const JoinExperts& join,
                       cudaStream_t stream) {
  const Matrix& weight = product.weight;
  if (join.rows.max != 1 || join.visits % stream_warps != 0 || weight.type != DType::bf16 ||
      in.type != Activations::bf16 || weight.columns % chunk_values != 0)
    return false;
  const int blocks = std::min(blocks_of_multiprocessor * multiprocessors(), join.width);
  const int64_t bytes = int64_t{ring} * stream_threads * sizeof(uint4) +
                        staged_bytes(weight.columns, stream_warps) +
                        int64_t{join.visits} * ((join.width + blocks - 1) / blocks) * sizeof(float);
  if (blocks_of_multiprocessor * (bytes + 1024) > shared_memory_of_multiprocessor()) return false;
  check(cudaFuncSetAttribute(stream_and_join, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             shared_memory_of_multiprocessor() / blocks_of_multiprocessor - 1024),
        "cudaFuncSetAttribute");
  launch("the last product of a row's experts", stream_and_join, static_cast<unsigned>(blocks),
         stream_threads, static_cast<size_t>(bytes), stream,
         {product, static_cast<const __nv_bfloat16*>(in.data), in.pitch, experts, join});
  return true;
}

}  // namespace convoy::cuda
