#pragma once
// What work may cost, in tests: processor time of this thread, held against the same work of another size, or
// against far more than it takes. For every test program.

#include <time.h>

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <limits>
#include <string>
#include <string_view>

#include "test/patience.hpp"

namespace convoy::test {

/// Processor time of this thread: what others do on this machine does not count.
template <class Work>
double processor_seconds(Work work) {
  const auto now = [] {
    timespec t{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
  };
  const double begin = now();
  work();
  return now() - begin;
}

/// work(n) at four times the size takes about four times the time. 8: between that and the 16 of a square.
/// What a cold cache or a slower clock adds to one run it does not add to all.
template <class Work>
void grows_in_proportion(const std::string& what, size_t size, Work work) {
  constexpr double factor_max = 8, clock_s = 0.002;
  double once = std::numeric_limits<double>::infinity(), more = once;
  work(size);
  for (int run = 0; run < 5 && !(more < factor_max * once + clock_s); ++run) {
    once = std::min(once, processor_seconds([&] { work(size); }));
    more = std::min(more, processor_seconds([&] { work(4 * size); }));
  }
  BOOST_TEST(more < factor_max * once + clock_s,
             what << ": " << once * 1e3 << " ms, four times the size takes " << more * 1e3 << " ms");
}

/// A text that grows.
inline std::string repeated(std::string_view unit, size_t times) {
  std::string text;
  text.reserve(unit.size() * times);
  for (size_t i = 0; i < times; ++i) text += unit;
  return text;
}

/// For what no other size can be held against: `usual_s` is what it takes in a plain build, and ten times
/// that is allowed; a hundred times under sanitizers, which cost a factor of up to ten.
template <class Work>
void takes_about(const std::string& what, double usual_s, Work work) {
  const double took_s = processor_seconds(work), most_s = usual_s * (sanitized ? 100 : 10);
  BOOST_TEST_MESSAGE(what << ": " << took_s << " s of processor time, usually " << usual_s << " s");
  BOOST_TEST(took_s < most_s, what << " took " << took_s << " s of processor time");
}

}  // namespace convoy::test
