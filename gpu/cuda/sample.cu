#include <algorithm>
#include <bit>

#include "gpu/cuda/cluster.cuh"
#include "gpu/cuda/elementwise.cuh"
#include "gpu/cuda/sample.hpp"
#include "gpu/philox.hpp"
#include "gpu/sampling_mass.hpp"
#include "gpu/step.hpp"

namespace convoy::cuda {
namespace {

using gpu::Halvings;

constexpr int threads = 1024, warps = threads / 32;
// What a row's counter of a token holds beside the times that it was generated.
constexpr uint32_t masked_bit = 1u << 31, seen_bit = 1u << 30;
// Tokens rank by logit and then by the lower id: the rank is a number of so many bits, the best token's the
// least.
constexpr int id_bits = 20, rank_bits = 32 + id_bits, digit_bits = 11,
              digits = (rank_bits + digit_bits - 1) / digit_bits;
constexpr int digit_values = 1 << digit_bits;
static_assert(gpu::mass_tokens_max == 1 << id_bits);

template <class T, class Join>
__device__ T block_reduce(T value, T nothing, const Join& join) {
  __shared__ T parts[warps];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const auto across = [&](T v) {
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2)
      v = join(v, static_cast<T>(__shfl_xor_sync(0xffffffffu, v, apart)));
    return v;
  };
  value = across(value);
  __syncthreads();
  if (lane == 0) parts[warp] = value;
  __syncthreads();
  return across(lane < warps ? parts[lane] : nothing);
}
__device__ uint64_t block_total(uint64_t value) {
  return block_reduce<unsigned long long>(value, 0, [](auto a, auto b) { return a + b; });
}

/// Bits that compare as the floats do; both zeros are one.
__device__ __forceinline__ uint32_t ordered(float value) {
  const uint32_t bits = __float_as_uint(value + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ uint64_t rank_of(float logit, int id) {
  return uint64_t{~ordered(logit)} << id_bits | static_cast<uint32_t>(id);
}
__device__ __forceinline__ int id_of(uint64_t rank) { return static_cast<int>(rank & ((1u << id_bits) - 1)); }

/// A row of logits, as penalties and masks leave it.
struct Row {
  const float* raw;
  uint32_t* counts;  // nullptr: nothing changes a logit
  const SlotSampling* sampling;
  int vocab;

  /// As gpu/sampler.cpp's apply_penalties: each operation is rounded by itself.
  __device__ float logit(int id) const {
    const float value = raw[id];
    if (!counts) return value;
    const uint32_t count = counts[id];
    if (count & masked_bit) return -INFINITY;
    if (count == 0) return value;
    const SlotSampling& s = *sampling;
    float moved = value;
    if (s.repetition_penalty != 1.0f) {
      moved = value > 0 ? __fdiv_rn(value, s.repetition_penalty) : __fmul_rn(value, s.repetition_penalty);
      constexpr float largest = 3.402823466e38f;
      moved = moved < -largest ? -largest : moved > largest ? largest : moved;
    }
    const uint32_t output = count & ~seen_bit;
    if (output > 0)
      moved = __fsub_rn(
          moved, __fadd_rn(s.presence_penalty, __fmul_rn(s.frequency_penalty, static_cast<float>(output))));
    return moved;
  }
  __device__ uint64_t best_rank() const {
    uint64_t best = ~uint64_t{0};
    for (int i = static_cast<int>(threadIdx.x); i < vocab; i += threads)
      best = min(best, rank_of(logit(i), i));
    return block_reduce<unsigned long long>(best, ~0ull, [](auto a, auto b) { return a < b ? a : b; });
  }
};

/// Blocks that look at a row's raw logits: a cluster, whose first one then samples.
constexpr int lookers_max = 8, lookers_blocks_max = 256;

/// The rank of the best of raw logits from `begin` to `end`; 0, which no finite one has, if one is infinite
/// or not a number. Most rows need no more, so loads are wide and many are under way.
__device__ uint64_t best_of_finite(const float* raw, int begin, int end) {
  constexpr uint32_t exponent = 0x7f800000;
  constexpr int at_once = 4;
  uint64_t best = ~uint64_t{0};
  bool finite = true;
  const auto take = [&](float logit, int id) {
    finite = finite && (__float_as_uint(logit) & exponent) != exponent;
    best = min(best, rank_of(logit, id));
  };
  const int thread = static_cast<int>(threadIdx.x);
  const int fours = reinterpret_cast<uintptr_t>(raw + begin) % sizeof(float4) == 0 ? (end - begin) / 4 : 0;
  for (int first = thread; first < fours; first += threads * at_once) {
    float4 v[at_once];
#pragma unroll
    for (int i = 0; i < at_once; i++)  // behind the last one that again
      v[i] = reinterpret_cast<const float4*>(raw + begin)[min(first + i * threads, fours - 1)];
#pragma unroll
    for (int i = 0; i < at_once; i++) {
      const int id = begin + min(first + i * threads, fours - 1) * 4;
      take(v[i].x, id), take(v[i].y, id + 1), take(v[i].z, id + 2), take(v[i].w, id + 3);
    }
  }
  for (int i = begin + fours * 4 + thread; i < end; i += threads) take(raw[i], i);
  return block_reduce<unsigned long long>(finite ? best : 0, ~0ull,
                                          [](auto a, auto b) { return a < b ? a : b; });
}

/// Counts the row's tokens, and marks those that it may not give. Nothing to do: no counts.
__device__ void prepare(Row& row, const int32_t* history, int seen, uint32_t prompt, bool mask) {
  const SlotSampling& s = *row.sampling;
  const bool penalised = s.presence_penalty != 0 || s.frequency_penalty != 0 || s.repetition_penalty != 1;
  mask = mask && s.end_token_count > 0;
  if (!penalised && !mask) {
    row.counts = nullptr;
    return;
  }
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < row.vocab; i += threads) row.counts[i] = 0;
  __syncthreads();
  for (int p = thread; penalised && p < seen; p += threads) {
    const int id = history[p];
    if (id < 0 || id >= row.vocab) continue;
    atomicOr(&row.counts[id], seen_bit);
    if (p >= static_cast<int>(prompt)) atomicAdd(&row.counts[id], 1u);
  }
  if (mask)
    for (int i = thread; i < static_cast<int>(s.end_token_count); i += threads)
      atomicOr(&row.counts[s.end_tokens[i]], masked_bit);
  __syncthreads();
}

/// What is left of a row's distribution.
struct Left {
  const Row& row;
  float best, scale;
  Halvings limit;
  uint64_t last_rank = ~uint64_t{0};

  /// 0: the token is out.
  __device__ uint64_t mass(int id, uint64_t& rank) const {
    const float logit = row.logit(id);
    const Halvings halvings = gpu::halvings_of(logit, best, scale);
    rank = rank_of(logit, id);
    return halvings <= limit && rank <= last_rank ? gpu::mass_of(halvings) : 0;
  }
  __device__ uint64_t mass(int id) const {
    uint64_t rank;
    return mass(id, rank);
  }
  __device__ bool holds(int id) const {
    const float logit = row.logit(id);
    return gpu::halvings_of(logit, best, scale) <= limit && rank_of(logit, id) <= last_rank;
  }
  __device__ uint64_t total() const {
    uint64_t sum = 0;
    for (int i = static_cast<int>(threadIdx.x); i < row.vocab; i += threads) sum += mass(i);
    return block_total(sum);
  }
};

/// The rank of the token that brings the sum of weights to `target`, taking tokens as they rank. The sum of
/// all is enough. weight(id, rank) is 0 for tokens that are out.
template <class Weight>
__device__ uint64_t reaching(int vocab, uint64_t target, const Weight& weight) {
  __shared__ unsigned long long buckets[digit_values];
  __shared__ unsigned long long found_target;
  __shared__ uint32_t found_bucket;
  uint64_t prefix = 0;
  const int thread = static_cast<int>(threadIdx.x);
  for (int digit = digits - 1; digit >= 0; digit--) {
    const int shift = digit * digit_bits;
    for (int i = thread; i < digit_values; i += threads) buckets[i] = 0;
    __syncthreads();
    for (int i = thread; i < vocab; i += threads) {
      uint64_t rank;
      const uint64_t of = weight(i, rank);
      if (of > 0 && rank >> (shift + digit_bits) == prefix)
        atomicAdd(&buckets[rank >> shift & (digit_values - 1)], static_cast<unsigned long long>(of));
    }
    __syncthreads();
    if (thread == 0) {
      uint32_t bucket = 0;
      while (bucket + 1 < digit_values && buckets[bucket] < target) target -= buckets[bucket++];
      found_bucket = bucket, found_target = target;
    }
    __syncthreads();
    prefix = prefix << digit_bits | found_bucket, target = found_target;
    __syncthreads();
  }
  return prefix;
}

/// The first token in the order of ids with which the masses exceed `unit`.
__device__ int locate(const Left& left, uint64_t unit) {
  __shared__ unsigned long long sums[warps];
  __shared__ unsigned long long found_unit;
  __shared__ int found_first;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  int first = 0, count = left.row.vocab;
  // Of as many parts as there are warps the one that holds it; twice.
  for (int level = 0; level < 2; level++) {
    const int size = (count + warps - 1) / warps, end = first + count;
    const int begin = min(first + warp * size, end), own_end = min(begin + size, end);
    uint64_t sum = 0;
    for (int i = begin + lane; i < own_end; i += 32) sum += left.mass(i);
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2)
      sum += __shfl_xor_sync(0xffffffffu, static_cast<unsigned long long>(sum), apart);
    if (lane == 0) sums[warp] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
      int part = 0;
      while (part + 1 < warps && unit >= sums[part]) unit -= sums[part++];
      found_unit = unit, found_first = min(first + part * size, end);
    }
    __syncthreads();
    unit = found_unit, count = min(size, end - found_first), first = found_first;
    __syncthreads();
  }
  // One thread walks over what is left: vocab / 1024 tokens.
  if (threadIdx.x == 0) {
    int id = first;
    for (const int end = first + count; id + 1 < end; id++) {
      const uint64_t mass = left.mass(id);
      if (unit < mass) break;
      unit -= mass;
    }
    found_first = id;
  }
  __syncthreads();
  return found_first;
}

