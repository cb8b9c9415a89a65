#include <cassert>

#include "gpu/backend.hpp"
#include "gpu/cpu/reference.hpp"
#include "model/error.hpp"

namespace convoy::gpu {

std::unique_ptr<Backend> make_cpu_backend(Kernels kernels, int threads) {
  assert(threads >= 1);
  if (kernels == Kernels::reference) return make_reference_backend(threads);
  throw InputError("the fast kernels are not built in", "kernels", "use the reference ones");
}

}  // namespace convoy::gpu
