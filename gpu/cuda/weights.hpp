#pragma once
// The weights of a layer range on the device. Bytes go through page-locked staging; what two parts share (a
// tied head) is there once.

#include <array>
#include <map>
#include <span>
#include <vector>

#include "gpu/cuda/matrix.hpp"
#include "gpu/cuda/memory.hpp"

namespace convoy::cuda {

using gpu::Part;

/// The weights of one layer, or those of none.
struct LayerParts {
  std::array<Matrix, gpu::part_count> matrices{};       // without data: there is none
  std::array<const float*, gpu::part_count> vectors{};  // norms and biases, in float32
  const Matrix& matrix(Part part) const { return matrices[static_cast<size_t>(part)]; }
  const float* vector(Part part) const { return vectors[static_cast<size_t>(part)]; }
  bool has(Part part) const { return matrix(part).data != nullptr; }
};

class WeightStore {
 public:
  /// Throws Failure for types that there are no kernels for, and when memory is short.
  LayerParts load(std::span<const WeightRef> parts);
  size_t bytes() const { return bytes_; }

 private:
  /// Matrices of one type and shape, one behind the other: an expert each, or one alone. `to`: where there is
  /// room for them; nullptr: it is taken.
  Matrix upload(std::span<const WeightRef* const> same, std::byte* to);
  const float* upload_vector(const WeightRef& ref, std::byte* to);
  std::byte* take(size_t bytes);
  void copy_rows(const WeightRef& ref, int64_t pitch, std::byte* to);
  void copy(const void* from, size_t bytes, std::byte* to);
  std::byte* stage(size_t bytes);
  void send(size_t bytes, std::byte* to);

  std::vector<DeviceMemory> memory_;
  std::map<const void*, Matrix> shared_;  // by their bytes in the file
  size_t bytes_ = 0;

  static constexpr size_t staging_bytes = size_t{32} << 20;
  struct Staging {
    PinnedMemory memory;
    cudaEvent_t sent = nullptr;
    ~Staging() {
      if (sent) cudaEventDestroy(sent);
    }
  };
  std::array<Staging, 2> staging_;
  size_t turn_ = 0;
};

}  // namespace convoy::cuda
