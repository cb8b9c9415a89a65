#pragma once
// A device that failed: its driver, its memory's integrity, a kernel. The device is of no more use; whoever
// drives it ends, and is replaced.

#include <stdexcept>

namespace convoy::gpu {

class DeviceError final : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace convoy::gpu
