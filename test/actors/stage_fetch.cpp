// StageFetch: which layers are fetched, and when orders that wait for them can be followed.

#include "actors/stage/stage_fetch.hpp"

#include <boost/test/unit_test.hpp>

using namespace convoy;
using namespace convoy::actors;

namespace {

struct Fixture {
  std::vector<int64_t> asked;  // the first of the layers, each time
  StageFetch fetch{StageFetch::Ask([this](model::LayerRange layers) { asked.push_back(layers.first); })};

  static Frame<msg::Assign> orders(uint64_t epoch) {
    msg::FrameBuilder<msg::Assign> frame;
    frame->setEpoch(epoch);
    return std::move(frame).finish();
  }
  /// Whose epoch can be followed now; 0: none.
  uint64_t there(model::LayerRange layers) {
    const auto found = fetch.heard({.layers = layers, .done = true});
    return found ? msg::Reading(*found)->getEpoch() : 0;
  }
  void check_asked(const std::vector<int64_t>& expected) {
    BOOST_CHECK_EQUAL_COLLECTIONS(asked.begin(), asked.end(), expected.begin(), expected.end());
  }
};

constexpr model::LayerRange a{0, 4}, b{5, 9};

}  // namespace

BOOST_FIXTURE_TEST_CASE(orders_wait_for_their_layers_and_the_last_ones_count, Fixture) {
  BOOST_CHECK(!fetch.assigned(orders(1), a, false));
  BOOST_CHECK(!fetch.heard({.layers = a, .progress = 7, .text = "half"}));
  BOOST_CHECK(!fetch.assigned(orders(2), b, false));
  BOOST_CHECK_EQUAL(there(a), 0u);  // of orders that are over
  BOOST_CHECK_EQUAL(there(b), 2u);
  BOOST_CHECK(fetch.assigned(orders(3), b, false));
  BOOST_CHECK(fetch.assigned(orders(4), a, true));  // they are loaded, wherever their weights are by now
  check_asked({0, 5});
}

BOOST_FIXTURE_TEST_CASE(what_is_fetched_ahead_comes_behind_what_is_needed_now, Fixture) {
  BOOST_CHECK(!fetch.assigned(orders(1), a, false));
  fetch.prepare(b);
  check_asked({0});
  BOOST_CHECK_EQUAL(there(a), 1u);
  check_asked({0});  // not before these are loaded
  fetch.go_on();
  check_asked({0, 5});
  BOOST_CHECK_EQUAL(there(b), 0u);
  BOOST_CHECK(fetch.assigned(orders(2), b, false));
  fetch.go_on();
  check_asked({0, 5});
}

BOOST_FIXTURE_TEST_CASE(who_has_the_model_fetches_nothing, Fixture) {
  StageFetch has(nullptr);
  BOOST_CHECK(!has.lacks_model());
  BOOST_CHECK(has.assigned(orders(1), a, false));
  has.prepare(b);
}
