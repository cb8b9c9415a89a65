#pragma once
// Names for requests that nobody can guess, seeds, and API keys. Any thread.

#include <cstddef>
#include <string>
#include <string_view>

namespace convoy::gateway {

void random_bytes(void* to, size_t size);

/// Two lower-case digits a byte.
std::string random_hex(size_t bytes);

/// The prefix and 24 hexadecimal digits.
std::string random_id(std::string_view prefix);

}  // namespace convoy::gateway
