// A pipeline and several gateways: each has requests of its own, and hears of them alone.

#include "test/actors/pipeline_rig.hpp"

namespace {

using namespace pipeline_rig;

struct Gateways : Fixture {
  std::unique_ptr<caf::scoped_actor> second = std::make_unique<caf::scoped_actor>(system);

  Gateways() {
    start(30'000, 2, 100, 16, 4, 4);
    link_stage(0, 11);
    link_stage(1, 12);
    bring_up();
    link(*second);
  }
  void link(caf::scoped_actor& process) {
    caf::anon_send(pipeline, GatewayUp{"node2", caf::actor_cast<GatewayActor>(process)});
  }
  void ask_second(uint64_t number) { ask(number, 5, "", 5, "node2"); }
  uint64_t accepted(caf::scoped_actor& by) { return msg::Reading(next<msg::Accepted>(by))->getRequest(); }
  /// What the pipeline says that it runs, once that is so many.
  void await_running(uint32_t count) {
    const auto end = std::chrono::steady_clock::now() + convoy::test::patience;
    while (msg::Reading(next<msg::PipelineState>(gateway))->getRunning() != count)
      BOOST_REQUIRE(std::chrono::steady_clock::now() < end);
  }
};

}  // namespace

BOOST_FIXTURE_TEST_CASE(a_gateway_hears_the_pipelines_state_as_soon_as_it_is_there, Gateways) {
  BOOST_CHECK(msg::Reading(next<msg::PipelineState>(*second))->getReady());
}

BOOST_FIXTURE_TEST_CASE(requests_of_the_same_number_are_each_their_own_gateways, Gateways) {
  ask(7);
  ask_second(7);
  BOOST_CHECK_EQUAL(accepted(gateway), 7u);
  BOOST_CHECK_EQUAL(accepted(*second), 7u);
  for (int step = 0; step < 3; ++step) answer(next_plan(), 40);
  BOOST_CHECK_EQUAL(answered(gateway), 7u);
  BOOST_CHECK_EQUAL(answered(*second), 7u);
}

BOOST_FIXTURE_TEST_CASE(a_cancel_ends_the_request_of_its_own_gateway, Gateways) {
  ask(7);
  ask_second(7);
  accepted(gateway), accepted(*second);
  msg::FrameBuilder<msg::Cancel> cancel;
  cancel->initReplyTo().setNode("node2");
  cancel->getReplyTo().setRequest(7);
  mail(pipeline, std::move(cancel).finish());
  ask_second(7);  // a new one by then, of the same attempt
  BOOST_CHECK_EQUAL(accepted(*second), 7u);
  for (int step = 0; step < 3; ++step) answer(next_plan(), 40);
  BOOST_CHECK_EQUAL(answered(gateway), 7u);
}

BOOST_FIXTURE_TEST_CASE(nothing_runs_for_a_gateway_that_is_gone, Gateways) {
  ask(1);
  ask_second(2);
  ask_second(3);
  accepted(gateway), accepted(*second), accepted(*second);
  await_running(3);
  second.reset();  // its handle goes down, as its link's would
  await_running(1);
  for (int step = 0; step < 2; ++step) answer(next_plan(), 40);
  BOOST_CHECK_EQUAL(answered(gateway), 1u);
  ask_second(4);  // what was on its way meanwhile
  await_running(1);
}

BOOST_FIXTURE_TEST_CASE(a_gateway_that_links_anew_asks_anew, Gateways) {
  ask_second(2);
  BOOST_CHECK_EQUAL(accepted(*second), 2u);
  caf::scoped_actor again(system);
  link(again);
  await_running(0);
  ask_second(2);
  BOOST_CHECK_EQUAL(accepted(again), 2u);
}
