#pragma once
// What attention's kernels on tensor cores share.

#include "gpu/cuda/attention.hpp"
#include "gpu/cuda/cluster.cuh"
#include "gpu/cuda/elementwise.cuh"
#include "gpu/cuda/mma.cuh"

namespace convoy::cuda {

inline constexpr float log2_e = 1.4426950408889634f;

/// How many clusters of each size of a kernel the current card takes at once; none where it knows no
/// clusters.
template <class... Parameters>
ClusterRoom cluster_room(void (*kernel)(Parameters...), int threads, size_t shared) {
  ClusterRoom room{};
  if (!knows_dependent_launches()) return room;  // both came with 9.0
  for (size_t size = 1; size < room.size(); size++)
    room[size] = active_clusters(kernel, threads, shared, static_cast<int>(size));
  return room;
}

/// The maximum, and the sum, over the four threads that share rows of a product.
__device__ __forceinline__ float quad_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 1));
  return fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 2));
}
__device__ __forceinline__ float quad_sum(float value) {
  value += __shfl_xor_sync(0xffffffffu, value, 1);
  return value + __shfl_xor_sync(0xffffffffu, value, 2);
}

/// Two rows of a softmax in the making, in base 2: their largest scores, and the sums of weights of the
/// positions that this thread had.
struct TwoRows {
  float largest[2] = {-INFINITY, -INFINITY}, sums[2] = {};

  /// Takes in scores [tiles][row, row, row + 8, row + 8], which become weights; what earlier sums are to be
  /// multiplied by. Scores of positions that are not there are −∞.
  template <int Tiles>
  __device__ __forceinline__ void take(float (&scores)[Tiles][4], float (&kept)[2]) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      float most = largest[r];
#pragma unroll
      for (int i = 0; i < Tiles; i++) most = fmaxf(most, fmaxf(scores[i][2 * r], scores[i][2 * r + 1]));
      most = quad_max(most);
      const float base = most == -INFINITY ? 0.0f : most;  // a row without positions yet
      kept[r] = exp2f(largest[r] - base);
      largest[r] = most, sums[r] *= kept[r];
#pragma unroll
      for (int i = 0; i < Tiles; i++)
#pragma unroll
        for (int c = 2 * r; c < 2 * r + 2; c++) {
          scores[i][c] = exp2f(scores[i][c] - base);
          sums[r] += scores[i][c];
        }
    }
  }
};

/// A row's positions in one of `parts` shares, in whole `chunk`s, so that none of these is parted by a block
/// of the cache; shares behind the last position are empty.
struct Share {
  int begin, end;
};
__device__ __forceinline__ Share share_of(int seen, int parts, int part, int chunk = 32) {
  const int size = ((seen + parts - 1) / parts + chunk - 1) / chunk * chunk;
  return {min(part * size, seen), min((part + 1) * size, seen)};
}

/// What clusters leave of a head: its values, the largest score, the sum of weights; from one to the next.
__host__ __device__ constexpr int share_pitch(int value_width) { return value_width + 4; }

/// Joins four values of a head of which `count` shares have a part, with the largest score and the sum of
/// weights of each, some of them empty. To be divided by `whole.y`.
template <class Weight, class Values>
__device__ __forceinline__ float4 join_values(int count, const Weight& weight_of, const Values& values_of,
                                              float2& whole) {
  whole = {-INFINITY, 0};
#pragma unroll 4
  for (int i = 0; i < count; i++) whole.x = fmaxf(whole.x, weight_of(i).x);
  const float base = whole.x == -INFINITY ? 0.0f : whole.x;
  float4 sum{};
#pragma unroll 4
  for (int i = 0; i < count; i++) {
    const float2 weight = weight_of(i);
    const float scale = exp2f(weight.x - base);
    whole.y = fmaf(weight.y, scale, whole.y), add_weighted(sum, values_of(i), scale);
  }
  return sum;
}

/// Joins what blocks have that share a row's positions, of up to Heads heads of Width values. A cluster's
/// blocks send each other an even share of all values; of several clusters each leaves what it has in memory,
/// and the last one to end joins that. The block's first Threads threads do it; others have ended.
template <int Width, int Heads, int Threads>
class SharedRow {
 public:
  static constexpr int fours = Width / 4;
  /// In shared memory: what the cluster's blocks sent.
  struct Room {
    float4 values[Heads * fours + cluster_max];  // [blocks][share]
    float2 weights[cluster_max][Heads];          // the largest score, the sum of weights
    bool ends_last;
  };

