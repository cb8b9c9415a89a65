#include "gpu/cuda/experts.hpp"

#include <algorithm>
#include <climits>
#include <utility>

#include "gpu/cuda/elementwise.cuh"

namespace convoy::cuda {
namespace {

constexpr int route_warps = 4, list_threads = 1024, list_warps = list_threads / 32, join_threads = 256;
static_assert(list_threads >= experts_max);

/// Floats in the order of integers; -0 is 0, and a NaN, of a damaged model, comes last.
__device__ __forceinline__ int ordered(float value) {
  const int bits = __float_as_int(isnan(value) ? -INFINITY : value + 0.0f);
  return bits ^ (bits >> 31 & 0x7fffffff);
}

/// Takes the `count` best of `all` values in shared memory, of equals the lower index first: one lane calls
/// take(n, index). What is taken, or out, is INT_MIN. A lane has every 32nd, and nobody else looks at these.
/// Few registers, so that the block finds room beside others.
template <class Take>
__device__ __forceinline__ void take_best(int* values, int all, int count, int lane, const Take& take) {
  for (int n = 0; n < count; n++) {
    int best = INT_MIN, index = INT_MAX;
    for (int i = lane; i < all; i += 32) {
      const int value = values[i];
      if (value > best) best = value, index = i;
    }
    const int most = __reduce_max_sync(0xffffffffu, best);
    const int taken = __reduce_min_sync(0xffffffffu, best == most ? index : INT_MAX);
    if (taken == index) values[taken] = INT_MIN;
    if (lane == 0) take(n, taken);
  }
  __syncwarp();
}
/// A value as take_best compares it: above INT_MIN.
__device__ __forceinline__ int comparable(float value) { return max(ordered(value), INT_MIN + 1); }

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
  float *scores, *compared;  // [experts]
  int *values, *chosen;      // [experts], [experts_chosen_max]
  bool* group_out;           // [experts]
};
__host__ __device__ constexpr int route_room_bytes(int experts) {
  return (experts * (3 * 4 + 1) + experts_chosen_max * 4 + 15) / 16 * 16;
}
__device__ __forceinline__ RouteRoom route_room(void* shared, int warp, int experts) {
  auto* const scores =
      reinterpret_cast<float*>(static_cast<std::byte*>(shared) + warp * route_room_bytes(experts));
  auto* const values = reinterpret_cast<int*>(scores + 2 * experts);
  auto* const chosen = values + experts;
  return {scores, scores + experts, values, chosen, reinterpret_cast<bool*>(chosen + experts_chosen_max)};
}
/// What choose_and_list keeps of the table of experts beside it.
__host__ __device__ constexpr int listed_bytes(int rows, int visits) {
  return (rows * visits * 4 + 15) / 16 * 16;
}

/// A warp's: the experts with the largest scores, into room.chosen.
__device__ void choose_best(const Route& r, const RouteRoom& room, int lane) {
  const int experts = static_cast<int>(r.routing.experts), chosen = static_cast<int>(r.routing.chosen);
  const int groups = static_cast<int>(r.routing.groups),
            groups_chosen = static_cast<int>(r.routing.groups_chosen), size = experts / groups;
  const bool by_group = groups_chosen < groups;
  for (int i = lane; i < experts; i += 32)
    room.compared[i] = r.bias ? room.scores[i] + r.bias[i] : room.scores[i];
  if (by_group) {
    __syncwarp();
    for (int g = lane; g < groups; g += 32) {
      room.values[g] = comparable(group_worth(room.compared + g * size, size, r.routing.group_score));
      room.group_out[g] = true;
    }
    __syncwarp();
    take_best(room.values, groups, groups_chosen, lane, [&](int, int g) { room.group_out[g] = false; });
  }
  for (int i = lane; i < experts; i += 32)
    room.values[i] = by_group && room.group_out[i / size] ? INT_MIN : comparable(room.compared[i]);
  take_best(room.values, experts, chosen, lane, [&](int n, int expert) { room.chosen[n] = expert; });
}

/// A warp's. `listed`: [visits of the row], as the table of experts; may be nullptr.
__device__ void choose_of_row(const Route& r, int row, const RouteRoom& room, int32_t* listed) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int experts = static_cast<int>(r.routing.experts), chosen = static_cast<int>(r.routing.chosen);
  score(r.logits + static_cast<int64_t>(row) * experts, r.routing, lane, room.scores);
  if (r.given) {
    if (lane < chosen) room.chosen[lane] = r.given[static_cast<int64_t>(row) * chosen + lane];
    __syncwarp();
  } else {
    choose_best(r, room, lane);
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
  const int first = row * r.visits();
  if (lane < chosen) {
    const int expert = room.chosen[lane];
    float weight = room.scores[expert];
    if (r.routing.normalised) weight /= sum + 1e-20f;
    r.tables.expert[first + lane] = expert;
    if (listed) listed[lane] = expert;
    r.tables.weight[first + lane] = weight * static_cast<float>(r.routing.scale);
  }
  for (int i = lane; i < r.shared; i += 32) {
    r.tables.expert[first + chosen + i] = experts + i, r.tables.weight[first + chosen + i] = 1;
    if (listed) listed[chosen + i] = experts + i;
  }
}

/// A warp a row.
__global__ void __launch_bounds__(route_warps * 32) choose_experts(const Route r) {
  extern __shared__ float4 shared[];
  follow_previous();
  const int warp = static_cast<int>(threadIdx.x) / 32,
            row = static_cast<int>(blockIdx.x) * route_warps + warp;
  if (has_row(r.rows, row))
    choose_of_row(r, row, route_room(shared, warp, static_cast<int>(r.routing.experts)), nullptr);
}

/// A block's of list_threads, of the table of experts or a copy of it: counts visits, gives each expert its
/// part of the list, and cuts the parts into tiles. In which order an expert's rows come does not matter to
/// any of them.
__device__ void list_all(const Route& r, const int32_t* experts) {
  __shared__ int counts[list_threads];
  __shared__ int2 of_warps[list_warps];
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int rows = max(0, min(r.rows.max, *r.rows.count - r.rows.first)), visits = rows * r.visits();
  counts[thread] = 0;
  __syncthreads();
  for (int i = thread; i < visits; i += list_threads) atomicAdd(&counts[experts[i]], 1);
  __syncthreads();
  const int own = counts[thread], own_tiles = (own + r.tile_rows - 1) / r.tile_rows;
  // Visits and tiles up to and with this expert's.
  const auto sum_up = [lane](int2 value) {
#pragma unroll
    for (int apart = 1; apart < 32; apart *= 2) {
      const int2 before{__shfl_up_sync(0xffffffffu, value.x, apart),
                        __shfl_up_sync(0xffffffffu, value.y, apart)};
      if (lane >= apart) value.x += before.x, value.y += before.y;
    }
    return value;
  };
  int2 end = sum_up({own, own_tiles});
  if (lane == 31) of_warps[warp] = end;
  __syncthreads();
  static_assert(list_warps == 32);
  const int2 warps_end = sum_up(of_warps[lane]);
  const int before = __shfl_sync(0xffffffffu, warps_end.x, (warp + 31) % 32),
            tiles_before = __shfl_sync(0xffffffffu, warps_end.y, (warp + 31) % 32);
  if (warp > 0) end.x += before, end.y += tiles_before;
  const int first = end.x - own;
  for (int i = 0; i < own_tiles; i++)
    r.tables.tiles[end.y - own_tiles + i] = {thread, first + i * r.tile_rows,
                                             min(r.tile_rows, own - i * r.tile_rows)};
  if (thread == list_threads - 1) *r.tables.tile_count = end.y, *r.tables.visits = visits;
  counts[thread] = first;  // now: where the next visit goes
  __syncthreads();
  for (int i = thread; i < visits; i += list_threads) {
    const int place = atomicAdd(&counts[experts[i]], 1);
    r.tables.visit_row[place] = i / r.visits(), r.tables.place[i] = place;
  }
}

__global__ void __launch_bounds__(list_threads) list_visits(const Route r) {
  follow_previous();
  list_all(r, r.tables.expert);
}

/// A warp's: the same of a single row, whose experts are in order as they are listed.
__device__ void list_of_row(const Route& r, const int32_t* experts) {
  for (int i = static_cast<int>(threadIdx.x); i < r.visits(); i += 32) {
    r.tables.tiles[i] = {experts[i], i, 1};
    r.tables.visit_row[i] = 0, r.tables.place[i] = i;
  }
  if (threadIdx.x == 0) *r.tables.tile_count = *r.tables.visits = r.visits();
}

/// Both in one block: for few rows the way from one kernel to the next takes longer.
__global__ void __launch_bounds__(list_threads) choose_and_list(const Route r) {
  extern __shared__ float4 shared[];
  follow_previous();
  const int warp = static_cast<int>(threadIdx.x) / 32, visits = r.visits();
  auto* const listed = reinterpret_cast<int32_t*>(shared);  // [rows.max, visits]
  const RouteRoom room = route_room(reinterpret_cast<std::byte*>(shared) + listed_bytes(r.rows.max, visits),
                                    warp, static_cast<int>(r.routing.experts));
  for (int row = warp; has_row(r.rows, row); row += list_warps)
    choose_of_row(r, row, room, listed + row * visits);
  if (has_row(r.rows, 0) && !has_row(r.rows, 1)) {  // nobody waits for anybody
    if (warp == 0) __syncwarp(), list_of_row(r, listed);
    return;
  }
  __syncthreads();
  list_all(r, listed);
}

__global__ void __launch_bounds__(join_threads) join(const JoinExperts j) {
  follow_previous();
  const int row = static_cast<int>(blockIdx.x);
  if (!has_row(j.rows, row)) return;
  const int i = static_cast<int>(blockIdx.y) * join_threads + static_cast<int>(threadIdx.x);
  if (i >= j.width) return;
  float* const out = j.out + row * j.pitch + i;
  float sum = *out;
  for (int k = 0; k < j.visits; k++) {
    const int at = row * j.visits + k;
    sum = fmaf(j.tables.weight[at], j.results[j.tables.place[at] * j.pitch + i], sum);
  }
  *out = sum;
}

constexpr int gather_threads = 128;

/// A block copies a visit's row.
__global__ void __launch_bounds__(gather_threads)
    gather(const __nv_bfloat16* from, int64_t from_pitch, const RoutingTables tables, __nv_bfloat16* to,
           int64_t to_pitch) {
  follow_previous();
  const int visit = static_cast<int>(blockIdx.x);
  if (visit >= *tables.visits) return;
  const auto* const in = reinterpret_cast<const uint4*>(from + tables.visit_row[visit] * from_pitch);
  auto* const out = reinterpret_cast<uint4*>(to + visit * to_pitch);
  for (int i = static_cast<int>(threadIdx.x); i < to_pitch / chunk_values; i += gather_threads)
    out[i] = in[i];
}

}  // namespace

