#pragma once
// Every call of CUDA goes through this.

#include <cuda_runtime.h>

#include "gpu/cuda/failure.hpp"

namespace convoy::cuda {

/// Throws if a call of CUDA failed; `what` names it.
inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  throw Failure(Code::fault,
                std::string(what) + ": " + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + ")",
                "CUDA", "look for an Xid in the kernel's log (dmesg)");
}

}  // namespace convoy::cuda
