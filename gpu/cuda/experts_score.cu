// The router's product of few rows, the choice of their experts, and the list, in one launch (experts.hpp).

#include <algorithm>

#include "gpu/cuda/cluster.cuh"
#include "gpu/cuda/experts.cuh"
#include "gpu/cuda/mma.cuh"

namespace convoy::cuda {
namespace {

constexpr int blocks = 8;  // one cluster
constexpr int threads = 512, warps = threads / 32;
constexpr int rows_max = 8;
constexpr int eight = 8, eights_max = 2;  // experts of a block

struct ScoreArgs {
  Matrix router;
  Norm norm;
};

__device__ __forceinline__ float4 load_four(const float* from) {
  return *reinterpret_cast<const float4*>(from);
}
__device__ __forceinline__ float4 load_four(const __nv_bfloat16* from) {
  const uint2 v = *reinterpret_cast<const uint2*>(from);
  return {__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u), __uint_as_float(v.y << 16),
          __uint_as_float(v.y & 0xffff0000u)};
}
__device__ __forceinline__ float4 times(const float4& a, const float4& b) {
  return {a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w};
}
__device__ __forceinline__ float dot(const float4& a, const float4& b) {
  return fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, a.w * b.w)));
}

/// Eight sums over a warp at once: a lane gets the one of number lane / 4.
__device__ __forceinline__ float sum_of_eight(float (&v)[eight]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int count = eight / 2, apart = 16; count > 0; count /= 2, apart /= 2) {
    const bool upper = lane & apart;
#pragma unroll
    for (int i = 0; i < count; i++) {
      const float kept = upper ? v[i + count] : v[i], sent = upper ? v[i] : v[i + count];
      v[i] = kept + __shfl_xor_sync(0xffffffffu, sent, apart);
    }
  }
  v[0] += __shfl_xor_sync(0xffffffffu, v[0], 2);
  return v[0] + __shfl_xor_sync(0xffffffffu, v[0], 1);
}

