// Products of experts (gemm_wgmma.hpp): all tiles of a step's visits in one launch.

#include <algorithm>

#include "gpu/cuda/gemm_args.cuh"
#include "gpu/cuda/gemm_wgmma.cuh"
#include "gpu/cuda/gemm_wgmma.hpp"
#include "gpu/cuda/mma.cuh"

namespace convoy::cuda {
namespace {

constexpr int unit = 64;  // outputs that are fetched at once

/// Where an expert's matrix begins in one that a map has tiles of.
struct Place {
  int32_t row_step = 0, column_step = 0;  // from an expert to the next
};

struct TileArgs {
  Place routed, shared;
  Visits visits;
  bool of_step;  // rows of activations are the step's, and a visit's is one of them; else the visits'
  float* out;
  __nv_bfloat16* gated;
  int64_t out_pitch;
  int outputs, chunks, stages;
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/// Outputs of one tile that a block computes at once.
struct Job {
  Tile tile;
  int first, count;
};

/// The jobs of a block: an even share of all tiles' units, cut where tiles end.
class Jobs {
 public:
  __device__ Jobs(const TileArgs& args, int outputs_max) : args_(args), units_max_(outputs_max / unit) {
    of_tile_ = (args.outputs + unit - 1) / unit;
    const int64_t all = int64_t{*args.visits.tile_count} * of_tile_;
    next_ = static_cast<int>(all * blockIdx.x / gridDim.x);
    end_ = static_cast<int>(all * (blockIdx.x + 1) / gridDim.x);
  }
  __device__ bool take(Job& job) {
    if (next_ >= end_) return false;
    const int first = next_ % of_tile_, count = min(min(units_max_, of_tile_ - first), end_ - next_);
    job = {args_.visits.tiles[next_ / of_tile_], first * unit, count * unit};
    next_ += count;
    return true;
  }