  __device__ SharedRow(const Attention& a, int row, int head, int heads, Room& room)
      : a_(a),
        room_(room),
        row_(row),
        head_(head),
        heads_(heads),
        rank_(static_cast<int>(blockIdx.z) % a.cluster),
        share_((heads * fours + a.cluster - 1) / a.cluster) {}

  /// The room is this one's; every thread says so, and once.
  __device__ void open() const {
    if (a_.cluster > 1) arrive_in_cluster();
  }
  /// Until all blocks' rooms are open.
  __device__ void wait() const {
    if (a_.cluster > 1) wait_for_cluster();
  }
  /// Four values of one of the block's heads, with the block's largest score and sum of weights.
  __device__ void put(int own, int four, const float4& values, const float2& weight) {
    if (a_.cluster == 1) return leave(own, four, values, weight);
    const int at = own * fours + four, to = at / share_;
    store_at(&room_.values[rank_ * share_ + at - to * share_], to, values);
    if (four == 0)
      for (int r = 0; r < a_.cluster; r++) store_at(&room_.weights[rank_][own], r, weight);
  }
  /// Behind the last of all threads' values.
  __device__ void join() {
    const int thread = static_cast<int>(threadIdx.x);
    const int clusters = a_.parts / a_.cluster;
    if (a_.cluster > 1) {
      sync_cluster();
      const int first = rank_ * share_, count = min(share_, heads_ * fours - first);
      for (int i = thread; i < count; i += Threads) {
        const int own = (first + i) / fours;
        float2 whole;
        const float4 sum = join_values(
            a_.cluster, [&](int r) { return room_.weights[r][own]; },
            [&](int r) { return room_.values[r * share_ + i]; }, whole);
        leave(own, (first + i) % fours, sum, whole);
      }
    }
    if (clusters == 1) return;
    __threadfence();
    a_.cluster > 1 ? sync_cluster() : __syncthreads();
    if (rank_ > 0) return;
    if (thread == 0) {
      const auto last = static_cast<unsigned>(clusters - 1);
      room_.ends_last = atomicInc(&a_.arrived[row_ * gridDim.y + blockIdx.y], last) == last;
    }
    __syncthreads();
    if (!room_.ends_last) return;
    __threadfence();
    for (int i = thread; i < heads_ * fours; i += Threads) {
      const int own = i / fours, four = i % fours;
      float2 whole;
      const float4 sum = join_values(
          clusters, [&](int c) { return __ldcg(reinterpret_cast<const float2*>(left_by(own, c) + Width)); },
          [&](int c) { return __ldcg(reinterpret_cast<const float4*>(left_by(own, c) + four * 4)); }, whole);
      write(own, four, sum, whole.y);
    }
  }

 private:
  __device__ float* left_by(int own, int cluster) const {
    const int clusters = a_.parts / a_.cluster;
    return a_.partial +
           ((static_cast<int64_t>(row_) * a_.heads + head_ + own) * clusters + cluster) * share_pitch(Width);
  }
  /// What the cluster has of a head.
  __device__ void leave(int own, int four, const float4& values, const float2& weight) const {
    if (a_.parts == a_.cluster) return write(own, four, values, weight.y);
    float* const to = left_by(own, static_cast<int>(blockIdx.z) / a_.cluster);
    *reinterpret_cast<float4*>(to + four * 4) = values;
    if (four == 0) *reinterpret_cast<float2*>(to + Width) = weight;
  }
  __device__ void write(int own, int four, const float4& values, float weight) const {
    const int64_t at = row_ * a_.out.pitch + (head_ + own) * Width + four * 4;
    const float4 v{values.x / weight, values.y / weight, values.z / weight, values.w / weight};
    if (a_.out.type == Activations::bf16)
      *reinterpret_cast<uint2*>(static_cast<__nv_bfloat16*>(a_.out.data) + at) = {two_bf16(v.x, v.y),
                                                                                  two_bf16(v.z, v.w)};
    else
      *reinterpret_cast<float4*>(static_cast<float*>(a_.out.data) + at) = v;
  }

  const Attention& a_;
  Room& room_;
  int row_, head_, heads_, rank_, share_;
};

}  // namespace convoy::cuda
