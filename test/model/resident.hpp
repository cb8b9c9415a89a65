#pragma once
// Which pages of a mapped file are in memory.

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <vector>

#include "model/tensor.hpp"

namespace convoy::test {

/// Whole pages of a tensor's bytes, and how many of these are in the page cache.
struct Pages {
  size_t all = 0, resident = 0;
};
inline Pages pages_of(const model::Tensor& tensor) {
  const auto page_bytes = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<uintptr_t>(tensor.bytes.data()) + page_bytes - 1) & ~(page_bytes - 1);
  const auto end = reinterpret_cast<uintptr_t>(tensor.bytes.data() + tensor.bytes.size()) & ~(page_bytes - 1);
  std::vector<unsigned char> resident((end - begin) / page_bytes);
  BOOST_REQUIRE(::mincore(reinterpret_cast<void*>(begin), end - begin, resident.data()) == 0);
  const auto count =
      std::count_if(resident.begin(), resident.end(), [](auto flag) { return (flag & 1) != 0; });
  return {resident.size(), static_cast<size_t>(count)};
}

}  // namespace convoy::test