__device__ int draw(const Row& row, float best, uint64_t position) {
  const SlotSampling& s = *row.sampling;
  Left left{row, best, gpu::halvings_scale(s.temperature),
            s.min_p > 0 ? gpu::halvings_within(gpu::least_mass(s.min_p)) : gpu::halvings_max};
  if (s.top_k > 0 && s.top_k < static_cast<uint32_t>(row.vocab)) {
    uint64_t count = 0;
    for (int i = static_cast<int>(threadIdx.x); i < row.vocab; i += threads) count += left.holds(i);
    if (s.top_k < block_total(count))
      left.last_rank = reaching(row.vocab, s.top_k, [&](int id, uint64_t& rank) {
        rank = rank_of(row.logit(id), id);
        return uint64_t{left.holds(id)};
      });
  }
  if (s.top_p < 1.0f)
    left.last_rank = reaching(row.vocab, gpu::share_of(s.top_p, left.total()),
                              [&](int id, uint64_t& rank) { return left.mass(id, rank); });
  return locate(left, gpu::drawn_unit(gpu::random_word(s.seed, position), left.total()));
}

/// Of raw logits: where log-probabilities are measured from.
struct Normalizer {
  float best;
  uint64_t log_total;
  __device__ float logprob(float logit) const {
    const double below = static_cast<double>(logit) - static_cast<double>(best);
    return static_cast<float>(below - static_cast<double>(log_total) * 0x1p-32);
  }
};

