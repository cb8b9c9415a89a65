#pragma once
// The kernel of streamed products (gemm_stream.hpp), and its launches for one type of weights.
// gemm_stream_bf16.cu and its neighbours compile them, so that they compile beside each other.

#include <algorithm>

#include "gpu/cuda/gemm_stream.cuh"
#include "gpu/cuda/gemm_stream.hpp"

namespace convoy::cuda {

/// Of many rows a block has the registers to itself where weights are decoded in them.
constexpr int stream_blocks_of(DType type, int eights) { return eights == 4 && type != DType::bf16 ? 1 : 2; }
/// Up to 128 KB of weights under way a multiprocessor, twice what saturates the memory, so that blocks whose
/// tiles are not full do too. Less where registers are short, or a row of nibbles has no more.
constexpr int ring_of(DType type, int eights) {
  if (type == DType::bf16) return eights == 1 ? 8 : eights == 2 ? 6 : 3;
  if (has_nibbles(type)) return eights == 4 ? 3 : 4;
  return eights == 1 ? 7 : eights == 2 ? 4 : 3;
}
/// Operands of activations that are under way, where they come from afar: decoding takes longer than they do.
constexpr int rows_ahead(DType type, int eights) { return eights == 1 ? unit_values(type) / 32 : 1; }
/// Tiles of the tensor cores that a warp has at once: with many rows of activations, what is read of these
/// would weigh more than the weights.
constexpr int tiles_of(int eights) { return eights == 4 ? 2 : 1; }
template <DType W, int Eights, bool Gated, bool Normed>
struct RingOf {
  using Type =
      UnitRing<W, ring_of(W, Eights), tiles_of(Eights), Gated, Eights, (Normed ? 0 : rows_ahead(W, Eights))>;
};
template <int Eights, bool Gated, bool Normed>
struct RingOf<DType::bf16, Eights, Gated, Normed> {
  using Type = Bf16Ring<ring_of(DType::bf16, Eights), tiles_of(Eights), Gated, Eights>;
};

struct StreamArgs {
  Matrix weight, up;  // up: as large as weight, if the products are gated
  const float *bias, *up_bias;
  const __nv_bfloat16* in;
  int64_t in_pitch;
  Norm norm;
  bool keeps_norm;
  float* out;
  __nv_bfloat16* gated;
  int64_t out_pitch;
  bool adds;
  RowRange rows;
};

/// Where it is written: loads of a whole round ahead would take the registers of the ring.
__device__ __forceinline__ uint4 load_activations(const __nv_bfloat16* from) {
  uint4 v;
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}

/// Rows of activations that are normalised where they are read.
constexpr int normed_rows_max = 8;
/// Of a block in shared memory: with two blocks of this kernel and one of the next, a multiprocessor's is
/// full.
constexpr int64_t normed_bytes_max = 72 * 1024;

/// Writes x · weight of up to Rows rows as bf16, and each warp's sums of x².
template <int Rows>
__device__ __forceinline__ void take_rows(const Norm& norm, int rows, __nv_bfloat16* staged,
                                          float (&squares)[stream_warps][normed_rows_max]) {
  constexpr int at_once = Rows == 1 ? 4 : 1;  // every load on its way before the first is looked at
  const int thread = static_cast<int>(threadIdx.x), fours = norm.width / 4, pitch = staged_pitch(norm.width);
  float sums[Rows] = {};
  int64_t from[Rows];
#pragma unroll
  for (int r = 0; r < Rows; r++)
    from[r] = (norm.chosen && r < rows ? norm.chosen[norm.rows.first + r] : r) * norm.pitch;
  for (int first = thread; first < fours; first += stream_threads * at_once) {
    float4 weights[at_once], x[at_once][Rows];
#pragma unroll
    for (int i = 0; i < at_once; i++) {
      const int four = first + i * stream_threads;
      weights[i] = four < fours ? reinterpret_cast<const float4*>(norm.weight)[four] : float4{};
#pragma unroll
      for (int r = 0; r < Rows; r++)
        x[i][r] =
            four < fours && r < rows ? reinterpret_cast<const float4*>(norm.in + from[r])[four] : float4{};
    }
#pragma unroll
    for (int i = 0; i < at_once; i++) {
      const int four = first + i * stream_threads;
      const float4& w = weights[i];
#pragma unroll
      for (int r = 0; r < Rows; r++) {
        const float4& v = x[i][r];
        sums[r] = fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, fmaf(v.w, v.w, sums[r]))));
        if (four < fours && r < rows)
          *reinterpret_cast<uint2*>(staged + r * pitch + four * 4) = {two_bf16(v.x * w.x, v.y * w.y),
                                                                      two_bf16(v.z * w.z, v.w * w.w)};
      }
    }
  }
