// Whether the arithmetic of sampling (gpu/sampling_mass.hpp) gives the same bits on a GPU as on the host:
// every number of halvings, random logits and temperatures, and whole draws whose sums were added in whatever
// order threads came. Needs a GPU, so no build of the project has it; one JSON line, exit 1 if anything
// differs.
//
//   nvcc -std=c++20 -O2 --expt-relaxed-constexpr -arch=sm_90a -I. test/cuda/sampling_mass.cu -o sampling_mass
// and with -ftz=true or -use_fast_math, which must not show either.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "gpu/sampling_mass.hpp"

namespace {

using namespace convoy::gpu;

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(2);
}

template <class T>
class OnDevice {
 public:
  explicit OnDevice(size_t count) : count_(count) {
    check(cudaMalloc(&data_, count * sizeof(T)), "cudaMalloc");
    check(cudaMemset(data_, 0, count * sizeof(T)), "cudaMemset");
  }
  explicit OnDevice(const std::vector<T>& values) : OnDevice(values.size()) {
    check(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  ~OnDevice() { cudaFree(data_); }
  OnDevice(const OnDevice&) = delete;

  T* get() { return data_; }
  std::vector<T> values() const {
    std::vector<T> out(count_);
    check(cudaMemcpy(out.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy");
    return out;
  }

 private:
  T* data_ = nullptr;
  size_t count_;
};

constexpr uint64_t all_halvings = uint64_t{halvings_none} + 1;
constexpr uint64_t piece = 1 << 16;  // of them a checksum each
constexpr uint64_t pieces = (all_halvings + piece - 1) / piece;

/// Tells masses at different halvings apart.
__host__ __device__ uint64_t mixed(uint64_t mass, uint64_t halvings) {
  return (mass ^ halvings * 0x9E3779B97F4A7C15) * 0xD2B74407B1CE6E93;
}

__host__ __device__ uint64_t checksum(uint64_t index) {
  uint64_t sum = 0;
  for (uint64_t h = index * piece; h < (index + 1) * piece && h < all_halvings; h++)
    sum += mixed(mass_of(static_cast<Halvings>(h)), h);
  return sum;
}

__global__ void all_checksums(uint64_t* sums) {
  const uint64_t index = blockIdx.x * uint64_t{blockDim.x} + threadIdx.x;
  if (index < pieces) sums[index] = checksum(index);
}

__global__ void all_masses(const float* logits, int count, float best, float scale, uint64_t* masses,
                           unsigned long long* total) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= count) return;
  masses[i] = mass_of(halvings_of(logits[i], best, scale));
  atomicAdd(total, static_cast<unsigned long long>(masses[i]));
}

__global__ void all_logs(const uint64_t* masses, int count, uint64_t* logs) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) logs[i] = log_of(masses[i] + mass_of_best);
}

int64_t differing_masses() {
  OnDevice<uint64_t> sums(pieces);
  all_checksums<<<static_cast<unsigned>((pieces + 255) / 256), 256>>>(sums.get());
  check(cudaDeviceSynchronize(), "all_checksums");
  const std::vector<uint64_t> theirs = sums.values();
  const unsigned count = std::max(1u, std::thread::hardware_concurrency());
  std::vector<int64_t> differing(count);
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < count; t++)
    threads.emplace_back([&, t] {
      for (uint64_t i = t; i < pieces; i += count) differing[t] += theirs[i] != checksum(i);
    });
  int64_t all = 0;
  for (unsigned t = 0; t < count; t++) threads[t].join(), all += differing[t];
  return all;
}

struct Rows {
  int64_t rows = 0, masses = 0, totals = 0, draws = 0, logs = 0;  // the last four: what differed
};

Rows differing_rows() {
  Rows found;
  std::mt19937_64 random(20261128);
  for (const int vocab : {1, 32, 1000, 49152, 129280, 1 << 20})
    for (const float sigma : {0.0f, 1e-38f, 1e-3f, 0.5f, 3.0f, 30.0f, 1e30f})
      for (const float temperature : {1e-30f, 1e-3f, 0.7f, 1.0f, 1.9f, 1e6f, 1e37f}) {
        std::normal_distribution<float> normal(0, 1);
        std::vector<float> logits(static_cast<size_t>(vocab));
        for (float& logit : logits) logit = sigma * normal(random);
        float best = logits[0];
        for (const float logit : logits) best = std::fmax(best, logit);
        const float scale = halvings_scale(temperature);

        OnDevice<float> device_logits(logits);
        OnDevice<uint64_t> device_masses(logits.size()), device_logs(logits.size());
        OnDevice<unsigned long long> device_total(1);
        const unsigned blocks = static_cast<unsigned>((vocab + 255) / 256);
        all_masses<<<blocks, 256>>>(device_logits.get(), vocab, best, scale, device_masses.get(),
                                    device_total.get());
        all_logs<<<blocks, 256>>>(device_masses.get(), vocab, device_logs.get());
        check(cudaDeviceSynchronize(), "a row");
        const std::vector<uint64_t> masses = device_masses.values(), logs = device_logs.values();

        uint64_t total = 0;
        std::vector<uint64_t> own(logits.size());
        for (size_t i = 0; i < own.size(); i++) {
          own[i] = mass_of(halvings_of(logits[i], best, scale));
          total += own[i];
          found.masses += own[i] != masses[i];
          found.logs += log_of(own[i] + mass_of_best) != logs[i];
        }
        const uint64_t device_sum = device_total.values()[0];
        found.totals += total != device_sum;
        const auto draw = [](const std::vector<uint64_t>& of, uint64_t sum, uint64_t word) {
          uint64_t left = drawn_unit(word, sum);
          for (size_t i = 0; i < of.size(); i++) {
            if (left < of[i]) return static_cast<int64_t>(i);
            left -= of[i];
          }
          return int64_t{-1};
        };
        for (int i = 0; i < 16; i++) {
          const uint64_t word = random();
          const int64_t id = draw(own, total, word);
          found.draws += id < 0 || id != draw(masses, device_sum, word);
        }
        ++found.rows;
      }
  return found;
}

}  // namespace

int main() {
  cudaDeviceProp card{};
  check(cudaGetDeviceProperties(&card, 0), "cudaGetDeviceProperties");
  const int64_t pieces_differing = differing_masses();
  const Rows rows = differing_rows();
  std::printf(
      "{\"test\": \"sampling_mass\", \"card\": \"%s\", \"halvings\": %llu, \"pieces_differing\": %lld, "
      "\"rows\": "
      "%lld, \"masses_differing\": %lld, \"totals_differing\": %lld, \"draws_differing\": %lld, "
      "\"logs_differing\": %lld}\n",
      card.name, static_cast<unsigned long long>(all_halvings), static_cast<long long>(pieces_differing),
      static_cast<long long>(rows.rows), static_cast<long long>(rows.masses),
      static_cast<long long>(rows.totals), static_cast<long long>(rows.draws),
      static_cast<long long>(rows.logs));
  return pieces_differing + rows.masses + rows.totals + rows.draws + rows.logs == 0 ? 0 : 1;
}
