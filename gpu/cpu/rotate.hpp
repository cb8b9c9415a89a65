#pragma once
// Turning heads by the rotations of their positions (RoPE, arXiv 2104.09864): both CPU backends, and latent
// attention.

#include "gpu/device.hpp"

namespace convoy::gpu {

/// Rotates `width` values of each of `count` heads in place; a head begins `stride` values after the one
/// before.
void rotate(const Rotations& rotations, float* heads, int64_t count, int64_t stride, int64_t position);

}  // namespace convoy::gpu
