#include "gpu/cuda/gemm_wgmma.hpp"

#include <algorithm>

#include "gpu/cuda/cluster.cuh"
#include "gpu/cuda/gemm_wgmma.cuh"
#include "gpu/cuda/mma.cuh"

namespace convoy::cuda {
namespace {

/// Whose sums a group's registers hold.
constexpr int group_products_max = 3;
/// Blocks that share a tile's columns where there are too few outputs for all multiprocessors. With fewer,
/// activations weigh more; larger clusters find less room.
constexpr int split = 4;
/// The fewest outputs of a block that are worth the activations of all columns.
constexpr int unsplit_share_min = 64;

struct WgmmaArgs {
  const float *bias, *up_bias;
  float* out;
  __nv_bfloat16* gated;
  int64_t out_pitch;
  bool adds;
  /// What `in` is the first half of, if its squares are there; and what the first half is left of.
  NormHalves before, after;
  RowRange rows;
  int outputs, chunks;  // of the weight; of its columns
  int share;            // outputs of a block
  int stages;
};

/// A block computes its share of the outputs (gated: of the gate's and the same of `up`); with Split the
/// blocks of a cluster share the columns, and join through each other's shared memory in one order. Bytes:
/// the weights' once, activations once for every share; operations: 2 · rows · outputs · columns.
template <int Rows, bool Gated, int Products, bool Split>
__global__ void __launch_bounds__(block_threads, 1)
    tile_gemm(const __grid_constant__ CUtensorMap weights, const __grid_constant__ CUtensorMap ups,
              const __grid_constant__ CUtensorMap in, const __grid_constant__ WgmmaArgs args) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  constexpr int parts = Split ? split : 1, matrices = Gated ? 2 : 1, block_warps = block_threads / 32;
  extern __shared__ uint4 dynamic[];
  __shared__ uint64_t full[stages_max], empty[stages_max];
  auto* const ring = reinterpret_cast<std::byte*>(dynamic) + (-shared_address(dynamic) & (tile_align - 1));
  let_next_begin();
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const int rank = static_cast<int>(blockIdx.z), stages = args.stages;
  const int first_output = static_cast<int>(blockIdx.x) * args.share;
  const int first_chunk = args.chunks * rank / parts, chunks = args.chunks * (rank + 1) / parts - first_chunk;
  const int outputs = args.share * matrices, weight_bytes = outputs * line_bytes,
            stage_bytes = weight_bytes + Rows * line_bytes;
  if (thread == 0) {
    for (int i = 0; i < stages; i++) init_barrier(full[i], 1), init_barrier(empty[i], groups);
    show_barriers();
  }
  __syncthreads();
  if (thread >= consumers) {
    if (lane == 0) {
      const auto fetch_weights = [&](int chunk, int stage) {
        std::byte* const to = ring + stage * stage_bytes;
        const int column = (first_chunk + chunk) * tile_columns;
        arrive_and_expect(full[stage], static_cast<uint32_t>(stage_bytes));
        fetch_tile(to, weights, first_output, column, full[stage]);
        if constexpr (Gated) fetch_tile(to + weight_bytes / 2, ups, first_output, column, full[stage]);
      };
      const auto fetch_rows = [&](int chunk, int stage) {
        fetch_tile(ring + stage * stage_bytes + weight_bytes, in, 0, (first_chunk + chunk) * tile_columns,
                   full[stage]);
      };
      const int early = min(stages, chunks);
      for (int i = 0; i < early; i++) fetch_weights(i, i);
      prefetch_map(in);
      wait_for_previous();
      for (int i = 0; i < early; i++) fetch_rows(i, i);
      int stage = 0;
      uint32_t parity = 0;
      for (int i = early; i < chunks; i++) {
        wait_for(empty[stage], parity);
        fetch_weights(i, stage), fetch_rows(i, stage);
        if (++stage == stages) stage = 0, parity ^= 1;
      }
    }
    __syncwarp();
  }
  auto* const joined = reinterpret_cast<float*>(ring);  // [Rows][pitch]
  const int pitch = sums_pitch(outputs);
  if (thread < consumers) {
    const int group = thread / group_threads;
    float sums[Products][Rows / 2] = {};
    int stage = 0, before = 0;
    uint32_t parity = 0;
    for (int i = 0; i < chunks; i++) {
      const std::byte* const at = ring + stage * stage_bytes;
      wait_for(full[stage], parity);
      // What a product reads behind the share's last output is multiplied too, and not kept.
      multiply_stage<Rows, Products>(sums, at, at + weight_bytes, group);
      wait_for_wgmma<1>();
      if (i > 0 && thread % group_threads == 0) arrive(empty[before]);
      before = stage;
      if (++stage == stages) stage = 0, parity ^= 1;
    }
    wait_for_wgmma<0>();
    sync_consumers();  // nobody reads the ring any more
    keep_sums<Rows, Products>(sums, joined, pitch, outputs);
    wait_for_previous();
  }
  if constexpr (Split)
    sync_cluster();
  else
    __syncthreads();
  // A warp has whole rows of the share: what it says of a row is the sum of four outputs a thread.
  const int rows = min(args.rows.max, *args.rows.count - args.rows.first);
  const NormHalves &before = args.before, &after = args.after;
  for (int row = rank * block_warps + thread / 32; row < rows; row += parts * block_warps) {
    float scale = 1;
    if (before.squares) {
      float sum = 0;
      for (int i = lane; i < before.tiles; i += 32) sum += before.squares[row * before.pitch + i];
      scale = 1.0f / sqrtf(warp_sum(sum) / static_cast<float>(before.norm.width) + before.norm.eps);
    }
    float squares = 0;
    for (int own = lane * 4; own < args.share; own += 32 * 4) {
      const int output = first_output + own;
      if (output >= args.outputs) break;
      const auto sum_of = [&](int at, const float* bias) {
        const float* const own_sums = joined + row * pitch + at;
        float4 sums[parts];
#pragma unroll
        for (int r = 0; r < parts; r++)
          sums[r] = Split ? load_four(own_sums, r) : *reinterpret_cast<const float4*>(own_sums);
        float4 sum = bias ? *reinterpret_cast<const float4*>(bias + output) : float4{};
#pragma unroll
        for (int r = 1; r < parts; r++) add_weighted(sums[0], sums[r], 1.0f);
        add_weighted(sum, sums[0], scale);
        return sum;
      };
      float4 sum = sum_of(own, args.bias);
      const int64_t to = row * args.out_pitch + output;
      if constexpr (Gated) {
        const float4 up = sum_of(args.share + own, args.up_bias);
        *reinterpret_cast<uint2*>(args.gated + to) = gated_four(sum, up);
      } else {
        if (args.adds) add_weighted(sum, *reinterpret_cast<const float4*>(args.out + to), 1.0f);
        *reinterpret_cast<float4*>(args.out + to) = sum;
        if (after.squares) {
          const float4 w = *reinterpret_cast<const float4*>(after.norm.weight + output);
          *reinterpret_cast<uint2*>(static_cast<__nv_bfloat16*>(after.norm.out.data) +
                                    row * after.norm.out.pitch + output) = {
              two_bf16(sum.x * w.x, sum.y * w.y), two_bf16(sum.z * w.z, sum.w * w.w)};
          squares = fmaf(sum.x, sum.x, fmaf(sum.y, sum.y, fmaf(sum.z, sum.z, fmaf(sum.w, sum.w, squares))));
        }
      }
    }
    if (after.squares) {
      squares = warp_sum(squares);
      if (lane == 0) after.squares[row * after.pitch + blockIdx.x] = squares;
    }
  }
  if constexpr (Split) sync_cluster();  // a block's memory is read until here
#endif
}

/// Shared memory of a block: with a split tile some is left to the attention before it, beside which its
/// weights come.
constexpr int shared_of(bool is_split) { return is_split ? 152 * 1024 : shared_max; }

template <int Rows, bool Gated, int Products, bool Split>
void launch_tiles(const StreamCall& call, WgmmaArgs args, cudaStream_t stream) {
  constexpr int matrices = Gated ? 2 : 1, parts = Split ? split : 1;
  constexpr int read = Products * round_outputs * line_bytes;  // of a stage, and of what lies behind it
  const int stage_bytes = (args.share * matrices + Rows) * line_bytes, last = std::max(stage_bytes, read);
  args.stages = std::min({(shared_of(Split) - tile_align - last) / stage_bytes + 1, stages_max,
                          (args.chunks + parts - 1) / parts});
  const int shared = tile_align + std::max((args.stages - 1) * stage_bytes + last,
                                           Rows * sums_pitch(args.share * matrices) * 4);
  const auto kernel = tile_gemm<Rows, Gated, Products, Split>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_of(Split)),
        "cudaFuncSetAttribute");
  const auto map = [&](const Matrix& m) { return map_tiles(m.data, m.rows, m.columns, m.pitch, args.share); };
  const Matrix &weight = call.product.weight, &up = call.up ? call.up->weight : weight;
  const int tiles = (args.outputs + args.share - 1) / args.share;
  if (call.halves && tiles <= wgmma_tiles_max) call.halves->tiles = tiles, args.after = *call.halves;
  const dim3 grid(static_cast<unsigned>(tiles), 1, parts);
  launch_clusters("a product", kernel, grid, parts, block_threads, static_cast<size_t>(shared), stream,
                  map(weight), map(up),
                  map_tiles(call.in.data, call.rows.max, weight.columns, call.in.pitch * 2, Rows), args);
}

