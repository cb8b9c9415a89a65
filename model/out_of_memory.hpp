#pragma once
// Out of memory, in words that help: how much was wanted where that is known, how much the machine has, and
// what to change. Any thread.

#include <cstdint>
#include <exception>
#include <new>
#include <string>

namespace convoy {

/// Thrown where the size of what does not fit is known.
class OutOfMemory final : public std::bad_alloc {
 public:
  explicit OutOfMemory(uint64_t bytes) : bytes_(bytes) {}
  const char* what() const noexcept override { return "out of memory"; }
  uint64_t bytes() const { return bytes_; }

 private:
  uint64_t bytes_;
};

/// What an exception says, as a reason for people; of std::bad_alloc more than its name.
std::string reason_of(const std::exception& exception);

}  // namespace convoy
