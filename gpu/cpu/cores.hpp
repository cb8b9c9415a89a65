#pragma once
// Sets of cores, for pthread_setaffinity_np.

#include <sched.h>

namespace convoy::gpu {

/// core in [0, CPU_SETSIZE).
inline cpu_set_t only(int core) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(core, &one);
  return one;
}

}  // namespace convoy::gpu
