#pragma once
// Names for requests that nobody can guess, and seeds. Any thread.

#include <cstddef>
#include <string>
#include <string_view>

namespace convoy::gateway {

void random_bytes(void* to, size_t size);

/// The prefix and 24 hexadecimal digits.
std::string random_id(std::string_view prefix);

}  // namespace convoy::gateway
