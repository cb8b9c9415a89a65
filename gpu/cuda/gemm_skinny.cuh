#pragma once
// Few rows: a warp sums two outputs of up to eight rows, lanes striding over the columns. The weights are
// read once, as they lie; what is read of the activations comes from the first-level cache. A row's sums do
// not depend on how many rows there are.
// Bytes: the weights' and little else; operations: 2 · rows · outputs · columns.

#include "gpu/cuda/gemm_args.cuh"

namespace convoy::cuda {

inline constexpr int skinny_warps = 8, skinny_outputs = 2;  // of a block; of a warp

template <DType W, class A, int M>
__global__ void __launch_bounds__(skinny_warps * 32) skinny_gemm(const GemmArgs args) {
  follow_previous();
  const Tile tile = tile_of(args, static_cast<int>(blockIdx.y), skinny_rows);
  if (tile.rows <= 0) return;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  int output = (static_cast<int>(blockIdx.x) * skinny_warps + warp) * skinny_outputs;
  if (output >= args.ends[args.count - 1]) return;
  const int p = find_product(args, output);
  const Product& product = args.products[p];
  const Matrix weight = of_expert(product.weight, tile.expert);
  if (output >= weight.rows) return;

  const A* in[M];
#pragma unroll
  for (int m = 0; m < M; m++)
    in[m] = static_cast<const A*>(args.in) + input_row(args, tile, min(m, tile.rows - 1)) * args.in_pitch;
  float sums[M][skinny_outputs] = {};
  const int columns = padded(weight.columns);
#pragma unroll(M == 1 ? 4 : 1)
  for (int k = lane * chunk_values; k < columns; k += 32 * chunk_values) {
    float w[skinny_outputs][chunk_values];
#pragma unroll
    for (int o = 0; o < skinny_outputs; o++)
      Decoder<W>::eight(weight, min(output + o, weight.rows - 1), k, w[o]);
#pragma unroll
    for (int m = 0; m < M; m++) {
      float x[chunk_values];
      load_eight(in[m] + k, x);
#pragma unroll
      for (int o = 0; o < skinny_outputs; o++)
#pragma unroll
        for (int i = 0; i < chunk_values; i++) sums[m][o] = fmaf(w[o][i], x[i], sums[m][o]);
    }
  }
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int o = 0; o < skinny_outputs; o++) {
      const float sum = warp_sum(sums[m][o]);
      if (lane != 0 || m >= tile.rows || output + o >= weight.rows) continue;
      const float bias = product.bias ? product.bias[output + o] : 0.0f;
      put(product, product.out + (tile.first + m) * product.pitch + output + o, sum + bias);
    }
}

}  // namespace convoy::cuda
