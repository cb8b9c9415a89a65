#include "gpu/cuda/experts.hpp"

#include <algorithm>
#include <climits>

#include "gpu/cuda/elementwise.cuh"

namespace convoy::cuda {
namespace {

constexpr int route_warps = 4, list_threads = 1024, join_threads = 256;
static_assert(list_threads >= experts_max);

struct Best {
  float value;
  int index;
};
/// Of equals the lower index; a NaN, of a damaged model, comes last.
__device__ __forceinline__ Best better(Best a, Best b) {
  return b.value > a.value || (b.value == a.value && b.index < a.index) ? b : a;
}

/// The best of `count` values that `taken` leaves; every lane gets it.
__device__ __forceinline__ int warp_best(const float* values, const bool* taken, int count, int lane) {
  Best best{-INFINITY, INT_MAX};
  for (int i = lane; i < count; i += 32)
    if (!taken[i]) best = better(best, {isnan(values[i]) ? -INFINITY : values[i], i});
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2)
    best = better(best, {__shfl_xor_sync(0xffffffffu, best.value, apart),
                         __shfl_xor_sync(0xffffffffu, best.index, apart)});
  return best.index;
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2)
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, apart));
  return value;
}

__device__ void score(const float* logits, const model::Routing& routing, int lane, float* scores) {
  const int experts = static_cast<int>(routing.experts);
  if (routing.scoring == model::Scoring::sigmoid) {
    for (int i = lane; i < experts; i += 32) scores[i] = 1 / (1 + expf(-logits[i]));
    return;
  }
  float largest = -INFINITY, sum = 0;
  for (int i = lane; i < experts; i += 32) largest = fmaxf(largest, logits[i]);
  largest = warp_max(largest);
  for (int i = lane; i < experts; i += 32) sum += scores[i] = expf(logits[i] - largest);
  sum = warp_sum(sum);
  for (int i = lane; i < experts; i += 32) scores[i] /= sum;
}

__device__ float group_worth(const float* compared, int size, model::GroupScore kind) {
  float best = -INFINITY, second = -INFINITY;
  for (int i = 0; i < size; i++) {
    if (compared[i] > best)
      second = best, best = compared[i];
    else
      second = fmaxf(second, compared[i]);
  }
  return kind == model::GroupScore::best ? best : best + second;
}

/// A warp's part of shared memory.
struct RouteRoom {
  float scores[experts_max], compared[experts_max], worth[experts_max];
  bool out[experts_max], group_out[experts_max];
  int chosen[experts_chosen_max];
};

/// A warp a row.
__global__ void __launch_bounds__(route_warps * 32) choose_experts(const Route r) {
  extern __shared__ float4 shared[];
  follow_previous();
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int row = static_cast<int>(blockIdx.x) * route_warps + warp;
  if (!has_row(r.rows, row)) return;
  RouteRoom& room = reinterpret_cast<RouteRoom*>(shared)[warp];
  const int experts = static_cast<int>(r.routing.experts), chosen = static_cast<int>(r.routing.chosen);
  const int groups = static_cast<int>(r.routing.groups), size = experts / groups;
  score(r.logits + static_cast<int64_t>(row) * experts, r.routing, lane, room.scores);
  for (int i = lane; i < experts; i += 32) {
    room.compared[i] = r.bias ? room.scores[i] + r.bias[i] : room.scores[i];
    room.out[i] = true;
  }
  __syncwarp();
  for (int g = lane; g < groups; g += 32) {
    room.worth[g] = group_worth(room.compared + g * size, size, r.routing.group_score);
    room.group_out[g] = false;
  }
  __syncwarp();
  for (int i = 0; i < static_cast<int>(r.routing.groups_chosen); i++) {
    const int group = warp_best(room.worth, room.group_out, groups, lane);
    __syncwarp();
    if (lane == 0) room.group_out[group] = true;
    for (int e = lane; e < size; e += 32) room.out[group * size + e] = false;
    __syncwarp();
  }
  for (int i = 0; i < chosen; i++) {
    const int expert = warp_best(room.compared, room.out, experts, lane);
    __syncwarp();
    if (lane == 0) room.out[expert] = true, room.chosen[i] = expert;
    __syncwarp();
  }
  // In the order of their numbers.
  int own = -1, rank = 0;
  if (lane < chosen) {
    own = room.chosen[lane];
    for (int i = 0; i < chosen; i++) rank += room.chosen[i] < own;
  }
  __syncwarp();
  if (own >= 0) room.chosen[rank] = own;
  __syncwarp();
  float sum = 0;
  for (int i = 0; i < chosen; i++) sum += room.scores[room.chosen[i]];
  if (lane >= chosen) return;
  const int expert = room.chosen[lane];
  float weight = room.scores[expert];
  if (r.routing.normalised) weight /= sum + 1e-20f;
  r.tables.expert[row * chosen + lane] = expert;
  r.tables.weight[row * chosen + lane] = weight * static_cast<float>(r.routing.scale);
}

