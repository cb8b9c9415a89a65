// What is said when memory is out.

#include "model/out_of_memory.hpp"

#include <boost/test/unit_test.hpp>
#include <stdexcept>

#include "model/memory_limit.hpp"

using namespace convoy;

BOOST_AUTO_TEST_CASE(out_of_memory_is_told_with_what_was_wanted_what_there_is_and_what_to_change) {
  const std::string known = reason_of(OutOfMemory(uint64_t{12} << 30));
  BOOST_TEST(known.starts_with("out of memory: 12288 MiB more were wanted, "), known);
  BOOST_TEST(known.find("(" + model::memory_available().set_by + ")") != std::string::npos, known);
  BOOST_TEST(known.find(" 0 MiB are available") == std::string::npos, known);
  BOOST_TEST(known.find("pipeline.kv_tokens") != std::string::npos, known);
  const std::string unknown = reason_of(std::bad_alloc());
  BOOST_TEST(unknown.starts_with("out of memory: "), unknown);
  BOOST_TEST(unknown.find("bad_alloc") == std::string::npos, unknown);
  BOOST_TEST(reason_of(std::runtime_error("a stage was lost")) == "a stage was lost");
}
