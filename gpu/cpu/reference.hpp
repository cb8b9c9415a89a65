#pragma once
// The reference backend: every operation in float32, written to be obviously right. Everything else is held
// against it. One thread calls it; each result is one sum in one order, so the number of rows and threads
// cannot show.

#include <memory>

#include "gpu/backend.hpp"

namespace convoy::gpu {

/// `threads` ≥ 1 includes the caller.
std::unique_ptr<Backend> make_reference_backend(int threads);

}  // namespace convoy::gpu
