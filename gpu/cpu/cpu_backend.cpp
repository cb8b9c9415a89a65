#include <cassert>

#include "gpu/backend.hpp"
#include "gpu/cpu/fast.hpp"
#include "gpu/cpu/reference.hpp"

namespace convoy::gpu {

std::unique_ptr<Backend> make_cpu_backend(Kernels kernels, int threads) {
  assert(threads >= 1);
  if (kernels == Kernels::reference) return make_reference_backend(threads);
  return make_fast_backend(threads);
}

}  // namespace convoy::gpu
