#pragma once
// Devices by name: what stage.backend in cluster.conf and --backend of commands may say, and what it means on
// this machine. The one place that knows which kinds of device there are.

#include <span>
#include <string_view>

#include "gpu/device.hpp"

namespace convoy::gpu {

/// What may be said, for help and error messages: "auto", "cpu", "cpu-reference", "cuda" or "cuda:N", and
/// "cuda-f32" or "cuda-f32:N", which keeps activations in float32 and uses no tensor cores.
std::span<const std::string_view> device_names();
/// Whether it is one of these, N a number. Says nothing of this machine.
bool is_device_name(std::string_view name);

/// The device of that name; "auto" is the best that this machine has. `threads` ≥ 1, the caller included, are
/// a CPU's. Throws InputError, with what to use instead, if there is no such name or no such device here.
DeviceFactory device_named(std::string_view name, int threads);

}  // namespace convoy::gpu