void gather_visits(const Rows& from, const RoutingTables& tables, int32_t visits_max, const Rows& to,
                   cudaStream_t stream) {
  launch("gather", gather, static_cast<unsigned>(visits_max), gather_threads, 0, stream,
         static_cast<const __nv_bfloat16*>(from.data), from.pitch, tables,
         static_cast<__nv_bfloat16*>(to.data), to.pitch);
}

int tiles_max(const Route& route) {
  const int64_t rows = route.rows.max, height = route.tile_rows, visits = rows * route.routing.chosen;
  return static_cast<int>(visits / height + std::min(route.routing.experts, visits) +
                          route.shared * ((rows + height - 1) / height));
}

void route_rows(const Route& route, cudaStream_t stream) {
  constexpr int at_once_max = 2 * list_warps;
  constexpr int listing = 8 * 1024;  // bytes: what listing takes beside
  // The most that a kernel may have stays the same: graphs were made with it.
  const int together_max = shared_memory_max() - listing;
  for (const auto& [kernel, most] : {std::pair{&choose_experts, route_warps * route_room_bytes(experts_max)},
                                     std::pair{&choose_and_list, together_max}})
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most),
          "cudaFuncSetAttribute");
  const int rows = route.rows.max, room = route_room_bytes(static_cast<int>(route.routing.experts));
  // Warps without a row touch none.
  const int together = listed_bytes(rows, route.visits()) + std::min(rows, list_warps) * room;
  if (rows <= at_once_max && together <= together_max)
    return launch("choose_and_list", choose_and_list, 1, list_threads, static_cast<size_t>(together), stream,
                  route);
  launch("choose_experts", choose_experts, grid_of((rows + route_warps - 1) / route_warps), route_warps * 32,
         static_cast<size_t>(route_warps * room), stream, route);
  launch("list_visits", list_visits, 1, list_threads, 0, stream, route);
}

void join_experts(const JoinExperts& j, cudaStream_t stream) {
  launch("join_experts", join,
         dim3(grid_of(j.rows.max), grid_of((j.width + join_threads - 1) / join_threads)), join_threads, 0,
         stream, j);
}

}  // namespace convoy::cuda