/// A cluster whose blocks score Eights · 8 experts each, and share out the writing of the norm's rows; the
/// first one gets all scores, chooses, and lists. Threads have four columns of each expert, multiplied by the
/// norm's weights before the rows are there; the root is left for the sums' end. Float32: which experts are
/// chosen hangs on it.
/// Bytes: the router's; operations: 2 · rows · experts · columns.
template <int Rows, int Eights, class Weight>
__global__ void __launch_bounds__(threads) score_and_list(const Route r, const ScoreArgs s) {
  constexpr int own_experts = Eights * eight;
  __shared__ float parts[warps][Rows][own_experts], squares[warps][Rows], scales[Rows];
  extern __shared__ float4 shared[];
  let_next_begin();
  arrive_in_cluster();
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int rank = static_cast<int>(blockIdx.z), width = s.norm.width,
            experts = static_cast<int>(r.routing.experts), visits = r.visits();
  // Of the first block: [rows][experts], [rows][visits], and what its warps need.
  auto* const logits = reinterpret_cast<float*>(shared);
  auto* const listed = reinterpret_cast<int32_t*>(logits + Rows * experts);

  float4 weights[own_experts];
  const auto fetch = [&](int column) {
    const float4 norm = column < width ? load_four(s.norm.weight + column) : float4{};
    const std::byte* const from =
        s.router.data + rank * own_experts * s.router.pitch + column * static_cast<int>(sizeof(Weight));
#pragma unroll
    for (int e = 0; e < own_experts; e++)
      weights[e] = column < width
                       ? times(load_four(reinterpret_cast<const Weight*>(from + e * s.router.pitch)), norm)
                       : float4{};
  };
  fetch(thread * 4);
  const int rows = min(r.rows.max, __ldcg(r.rows.count) - r.rows.first);
  wait_for_previous();

  for (int first = 0; first < width; first += threads * 4) {
    const int column = first + thread * 4;
    float4 x[Rows];
#pragma unroll
    for (int row = 0; row < Rows; row++)
      x[row] = column < width && row < rows ? load_four(s.norm.in + row * s.norm.pitch + column) : float4{};
#pragma unroll
    for (int row = 0; row < Rows; row++) {
      const float of_squares = warp_sum(dot(x[row], x[row]));
      if (lane == 0) squares[warp][row] = first > 0 ? squares[warp][row] + of_squares : of_squares;
#pragma unroll
      for (int i = 0; i < Eights; i++) {
        float sums[eight];
#pragma unroll
        for (int e = 0; e < eight; e++) sums[e] = dot(x[row], weights[i * eight + e]);
        const float sum = sum_of_eight(sums);
        float& part = parts[warp][row][i * eight + lane / 4];
        if (lane % 4 == 0) part = first > 0 ? part + sum : sum;
      }
    }
    if (first + threads * 4 < width) fetch(column + threads * 4);
  }
  __syncthreads();
  wait_for_cluster();  // the first block is there
  if (thread < Rows * own_experts) {
    const int row = thread / own_experts, own = thread % own_experts;
    float sum = 0, of_squares = 0;
#pragma unroll
    for (int w = 0; w < warps; w++) sum += parts[w][row][own], of_squares += squares[w][row];
    const float scale = 1.0f / sqrtf(of_squares / static_cast<float>(width) + s.norm.eps);
    store_at(logits + row * experts + rank * own_experts + own, 0, sum * scale);
    if (own == 0) scales[row] = scale;
  }
  __syncwarp();
  arrive_in_cluster();
  if (rank > 0) {
    __syncthreads();
    const int from = width * (rank - 1) / (blocks - 1), to = width * rank / (blocks - 1);
    for (int row = 0; row < rows; row++)
      for (int i = from + thread; i < to; i += threads)
        static_cast<__nv_bfloat16*>(s.norm.out.data)[row * s.norm.out.pitch + i] =
            __float2bfloat16_rn(s.norm.in[row * s.norm.pitch + i] * scales[row] * s.norm.weight[i]);
    return wait_for_cluster();
  }
  wait_for_cluster();
  if (warp < rows)
    choose_of_row(
        r, warp, logits + warp * experts,
        route_room(reinterpret_cast<std::byte*>(listed) + listed_bytes(Rows, visits), warp, experts),
        listed + warp * visits);
  if (rows == 1) {  // nobody waits for anybody
    if (warp == 0) __syncwarp(), list_of_row(r, listed);
    return;
  }
  __syncthreads();
  list_all<threads>(r, listed);
}

template <int Rows, int Eights, class Weight>
void launch_scores(const Route& route, const ScoreArgs& args, cudaStream_t stream) {
  const int experts = static_cast<int>(route.routing.experts);
  const auto bytes = static_cast<size_t>(Rows * experts * 4 + listed_bytes(Rows, route.visits()) +
                                         Rows * route_room_bytes(experts));
  launch_clusters("score_and_list", score_and_list<Rows, Eights, Weight>, dim3(1, 1, blocks), blocks, threads,
                  bytes, stream, route, args);
}

template <class Weight>
void launch_scores(const Route& route, const ScoreArgs& args, cudaStream_t stream) {
  const bool one = route.rows.max == 1, narrow = route.routing.experts <= blocks * eight;
  if (one)
    narrow ? launch_scores<1, 1, Weight>(route, args, stream)
           : launch_scores<1, 2, Weight>(route, args, stream);
  else
    narrow ? launch_scores<rows_max, 1, Weight>(route, args, stream)
           : launch_scores<rows_max, 2, Weight>(route, args, stream);
}

}  // namespace

bool score_and_route(const Route& route, const Matrix& router, const Norm& norm, cudaStream_t stream) {
  const int64_t experts = route.routing.experts;
  if (!knows_dependent_launches() || route.rows.max > rows_max || norm.out.type != Activations::bf16 ||
      norm.width % chunk_values != 0 || norm.chosen || experts % (blocks * eight) != 0 ||
      experts > blocks * eight * eights_max || experts + route.shared > threads)
    return false;
  const ScoreArgs args{router, norm};
  if (router.type == DType::bf16)
    launch_scores<__nv_bfloat16>(route, args, stream);
  else if (router.type == DType::f32)
    launch_scores<float>(route, args, stream);
  else
    return false;
  return true;
}

}  // namespace convoy::cuda
