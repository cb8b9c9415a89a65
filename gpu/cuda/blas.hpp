#pragma once
// Products of many rows in bf16 by cuBLASLt, which is found at run time: without it there are kernels of our
// own, slower ones. Which of its algorithms is the fastest for a shape is measured before the first step
// (CudaDevice::prepare), when outputs are nobody's; a shape that comes later has cuBLASLt's first choice.

#include <cuda_runtime.h>

#include <map>
#include <memory>

#include "gpu/cuda/gemm.hpp"
#include "gpu/cuda/memory.hpp"

namespace convoy::cuda {

class Blas {
 public:
  /// Nothing if there is no library on this machine.
  static std::unique_ptr<Blas> find();
  ~Blas();
  Blas(const Blas&) = delete;
  Blas& operator=(const Blas&) = delete;

  /// out[r] = in[r] · weightᵀ (+ bias) (+ out[r]) of the first `rows` rows, all of them, weights and
  /// activations in bf16. False: it does not take this shape.
  bool multiply(const Product& product, const Rows& in, int rows, cudaStream_t stream);
  /// All shapes that matter were met: gives back what only measuring took.
  void end_measuring() { measuring_ = false, cold_ = {}; }

 private:
  struct Library;
  struct Plan;
  struct Shape {
    int rows, outputs, columns;
    int64_t weight_pitch, in_pitch, out_pitch;  // values
    bool bias;
    auto operator<=>(const Shape&) const = default;
  };

  explicit Blas(std::unique_ptr<Library> library);
  std::unique_ptr<Plan> make_plan(const Shape& shape) const;
  void choose(Plan& plan, const Product& product, const Rows& in, cudaStream_t stream);
  bool run(const Plan& plan, size_t algorithm, const Product& product, const Rows& in, cudaStream_t stream);

  std::unique_ptr<Library> library_;
  bool measuring_ = true;
  DeviceMemory cold_;  // meanwhile
  std::map<Shape, std::unique_ptr<Plan>> plans_;
};

}  // namespace convoy::cuda