__device__ Normalizer normalizer_of(const Row& raw, uint64_t rank, Sampled& result) {
  Normalizer n{raw.raw[id_of(rank)], 0};
  n.log_total = gpu::log_of(Left{raw, n.best, gpu::halvings_scale(1), gpu::halvings_max}.total());
  const int count =
      min(static_cast<int>(raw.sampling->top_logprobs), min(raw.vocab, static_cast<int>(top_max)));
  for (int place = 0; place < count; place++) {
    const int id = id_of(rank);
    if (threadIdx.x == 0) result.top[place] = {id, n.logprob(raw.raw[id])};
    uint64_t next = ~uint64_t{0};
    for (int i = static_cast<int>(threadIdx.x); i < raw.vocab; i += threads) {
      const uint64_t own = rank_of(raw.raw[i], i);
      if (own > rank) next = min(next, own);
    }
    rank = block_reduce<unsigned long long>(next, ~0ull, [](auto a, auto b) { return a < b ? a : b; });
  }
  if (threadIdx.x == 0) result.top_count = static_cast<uint32_t>(count);
  return n;
}

/// best_of_finite() of all of a row by the blocks of a cluster; the first one gets it.
__device__ uint64_t best_by_cluster(const float* raw, int vocab) {
  __shared__ unsigned long long of_blocks[lookers_max];
  const int rank = static_cast<int>(blockIdx.z), blocks = static_cast<int>(gridDim.z);
  if (blocks == 1) return best_of_finite(raw, 0, vocab);
  arrive_in_cluster();
  const int share = (vocab + 4 * blocks - 1) / (4 * blocks) * 4;
  const uint64_t own = best_of_finite(raw, min(rank * share, vocab), min((rank + 1) * share, vocab));
  wait_for_cluster();  // the first one runs
  if (threadIdx.x == 0) store_at(&of_blocks[rank], 0, own);
  sync_cluster();
  uint64_t best = ~uint64_t{0};
  if (rank == 0)
    for (int i = 0; i < blocks; i++) best = min(best, static_cast<uint64_t>(of_blocks[i]));
  return best;
}

