#pragma once
// The weights of a layer range on the device, in the types of their file. What two parts share (a tied head)
// is there once.

#include <array>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "gpu/cuda/matrix.hpp"
#include "gpu/cuda/upload.hpp"

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
  /// No part comes any more: gives back what loading took. Throws Failure for FP8 that is not a number, which
  /// kernels take for one.
  void end_loading();
  size_t bytes() const { return bytes_; }

 private:
  /// What a load() sends, once it knows all of it.
  struct Batch {
    std::vector<HostCopy> copies;
    std::vector<std::vector<float>> widened;
    std::vector<std::pair<Matrix, int>> arranged;  // and of how many experts
    void add(const void* from, size_t bytes, std::byte* to) {
      copies.push_back({static_cast<const std::byte*>(from), to, bytes, bytes, 1});
    }
  };
  /// Room for a part and its scales; nullptr: it is taken.
  struct Place {
    std::byte *data = nullptr, *scales = nullptr;
  };
  /// Matrices of one type and shape, one behind the other: an expert each, or one alone.
  Matrix place(std::span<const WeightRef* const> same, Place to, Batch& batch);
  const float* place_vector(const WeightRef& ref, std::byte* to, Batch& batch);
  std::byte* take(size_t bytes);
  uint32_t* not_numbers();

  std::vector<DeviceMemory> memory_;
  std::map<const void*, Matrix> shared_;  // by their bytes in the file
  size_t bytes_ = 0;
  DeviceMemory not_numbers_;            // while weights are loaded
  std::unique_ptr<Uploader> uploader_;  // while weights are loaded
};

}  // namespace convoy::cuda
