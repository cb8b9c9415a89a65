// What the log says of loading weights.

#include "actors/stage/load_rate.hpp"

#include <boost/test/unit_test.hpp>

using convoy::actors::LoadRate;

namespace {

constexpr uint64_t gigabyte = 1'000'000'000;
const LoadRate::Clock::time_point begin{std::chrono::hours(1)};

}  // namespace

BOOST_AUTO_TEST_CASE(a_line_is_due_now_and_then_with_speed_and_time_left) {
  LoadRate rate;
  BOOST_TEST(!rate.at(0, 20 * gigabyte, begin));
  BOOST_TEST(!rate.at(2 * gigabyte, 20 * gigabyte, begin + LoadRate::interval / 2));
  BOOST_TEST(rate.at(4 * gigabyte, 20 * gigabyte, begin + LoadRate::interval));
  BOOST_TEST(rate.bytes_per_s() == 2e9, boost::test_tools::tolerance(1e-9));
  BOOST_TEST(rate.seconds_left() == 8, boost::test_tools::tolerance(1e-9));
  BOOST_TEST(!rate.at(5 * gigabyte, 20 * gigabyte, begin + LoadRate::interval * 3 / 2));
  BOOST_TEST(rate.at(10 * gigabyte, 20 * gigabyte, begin + LoadRate::interval * 10));
  // The end has a line of its own.
  BOOST_TEST(!rate.at(20 * gigabyte, 20 * gigabyte, begin + LoadRate::interval * 20));
  BOOST_TEST(rate.seconds() == 40, boost::test_tools::tolerance(1e-9));
  BOOST_TEST(rate.bytes_per_s() == 5e8, boost::test_tools::tolerance(1e-9));
  BOOST_TEST(rate.seconds_left() == 0);
}

BOOST_AUTO_TEST_CASE(without_bytes_or_time_there_is_no_speed) {
  LoadRate rate;
  BOOST_TEST(rate.bytes_per_s() == 0);
  rate.at(0, gigabyte, begin);
  BOOST_TEST(rate.seconds_left() == 0);
  rate.at(gigabyte, gigabyte, begin);
  BOOST_TEST(rate.bytes_per_s() == 0);
}