/// Outputs of a block that make `tiles` of them, or twice, three times … as many.
int share_of(int outputs, int tiles, int step, int most) {
  for (int waves = 1;; waves++) {
    const int share = (outputs + tiles * waves * step - 1) / (tiles * waves * step) * step;
    if (share <= most) return share;
  }
}

template <int Rows>
void launch_rows(const StreamCall& call, WgmmaArgs args, cudaStream_t stream) {
  const int matrices = call.up ? 2 : 1;
  // A cluster finds its multiprocessors in one neighbourhood: not all of the card's.
  static const int clusters =
      active_clusters(tile_gemm<Rows, false, 2, true>, block_threads, shared_of(true), split);
  const bool splits =
      clusters > 0 && args.chunks >= split && args.outputs * matrices < unsplit_share_min * multiprocessors();
  args.share = share_of(args.outputs, splits ? clusters : multiprocessors(), splits ? 16 : 8,
                        std::min(group_products_max * round_outputs / matrices, tile_rows_max));
  const auto launch_products = [&]<int Products>() {
    if (splits)
      call.up ? launch_tiles<Rows, true, Products, true>(call, args, stream)
              : launch_tiles<Rows, false, Products, true>(call, args, stream);
    else
      call.up ? launch_tiles<Rows, true, Products, false>(call, args, stream)
              : launch_tiles<Rows, false, Products, false>(call, args, stream);
  };
  switch ((args.share * matrices + round_outputs - 1) / round_outputs) {
    case 1:
      return launch_products.template operator()<1>();
    case 2:
      return launch_products.template operator()<2>();
    default:
      static_assert(group_products_max == 3);
      return launch_products.template operator()<3>();
  }
}

}  // namespace

