#include "gpu/cuda/experts.hpp"

#include <algorithm>
#include <utility>

#include "gpu/cuda/experts.cuh"

namespace convoy::cuda {
namespace {

constexpr int route_warps = 4, list_threads = 1024, list_warps = list_threads / 32, join_threads = 256;
static_assert(list_threads >= experts_max);

__device__ __forceinline__ const float* logits_of(const Route& r, int row) {
  return r.logits + static_cast<int64_t>(row) * r.routing.experts;
}

/// A warp a row.
__global__ void __launch_bounds__(route_warps * 32) choose_experts(const Route r) {
  extern __shared__ float4 shared[];
  follow_previous();
  const int warp = static_cast<int>(threadIdx.x) / 32,
            row = static_cast<int>(blockIdx.x) * route_warps + warp;
  if (has_row(r.rows, row))
    choose_of_row(r, row, logits_of(r, row), route_room(shared, warp, static_cast<int>(r.routing.experts)),
                  nullptr);
}

__global__ void __launch_bounds__(list_threads) list_visits(const Route r) {
  follow_previous();
  list_all<list_threads>(r, r.tables.expert);
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
    choose_of_row(r, row, logits_of(r, row), room, listed + row * visits);
  if (has_row(r.rows, 0) && !has_row(r.rows, 1)) {  // nobody waits for anybody
    if (warp == 0) __syncwarp(), list_of_row(r, listed);
    return;
  }
  __syncthreads();
  list_all<list_threads>(r, listed);
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