/// One block: counts visits, gives each expert its part of the list, and cuts the parts into tiles. In which
/// order an expert's rows come does not matter to any of them.
__global__ void __launch_bounds__(list_threads) list_visits(const Route r) {
  __shared__ int counts[experts_max], visit_ends[list_threads], tile_ends[list_threads];
  follow_previous();
  const int thread = static_cast<int>(threadIdx.x);
  const int rows = max(0, min(r.rows.max, *r.rows.count - r.rows.first));
  const int chosen = static_cast<int>(r.routing.chosen), visits = rows * chosen;
  if (thread < experts_max) counts[thread] = 0;
  __syncthreads();
  for (int i = thread; i < visits; i += list_threads) atomicAdd(&counts[r.tables.expert[i]], 1);
  __syncthreads();
  const int own = thread < experts_max ? counts[thread] : 0,
            own_tiles = (own + r.tile_rows - 1) / r.tile_rows;
  visit_ends[thread] = own, tile_ends[thread] = own_tiles;
  for (int apart = 1; apart < list_threads; apart *= 2) {
    __syncthreads();
    const int before = thread >= apart ? visit_ends[thread - apart] : 0;
    const int tiles_before = thread >= apart ? tile_ends[thread - apart] : 0;
    __syncthreads();
    visit_ends[thread] += before, tile_ends[thread] += tiles_before;
  }
  __syncthreads();
  const int first = visit_ends[thread] - own;
  for (int i = 0; i < own_tiles; i++)
    r.tables.tiles[tile_ends[thread] - own_tiles + i] = {thread, first + i * r.tile_rows,
                                                         min(r.tile_rows, own - i * r.tile_rows)};
  if (thread == list_threads - 1) *r.tables.tile_count = tile_ends[thread], *r.tables.visits = visits;
  if (thread < experts_max) counts[thread] = first;  // now: where the next visit goes
  __syncthreads();
  for (int i = thread; i < visits; i += list_threads) {
    const int place = atomicAdd(&counts[r.tables.expert[i]], 1);
    r.tables.visit_row[place] = i / chosen, r.tables.place[i] = place;
  }
}

__global__ void __launch_bounds__(join_threads) join(const JoinExperts j) {
  follow_previous();
  const int row = static_cast<int>(blockIdx.x);
  if (!has_row(j.rows, row)) return;
  const int i = static_cast<int>(blockIdx.y) * join_threads + static_cast<int>(threadIdx.x);
  if (i >= j.width) return;
  float* const out = j.out + row * j.pitch + i;
  float sum = j.fresh ? 0.0f : *out;
  for (int k = 0; k < j.chosen; k++) {
    const int at = row * j.chosen + k;
    sum = fmaf(j.tables.weight[at], j.results[j.tables.place[at] * j.pitch + i], sum);
  }
  *out = sum;
}

}  // namespace

int tiles_max(const model::Routing& routing, int rows, int tile_rows) {
  const int64_t visits = rows * routing.chosen;
  return static_cast<int>(visits / tile_rows + std::min(routing.experts, visits));
}

void route_rows(const Route& route, cudaStream_t stream) {
  static const cudaError_t raised =
      cudaFuncSetAttribute(choose_experts, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(route_warps * sizeof(RouteRoom)));
  check(raised, "cudaFuncSetAttribute");
  launch("choose_experts", choose_experts, grid_of((route.rows.max + route_warps - 1) / route_warps),
         route_warps * 32, route_warps * sizeof(RouteRoom), stream, route);
  launch("list_visits", list_visits, 1, list_threads, 0, stream, route);
}

void join_experts(const JoinExperts& j, cudaStream_t stream) {
  launch("join_experts", join,
         dim3(grid_of(j.rows.max), grid_of((j.width + join_threads - 1) / join_threads)), join_threads, 0,
         stream, j);
}

}  // namespace convoy::cuda