bool takes_wgmma(const StreamCall& call) {
  constexpr int fours = 4;
  const int64_t pitch = call.up ? call.gated.pitch : call.product.pitch;
  return knows_wgmma() && call.rows.max <= wgmma_rows_max && !call.norm &&
         call.product.weight.rows % fours == 0 && pitch % fours == 0;
}

void multiply_wgmma(const StreamCall& call, cudaStream_t stream) {
  const Matrix& weight = call.product.weight;
  const WgmmaArgs args{.bias = call.product.bias,
                       .up_bias = call.up ? call.up->bias : nullptr,
                       .out = call.product.out,
                       .gated = call.up ? static_cast<__nv_bfloat16*>(call.gated.data) : nullptr,
                       .out_pitch = call.up ? call.gated.pitch : call.product.pitch,
                       .adds = call.product.adds,
                       .before = call.halved ? *call.halved : NormHalves{},
                       .rows = call.rows,
                       .outputs = weight.rows,
                       .chunks = (weight.columns + tile_columns - 1) / tile_columns};
  if (call.rows.max <= 16)
    launch_rows<16>(call, args, stream);
  else if (call.rows.max <= 32)
    launch_rows<32>(call, args, stream);
  else
    launch_rows<64>(call, args, stream);
}

}  // namespace convoy::cuda