#pragma unroll
  for (int r = 0; r < Rows; r++) {
    const float sum = warp_sum(sums[r]);
    if (thread % 32 == 0) squares[thread / 32][r] = sum;
  }
}

/// A block takes an even share of the outputs, in rounds of one or two tiles.
/// Normed: of up to so many rows (0: of none), which are x / rms(x) · w; the root is left for the sums' end.
/// Bytes: the weights' once; operations: 2 · rows · outputs · columns.
template <DType W, int Eights, bool Gated, int Normed>
__global__ void __launch_bounds__(stream_threads, stream_blocks_of(W, Eights))
    stream_gemm(const StreamArgs args) {
  constexpr int at_once = tiles_of(Eights), halves = at_once == 1 ? 2 : 1;
  using Ring = typename RingOf<W, Eights, Gated, (Normed > 0)>::Type;
  __shared__ StreamParts<at_once, Eights> parts[halves];
  __shared__ float squares[stream_warps][normed_rows_max], scales[normed_rows_max];
  extern __shared__ uint4 dynamic[];
  auto* const staged = reinterpret_cast<__nv_bfloat16*>(dynamic);
  let_next_begin();
  const StreamPlace place;
  const int first_row = static_cast<int>(blockIdx.y) * Eights * 8;
  const int rows =
      min(min(Eights * 8, args.rows.max - first_row), *args.rows.count - args.rows.first - first_row);
  if (rows <= 0) return wait_for_previous();

  const Matrix& weight = args.weight;
  const int64_t all = weight.rows;
  const int begin = static_cast<int>(all * blockIdx.x / gridDim.x),
            count = static_cast<int>(all * (blockIdx.x + 1) / gridDim.x) - begin;
  const int tiles = (count + Ring::rows_max - 1) / Ring::rows_max;
  const int per_tile = tiles > 0 ? (count + tiles - 1) / tiles : 0;
  Ring ring(place, padded(weight.columns));
  int next_tile = 0;
  const auto begin_tile = [&] {
    const int at = next_tile * per_tile;
    ring.begin(weight, args.up, begin + at, next_tile < tiles ? min(per_tile, count - at) : 0);
    next_tile++;
  };
  begin_tile();
#pragma unroll
  for (int i = 0; i < ring_of(W, Eights); i++) ring.fetch(i);
  if (ring.ended()) begin_tile();
  if constexpr (Normed > 0) {
    constexpr int line = 128 / sizeof(float);
    if (place.thread * line < weight.columns)
      asm volatile("prefetch.global.L2 [%0];" ::"l"(args.norm.weight + place.thread * line));
  }
  wait_for_previous();
  if constexpr (Normed > 0) {
    take_rows<Normed>(args.norm, rows, staged, squares);
    __syncthreads();
    if (place.thread < Normed) {  // read behind the first tile's barrier
      float sum = 0;
#pragma unroll
      for (int w = 0; w < stream_warps; w++) sum += squares[w][place.thread];
      scales[place.thread] = 1.0f / sqrtf(sum / static_cast<float>(weight.columns) + args.norm.eps);
    }
    if (args.keeps_norm) {  // an even share of the columns
      __syncthreads();
      const int from = static_cast<int>(weight.columns * int64_t{blockIdx.x} / gridDim.x),
                to = static_cast<int>(weight.columns * int64_t{blockIdx.x + 1} / gridDim.x);
      for (int row = place.warp; row < rows; row += stream_warps)
        for (int i = from + place.lane; i < to; i += 32)
          static_cast<__nv_bfloat16*>(args.norm.out.data)[row * args.norm.out.pitch + i] =
              __float2bfloat16_rn(args.norm.in[row * args.norm.pitch + i] * scales[row] *
                                  args.norm.weight[i]);
    }
  }

  // Rows behind the last are computed as that one is, and not kept.
  int in[Eights];
#pragma unroll
  for (int j = 0; j < Eights; j++) {
    const int row = min(j * 8 + place.group, rows - 1);
    in[j] = row * static_cast<int>(Normed > 0 ? staged_pitch(weight.columns) : args.in_pitch) +
            place.warp * Ring::warp_columns + place.quarter * chunk_values;
  }
  const __nv_bfloat16* const from = args.in + first_row * args.in_pitch;
  const auto activations = [&](int column, int j) {
    const int at = in[j] + column;
    return Normed > 0 ? *reinterpret_cast<const uint4*>(staged + at) : load_activations(from + at);
  };
  ring.begin_rows(activations);
  for (int tile = 0; tile < tiles; tile++) {
    float sums[at_once][Eights][4] = {};
    ring.multiply(sums, activations, begin_tile);
    const int at = tile * per_tile;
    const auto put = [&](int row, int output, float sum, float up_sum) {
      const int of_all = begin + at + output;
      if constexpr (Normed > 0) sum *= scales[row], up_sum *= scales[row];
      if (args.bias) sum += args.bias[of_all];
      if constexpr (Gated) {
        if (args.up_bias) up_sum += args.up_bias[of_all];
        args.gated[(first_row + row) * args.out_pitch + of_all] = gated_bf16(sum, up_sum);
      } else {
        float* const to = args.out + (first_row + row) * args.out_pitch + of_all;
        *to = args.adds ? *to + sum : sum;
      }
    };
    join_warps<Gated>(place, parts[tile % halves], sums, rows, min(per_tile, count - at), put);
    // With two halves, what is written next was read before.
    if (halves == 1) __syncthreads();
  }
}

