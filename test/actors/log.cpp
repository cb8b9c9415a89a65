// The log's two shapes, as they reach stderr.

#include "actors/process/log.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <boost/test/unit_test.hpp>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <regex>

#include "model/error.hpp"

namespace log_ = convoy::log;

namespace {

/// What `write` leaves on stderr.
template <class F>
std::string stderr_of(F write) {
  char path[] = "/tmp/convoy_log_XXXXXX";
  const int file = mkstemp(path);
  BOOST_REQUIRE(file >= 0);
  std::fflush(stderr);
  const int before = dup(STDERR_FILENO);
  dup2(file, STDERR_FILENO);
  write();
  std::fflush(stderr);
  dup2(before, STDERR_FILENO);
  close(before);
  close(file);
  std::ifstream in(path);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  unlink(path);
  return text;
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_text_line_has_time_level_event_and_fields) {
  log_::configure("info", false, "");
  const auto line = stderr_of([] {
    log_::debug("too.fine");
    log_::info("stage.ready", {{"stage", 1}, {"pid", 7u}, {"ok", true}});
  });
  const std::regex shape(
      R"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info stage\.ready stage=1 pid=7 ok=true\n)");
  BOOST_CHECK_MESSAGE(std::regex_match(line, shape), line);
}

BOOST_AUTO_TEST_CASE(a_value_of_a_hostile_peer_cannot_forge_a_line) {
  log_::configure("info", false, "node");
  const auto line = stderr_of([] {
    log_::warn("link.refused", {{"reason", "a b\n2026 info fake=\"1\"\x1b[2J"}});
  });
  BOOST_CHECK_EQUAL(std::count(line.begin(), line.end(), '\n'), 1);
  BOOST_CHECK_EQUAL(std::count(line.begin(), line.end(), '\x1b'), 0);
  BOOST_CHECK(line.ends_with(" process=node\n"));
}

BOOST_AUTO_TEST_CASE(a_json_line_is_one_object) {
  log_::configure("debug", true, "stage-1");
  const auto line = stderr_of([] {
    log_::debug("x.y", {{"text", "quote \" and \n"}, {"n", -3}, {"f", 0.5}});
  });
  const auto object = boost::json::parse(line).as_object();
  BOOST_CHECK_EQUAL(object.at("level").as_string(), "debug");
  BOOST_CHECK_EQUAL(object.at("event").as_string(), "x.y");
  BOOST_CHECK_EQUAL(object.at("process").as_string(), "stage-1");
  BOOST_CHECK_EQUAL(object.at("text").as_string(), "quote \" and \n");
  BOOST_CHECK_EQUAL(object.at("n").as_int64(), -3);
  BOOST_CHECK_EQUAL(object.at("f").as_double(), 0.5);
}

BOOST_AUTO_TEST_CASE(an_unknown_level_is_an_input_error) {
  BOOST_CHECK_THROW(log_::configure("loud", false, ""), convoy::InputError);
}

BOOST_AUTO_TEST_CASE(a_budget_allows_a_burst_then_one_line_each_pause_and_counts_the_others) {
  using log_::LineBudget;
  LineBudget budget;
  LineBudget::Clock::time_point now{};
  for (uint64_t i = 0; i < LineBudget::burst; ++i) BOOST_CHECK(budget.take("a", now) == 0u);
  for (int i = 0; i < 5; ++i) BOOST_CHECK(!budget.take("a", now));
  BOOST_CHECK(budget.take("b", now) == 0u);  // another event has its own
  now += LineBudget::pause / 2;
  BOOST_CHECK(!budget.take("a", now));
  now += LineBudget::pause / 2;
  BOOST_CHECK(budget.take("a", now) == 6u);
  BOOST_CHECK(!budget.take("a", now));
  now += 1000 * LineBudget::pause;  // silence earns a burst, no more
  BOOST_CHECK(budget.take("a", now) == 1u);
  for (uint64_t i = 1; i < LineBudget::burst; ++i) BOOST_CHECK(budget.take("a", now) == 0u);
  BOOST_CHECK(!budget.take("a", now));
}

BOOST_AUTO_TEST_CASE(lines_that_peers_cause_are_limited) {
  log_::configure("info", false, "");
  const auto begin = log_::LineBudget::Clock::now();
  const auto text = stderr_of([] {
    for (int i = 0; i < 1000; ++i) log_::warn_limited("test.flood", {{"n", i}});
    log_::warn_limited("test.other");
  });
  const auto pauses = (log_::LineBudget::Clock::now() - begin) / log_::LineBudget::pause;
  const auto lines = std::count(text.begin(), text.end(), '\n');
  BOOST_CHECK_GE(lines, 11);
  BOOST_CHECK_LE(lines, 11 + pauses);  // a slow machine earns more
  BOOST_CHECK(text.find("warn test.other\n") != std::string::npos);
}
