#pragma once
// Devices by name: what stage.backend in cluster.conf and --backend of commands may say, and what it means on
// this machine. The one place that knows which kinds of device there are.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "gpu/device.hpp"

namespace convoy::gpu {

/// Which of the processes that compute on one machine somebody is, and how many these are: the machine's
/// cards are shared out among them.
struct LocalRank {
  uint32_t rank = 0, size = 1;
};

/// A device, and who computes on the same one.
struct PlacedDevice {
  DeviceFactory open;
  std::optional<int32_t> card;  // its number, as CUDA counts them; nothing: the machine's processors
  uint32_t sharers = 1;         // processes whose memory it is, this one included

  /// As logs call it: "GPU 1" or "CPU".
  std::string text() const { return card ? "GPU " + std::to_string(*card) : "CPU"; }
};

/// What may be said, for help and error messages: "auto", "cpu", "cpu-reference", "cuda" or "cuda:N", and
/// "cuda-f32" or "cuda-f32:N", which keeps activations in float32 and uses no tensor cores.
std::span<const std::string_view> device_names();
/// Whether it is one of these, N a number. Says nothing of this machine.
bool is_device_name(std::string_view name);

/// The device of that name for one of several processes; "auto" is the best that this machine has. A GPU
/// without a number is one of all that work here: as many ranks as there are cards have one each, more share
/// them evenly, neighbours with neighbours. `threads` ≥ 1, the caller included, are a CPU's. Throws
/// InputError, with what to use instead, if there is no such name or no such device here.
PlacedDevice place_device(std::string_view name, int threads, LocalRank rank);

/// The device of that name for a process that computes alone.
inline DeviceFactory device_named(std::string_view name, int threads) {
  return place_device(name, threads, {}).open;
}

/// How many devices this machine has: its GPUs that work, or its processors as one.
uint32_t devices_here();

}  // namespace convoy::gpu