template <DType W, int Eights, int Normed>
void launch_stream(const StreamArgs& args, size_t shared, cudaStream_t stream) {
  const auto kernel =
      args.up.data ? stream_gemm<W, Eights, true, Normed> : stream_gemm<W, Eights, false, Normed>;
  if (shared > 0)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(normed_bytes_max)),
          "cudaFuncSetAttribute");
  const int blocks = std::min(stream_blocks_of(W, Eights) * multiprocessors(), args.weight.rows);
  const dim3 grid(static_cast<unsigned>(blocks),
                  static_cast<unsigned>((args.rows.max + Eights * 8 - 1) / (Eights * 8)));
  launch("a product", kernel, grid, stream_threads, shared, stream, args);
}

/// Products whose weights have type W.
template <DType W>
void stream_type(const StreamArgs& args, cudaStream_t stream) {
  const int rows = args.rows.max;
  if (args.norm.in) {
    const auto shared = static_cast<size_t>(staged_bytes(args.weight.columns, rows));
    return rows == 1 ? launch_stream<W, 1, 1>(args, shared, stream)
                     : launch_stream<W, 1, normed_rows_max>(args, shared, stream);
  }
  switch (stream_tile(rows)) {
    case 8:
      return launch_stream<W, 1, 0>(args, 0, stream);
    case 16:
      return launch_stream<W, 2, 0>(args, 0, stream);
    default:
      return launch_stream<W, 4, 0>(args, 0, stream);
  }
}

extern template void stream_type<DType::bf16>(const StreamArgs&, cudaStream_t);
extern template void stream_type<DType::f8_e4m3>(const StreamArgs&, cudaStream_t);
extern template void stream_type<DType::i8>(const StreamArgs&, cudaStream_t);
extern template void stream_type<DType::q8_0>(const StreamArgs&, cudaStream_t);
extern template void stream_type<DType::q4_0>(const StreamArgs&, cudaStream_t);
extern template void stream_type<DType::q4_1>(const StreamArgs&, cudaStream_t);
extern template void stream_type<DType::q4_k>(const StreamArgs&, cudaStream_t);

}  // namespace convoy::cuda