 private:
  const TileArgs& args_;
  int units_max_, of_tile_, next_, end_;
};

#endif

template <bool Gated>
struct Weights {
  CUtensorMap routed, routed_up, shared, shared_up;
};

/// A block takes its jobs one after the other; what the next one needs is fetched while this one is computed.
/// Bytes: each tile's weights; operations: 2 · Rows · outputs · columns a tile.
template <int Rows, bool Gated, int Products>
__global__ void __launch_bounds__(block_threads, 1)
    tile_experts(const __grid_constant__ Weights<Gated> weights, const __grid_constant__ CUtensorMap in,
                 const __grid_constant__ TileArgs args) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  constexpr int matrices = Gated ? 2 : 1, rows_of_stage = Products * round_outputs,
                outputs_max = rows_of_stage / matrices;
  constexpr int weight_bytes = rows_of_stage * line_bytes, stage_bytes = weight_bytes + Rows * line_bytes;
  extern __shared__ uint4 dynamic[];
  __shared__ uint64_t full[stages_max], empty[stages_max];
  auto* const ring = reinterpret_cast<std::byte*>(dynamic) + (-shared_address(dynamic) & (tile_align - 1));
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, stages = args.stages;
  let_next_begin();
  if (thread == 0) {
    for (int i = 0; i < stages; i++) init_barrier(full[i], 1), init_barrier(empty[i], groups);
    show_barriers();
  }
  __syncthreads();
  wait_for_previous();  // which experts there are
  Jobs jobs(args, outputs_max);
  Job job;
  int stage = 0;
  uint32_t parity = 0;
  const auto next_stage = [&] {
    if (++stage == stages) stage = 0, parity ^= 1;
  };
  if (thread >= consumers) {
    if (lane > 0) return;
    const uint64_t policy = read_once();
    bool filled = false;
    while (jobs.take(job)) {
      const bool is_shared = job.tile.expert >= args.visits.experts;
      const Place& place = is_shared ? args.shared : args.routed;
      const int expert = is_shared ? job.tile.expert - args.visits.experts : job.tile.expert;
      const int first = expert * place.row_step + job.first, row = args.of_step ? 0 : job.tile.first;
      for (int chunk = 0; chunk < args.chunks; chunk++) {
        if (filled) wait_for(empty[stage], parity ^ 1);
        std::byte* const to = ring + stage * stage_bytes;
        const int column = chunk * tile_columns, from = expert * place.column_step + column;
        arrive_and_expect(full[stage], static_cast<uint32_t>((job.count * matrices + Rows) * line_bytes));
        for (int i = 0; i < job.count; i += unit) {
          fetch_weight_tile(to + i * line_bytes, is_shared ? weights.shared : weights.routed, first + i, from,
                            full[stage], policy);
          if constexpr (Gated)
            fetch_weight_tile(to + (outputs_max + i) * line_bytes,
                              is_shared ? weights.shared_up : weights.routed_up, first + i, from, full[stage],
                              policy);
        }
        fetch_tile(to + weight_bytes, in, row, column, full[stage]);
        next_stage();
        if (stage == 0) filled = true;
      }
    }
    return;
  }
  constexpr int pitch = sums_pitch(rows_of_stage);
  auto* const joined = reinterpret_cast<float*>(ring + stages * stage_bytes);  // [Rows][pitch]
  const int group = thread / group_threads, warp = thread / 32;
  while (jobs.take(job)) {
    float sums[Products][Rows / 2] = {};
    for (int chunk = 0; chunk < args.chunks; chunk++) {
      const std::byte* const at = ring + stage * stage_bytes;
      wait_for(full[stage], parity);
      multiply_stage<Rows, Products>(sums, at, at + weight_bytes, group);
      wait_for_wgmma<0>();
      if (thread % group_threads == 0) arrive(empty[stage]);
      next_stage();
    }
    sync_consumers();  // the job before was put
    keep_sums<Rows, Products>(sums, joined, pitch, rows_of_stage);
    sync_consumers();
    for (int visit = warp; visit < job.tile.rows; visit += consumers / 32) {
      const int number = job.tile.first + visit;
      const float* const of_row = joined + (args.of_step ? args.visits.rows[number] : visit) * pitch;
      for (int own = lane * 4; own < job.count && job.first + own < args.outputs; own += 32 * 4) {
        const float4 sum = *reinterpret_cast<const float4*>(of_row + own);
        const int64_t to = number * args.out_pitch + job.first + own;
        if constexpr (Gated)
          *reinterpret_cast<uint2*>(args.gated + to) =
              gated_four(sum, *reinterpret_cast<const float4*>(of_row + outputs_max + own));
        else
          *reinterpret_cast<float4*>(args.out + to) = sum;
      }
    }
  }
#endif
}

/// Tiles of all experts' matrices, and where an expert's begin.
CUtensorMap map_experts(const Matrix& m, int experts, Place& place) {
  if (experts == 0) return {};
  const bool behind = m.expert_bytes % m.pitch == 0;  // in rows; else beside each other, in columns
  place = behind ? Place{static_cast<int32_t>(m.expert_bytes / m.pitch), 0} : Place{0, m.columns};
  return map_tiles(m.data, int64_t{place.row_step} * (experts - 1) + m.rows,
                   int64_t{place.column_step} * (experts - 1) + m.columns, m.pitch, unit);
}

template <int Rows, bool Gated>
void launch_experts(const StreamCall& call, const Visits& visits, cudaStream_t stream) {
  constexpr int products = Rows == 64 ? 1 : 2, rows_of_stage = products * round_outputs;
  constexpr int stage_bytes = (rows_of_stage + Rows) * line_bytes,
                sums_bytes = Rows * sums_pitch(rows_of_stage) * 4;
  constexpr int stages = std::min((shared_max - tile_align - sums_bytes) / stage_bytes, stages_max);
  const Matrix &weight = call.product.weight, &shared = call.product.shared;
  TileArgs args{.visits = visits,
                .of_step = visits.rows != nullptr,
                .out = call.product.out,
                .gated = Gated ? static_cast<__nv_bfloat16*>(call.gated.data) : nullptr,
                .out_pitch = Gated ? call.gated.pitch : call.product.pitch,
                .outputs = weight.rows,
                .chunks = (weight.columns + tile_columns - 1) / tile_columns,
                .stages = stages};
  const int shared_experts = shared.data ? visits.all - visits.experts : 0;
  Weights<Gated> weights{.routed = map_experts(weight, visits.experts, args.routed),
                         .shared = map_experts(shared, shared_experts, args.shared)};
  if constexpr (Gated) {
    weights.routed_up = map_experts(call.up->weight, visits.experts, args.routed);
    weights.shared_up = map_experts(call.up->shared, shared_experts, args.shared);
  }
  const auto kernel = tile_experts<Rows, Gated, products>;
  constexpr int bytes = stages * stage_bytes + sums_bytes + tile_align;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "cudaFuncSetAttribute");
  launch("experts' products", kernel, static_cast<unsigned>(multiprocessors()), block_threads, bytes, stream,
         weights,
         map_tiles(call.in.data, args.of_step ? call.rows.max : visits.max, weight.columns, call.in.pitch * 2,
                   Rows),
         args);
}

template <int Rows>
void launch_rows(const StreamCall& call, const Visits& visits, cudaStream_t stream) {
  call.up ? launch_experts<Rows, true>(call, visits, stream)
          : launch_experts<Rows, false>(call, visits, stream);
}

}  // namespace

int wgmma_experts_tile(int64_t rows, int64_t average) {
  if (!knows_wgmma() || rows <= skinny_rows) return 0;
  // Whose weights are read twice, because it has more rows than a tile, is an exception.
  const int64_t height = rows <= wgmma_rows_max ? rows : average + average / 3;
  return height <= 16 ? 16 : height <= 32 ? 32 : wgmma_rows_max;
}

bool takes_experts(const Matrix& weight) {
  return weight.type == DType::bf16 && weight.rows % chunk_values == 0 &&
         weight.columns % chunk_values == 0 && weight.expert_bytes % weight.pitch == 0;
}

void multiply_visits(const StreamCall& call, const Visits& visits, int tile_rows, cudaStream_t stream) {
  switch (tile_rows) {
    case 16:
      return launch_rows<16>(call, visits, stream);
    case 32:
      return launch_rows<32>(call, visits, stream);
    default:
      return launch_rows<64>(call, visits, stream);
  }
}

}  // namespace convoy::cuda
