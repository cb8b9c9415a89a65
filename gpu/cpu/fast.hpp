#pragma once
// The fast CPU backend: weights in the types that they are stored in, activations as int8 blocks, the best
// kernels of this processor. make_cpu_backend calls it.

#include <memory>

#include "gpu/backend.hpp"
#include "gpu/cpu/kernels.hpp"

namespace convoy::gpu {

/// `threads` includes the caller. Throws InputError if the processor has none of the vector kernels'
/// instruction sets.
std::unique_ptr<Backend> make_fast_backend(int threads);

/// The same with given kernels, for tests. They must be able to run here.
std::unique_ptr<Backend> make_fast_backend(const KernelTable& kernels, int threads);

}  // namespace convoy::gpu
