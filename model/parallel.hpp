#pragma once
// A loop on several threads, for work that takes milliseconds a piece: making, encoding and writing weights.

#include <cstddef>
#include <functional>

namespace convoy::model {

/// Calls work(index) for each index below count, from at most so many threads, the caller's among them. What
/// one throws is thrown when all have ended.
void in_parallel(size_t count, size_t threads_max, const std::function<void(size_t)>& work);

/// At least 1, where the system does not say.
size_t all_cores();

}  // namespace convoy::model