/// A cluster a row. Every thread of its first block computes what decides, so that all take the same way.
__global__ void __launch_bounds__(threads) sample(const Sample args, const RowTables t) {
  follow_previous();
  const int own = static_cast<int>(blockIdx.x), index = args.rows.first + own;
  if (!has_row(args.rows, own)) return;
  const int line = t.sampled_row[index], slot = t.slot[line], seen = t.position[line] + 1;
  const SlotSampling& s = t.sampling[slot];
  const Row raw{args.logits + own * int64_t{args.vocab}, nullptr, &s, args.vocab};
  const uint64_t raw_best = best_by_cluster(raw.raw, args.vocab);
  if (blockIdx.z > 0) return;
  Sampled& result = args.results[index];
  if (threadIdx.x == 0) result.id = 0, result.logprob = 0, result.fault = 0, result.top_count = 0;

  const auto end = [&](int id, gpu::RowFault fault) {
    if (threadIdx.x != 0) return;
    result.id = id, result.fault = static_cast<uint32_t>(fault);
    if (t.sampled_last[index]) t.last_token[slot] = id;
  };
  if (raw_best == 0) return end(0, gpu::RowFault::not_finite);

  Normalizer normalizer{};
  if (s.logprobs) normalizer = normalizer_of(raw, raw_best, result);
  Row row = raw;
  row.counts = args.counts + own * int64_t{args.vocab};
  const uint32_t prompt = min(s.prompt_tokens, static_cast<uint32_t>(seen));
  prepare(row, t.history + slot * int64_t{t.context}, seen, prompt,
          static_cast<uint32_t>(seen) - prompt < s.min_tokens);
  const int best = id_of(row.counts ? row.best_rank() : raw_best);
  const float best_logit = row.logit(best);
  if (best_logit == -INFINITY) return end(0, gpu::RowFault::all_masked);
  const int id = s.temperature > 0 ? draw(row, best_logit, static_cast<uint64_t>(seen)) : best;
  if (s.logprobs && threadIdx.x == 0) result.logprob = normalizer.logprob(raw.raw[id]);
  end(id, gpu::RowFault::none);
}

}  // namespace

void sample_rows(const Sample& args, const RowTables& tables, cudaStream_t stream) {
  const int rows = std::max(args.rows.max, 1);
  const int lookers =
      knows_dependent_launches()
          ? std::clamp(static_cast<int>(std::bit_floor(static_cast<unsigned>(lookers_blocks_max / rows))), 1,
                       lookers_max)
          : 1;
  launch_clusters("sample_rows", sample, dim3(grid_of(rows), 1, static_cast<unsigned>(lookers)), lookers,
                  threads, 0, stream, args, tables);
}

}  // namespace convoy::cuda
