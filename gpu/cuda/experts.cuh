#pragma once
// How a warp chooses a row's experts, and a block lists all visits.

#include <climits>

#include "gpu/cuda/elementwise.cuh"
#include "gpu/cuda/experts.hpp"

namespace convoy::cuda {

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

inline __device__ void score(const float* logits, const model::Routing& routing, int lane, float* scores) {
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

inline __device__ float group_worth(const float* compared, int size, model::GroupScore kind) {
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
/// What a block keeps of the table of experts beside its warps' parts.
__host__ __device__ constexpr int listed_bytes(int rows, int visits) {
  return (rows * visits * 4 + 15) / 16 * 16;
}

/// A warp's: the experts with the largest scores, into room.chosen.
inline __device__ void choose_best(const Route& r, const RouteRoom& room, int lane) {
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

/// A warp's. `logits`: of the row; `listed`: [visits of the row], as the table of experts; may be nullptr.
inline __device__ void choose_of_row(const Route& r, int row, const float* logits, const RouteRoom& room,
                                     int32_t* listed) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int experts = static_cast<int>(r.routing.experts), chosen = static_cast<int>(r.routing.chosen);
  score(logits, r.routing, lane, room.scores);
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

/// A block's of Threads, at least as many as there are experts, of the table of experts or a copy of it:
/// counts visits, gives each expert its part of the list, and cuts the parts into tiles. In which order an
/// expert's rows come does not matter to any of them.
template <int Threads>
__device__ void list_all(const Route& r, const int32_t* experts) {
  constexpr int warps = Threads / 32;
  __shared__ int counts[Threads];
  __shared__ int2 of_warps[warps];
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int rows = max(0, min(r.rows.max, *r.rows.count - r.rows.first)), visits = rows * r.visits();
  counts[thread] = 0;
  __syncthreads();
  for (int i = thread; i < visits; i += Threads) atomicAdd(&counts[experts[i]], 1);
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
  static_assert(warps <= 32);
  const int2 warps_end = sum_up(lane < warps ? of_warps[lane] : int2{});
  const int before = __shfl_sync(0xffffffffu, warps_end.x, (warp + 31) % 32),
            tiles_before = __shfl_sync(0xffffffffu, warps_end.y, (warp + 31) % 32);
  if (warp > 0) end.x += before, end.y += tiles_before;
  const int first = end.x - own;
  for (int i = 0; i < own_tiles; i++)
    r.tables.tiles[end.y - own_tiles + i] = {thread, first + i * r.tile_rows,
                                             min(r.tile_rows, own - i * r.tile_rows)};
  if (thread == Threads - 1) *r.tables.tile_count = end.y, *r.tables.visits = visits;
  counts[thread] = first;  // now: where the next visit goes
  __syncthreads();
  for (int i = thread; i < visits; i += Threads) {
    const int place = atomicAdd(&counts[experts[i]], 1);
    r.tables.visit_row[place] = i / r.visits(), r.tables.place[i] = place;
  }
}

/// A warp's: the same of a single row, whose experts are in order as they are listed.
inline __device__ void list_of_row(const Route& r, const int32_t* experts) {
  for (int i = static_cast<int>(threadIdx.x); i < r.visits(); i += 32) {
    r.tables.tiles[i] = {experts[i], i, 1};
    r.tables.visit_row[i] = 0, r.tables.place[i] = i;
  }
  if (threadIdx.x == 0) *r.tables.tile_count = *r.tables.visits = r.visits();
}

}  // namespace convoy::cuda
