// Stages that agree on edges: when one is offered, who waits for whom, and which way hidden states take. Over
// a fake of the CUDA library, so that no GPU is needed.

#include <functional>

#include "actors/stage/stage_edges.hpp"
#include "test/actors/stage_rig.hpp"
#include "test/gpu/fake_cuda.hpp"

using namespace convoy;
using namespace convoy::actors;
using namespace convoy::actors::test;
using namespace std::chrono_literals;
using gpu::EdgeEnd;
using gpu::EdgeState;
using gpu::test::FakeCuda;

namespace {

/// A stage's identity, on its own card of this machine.
PeerIdentity stage_on(const std::string& card) {
  PeerIdentity stage;
  stage.role = schema::Role::STAGE;
  stage.node = "here";
  stage.machine = "boot-1";
  stage.card = card;
  stage.hidden_form = msg::HiddenForm::BFLOAT16;
  stage.edges = true;
  return stage;
}

struct EdgeRig {
  FakeCuda fake;  // outlives the stage
  StageRig rig;
  uint32_t timeout_ms = 60'000;

  EdgeRig() { fake.offered.bytes[0] = std::byte{7}, fake.offered.bytes[127] = std::byte{9}; }

  /// The first stage of two, linked to the second.
  void start_first(PeerIdentity next = stage_on("card 1")) {
    start(0);
    next.instance = 1, next.listen_port = 1001;
    caf::anon_send(rig.stage, PeerUp{next});
    rig.assign(1, {0, 0}, 1, "", 1001);
  }
  /// The second of two, linked to the first.
  void start_second() {
    start(1);
    PeerIdentity next = stage_on("card 1");
    next.instance = 0, next.listen_port = 1000;
    caf::anon_send(rig.stage, PeerUp{next});
  }
  void start(uint32_t instance) {
    rig.own = stage_on("card 0");
    rig.own.instance = instance;
    rig.edge_timeout_ms = timeout_ms;
    rig.start(instance, {}, fake.device());
  }

  void reach(EdgeEnd end, EdgeState state, const std::string& reason = "") {
    fake.set_edge(end, {state, reason});
  }
  void reply(bool up, uint64_t epoch = 1, const std::string& reason = "") {
    msg::FrameBuilder<msg::EdgeReply> frame;
    frame->setEpoch(epoch), frame->setUp(up), frame->setReason(reason);
    mail(rig.stage, std::move(frame).finish());
  }
  void offer(uint64_t epoch, std::string key = std::string(128, 'k')) {
    msg::FrameBuilder<msg::EdgeOffer> frame;
    frame->setEpoch(epoch);
    std::ranges::copy(key, frame->initKey(static_cast<unsigned>(key.size())).asChars().begin());
    rig.neighbour->send(rig.stage, std::move(frame).finish());
  }
  /// The key of the next offer that the next stage gets: empty, it was taken back.
  std::string offered() {
    const auto frame = rig.next<msg::EdgeOffer>(rig.neighbour);
    BOOST_REQUIRE(frame);
    const msg::Reading offer(frame);
    return std::string(offer->getKey().asChars().begin(), offer->getKey().size());
  }
  /// The stage goes on asking for its edge.
  bool still_forms() {
    const size_t calls = fake.calls("edge_status");
    return convoy::test::comes_true([&] { return fake.calls("edge_status") > calls + 20; });
  }
  bool calls_are(const char* function, size_t count) {
    return convoy::test::comes_true([&] { return fake.calls(function) == count; });
  }
  /// Sends the first stage a plan; the frame that the next one gets.
  Frame<msg::Activations> step() {
    gpu::StepPlan plan = prompt(epoch);
    plan.sequences[0].sampled_rows = 0;
    mail(rig.stage, encode(plan));
    const auto frame = rig.next<msg::Activations>(rig.neighbour);
    BOOST_REQUIRE(frame);
    return frame;
  }
  uint64_t epoch = 1;
};

}  // namespace

BOOST_AUTO_TEST_CASE(an_edge_needs_two_cards_of_one_machine_that_hand_over_the_same) {
  const PeerIdentity a = stage_on("card 0"), b = stage_on("card 1");
  BOOST_TEST(edge_possible(a, b));
  const auto without = [&](auto change) {
    PeerIdentity other = b;
    change(other);
    return !edge_possible(a, other) && !edge_possible(other, a);
  };
  BOOST_TEST(without([](PeerIdentity& p) { p.card = "card 0"; }));
  BOOST_TEST(without([](PeerIdentity& p) { p.card = ""; }));
  BOOST_TEST(without([](PeerIdentity& p) { p.machine = "boot-2"; }));
  BOOST_TEST(without([](PeerIdentity& p) { p.edges = false; }));
  BOOST_TEST(without([](PeerIdentity& p) { p.hidden_form = msg::HiddenForm::FLOAT32; }));
  PeerIdentity nowhere = a, there = b;
  nowhere.machine = there.machine = "";
  BOOST_TEST(!edge_possible(nowhere, there));
}

BOOST_FIXTURE_TEST_CASE(a_stage_is_ready_when_both_ends_of_its_edge_are_up_and_hands_on_by_it, EdgeRig) {
  start_first();
  const std::string key = offered();
  BOOST_REQUIRE_EQUAL(key.size(), 128u);
  BOOST_CHECK(key[0] == 7 && key[127] == 9);
  while (rig.await(msg::Health::LOADING) != "bringing up the edge to the next stage") continue;
  reach(EdgeEnd::to_next, EdgeState::up);
  BOOST_REQUIRE(still_forms());  // the other end is not
  reply(true);
  rig.await(msg::Health::READY);
  fake.completes = false;
  const auto frame = step();  // while the step is still in flight
  const msg::Reading message(frame);
  BOOST_CHECK(message->getForm() == msg::HiddenForm::EDGE);
  BOOST_CHECK_EQUAL(message->getData().size(), 0u);
  BOOST_CHECK_EQUAL(decode(message->getPlan()).rows(), 3);
  BOOST_CHECK(fake.step.out_form == gpu::HiddenForm::edge);
  fake.completes = true;
  BOOST_CHECK(calls_are("release", 1));
  BOOST_CHECK(!rig.next<msg::StepResult>(rig.head, 50ms));  // it sampled nothing
  BOOST_CHECK(!rig.next<msg::Activations>(rig.neighbour, 50ms));
}

BOOST_AUTO_TEST_CASE(an_edge_that_does_not_come_up_is_taken_back_and_hidden_states_go_by_frames) {
  const std::pair<const char*, std::function<void(EdgeRig&)>> ways[] = {
      {"this end", [](EdgeRig& r) { r.reach(EdgeEnd::to_next, EdgeState::failed, "no route"); }},
      {"the other end", [](EdgeRig& r) { r.reply(false, 1, "no route"); }},
      {"neither says anything", [](EdgeRig&) {}}};
  for (const auto& [what, happens] : ways) BOOST_TEST_CONTEXT(what) {
      EdgeRig r;
      if (what == std::string("neither says anything")) r.timeout_ms = 100;
      r.start_first();
      BOOST_CHECK_EQUAL(r.offered().size(), 128u);
      happens(r);
      r.rig.await(msg::Health::READY);
      BOOST_CHECK_EQUAL(r.offered(), "");
      BOOST_CHECK(r.calls_are("end_edge", 1));
      BOOST_CHECK(msg::Reading(r.step())->getForm() == msg::HiddenForm::BFLOAT16);
    }
}

BOOST_FIXTURE_TEST_CASE(no_edge_is_offered_where_there_can_be_none, EdgeRig) {
  start_first(stage_on("card 0"));  // the same one
  rig.await(msg::Health::READY);
  BOOST_CHECK(!rig.next<msg::EdgeOffer>(rig.neighbour, 50ms));
  BOOST_CHECK_EQUAL(fake.calls("offer_edge"), 0u);
  BOOST_CHECK(msg::Reading(step())->getForm() == msg::HiddenForm::BFLOAT16);
}

BOOST_FIXTURE_TEST_CASE(an_epoch_makes_its_own_edge, EdgeRig) {
  start_first();
  offered();
  reach(EdgeEnd::to_next, EdgeState::up);
  reply(true);
  rig.await(msg::Health::READY);
  rig.assign(2, {0, 0}, 1, "", 1001);
  BOOST_CHECK_EQUAL(offered().size(), 128u);
  BOOST_CHECK(calls_are("offer_edge", 2));
  reply(true, 1);  // of the epoch before
  reach(EdgeEnd::to_next, EdgeState::up);
  BOOST_REQUIRE(still_forms());
  reply(true, 2);
  rig.await(msg::Health::READY);
  epoch = 2;
  BOOST_CHECK(msg::Reading(step())->getForm() == msg::HiddenForm::EDGE);
}

BOOST_FIXTURE_TEST_CASE(an_offer_is_taken_up_in_its_epoch_and_answered_when_this_end_is_up, EdgeRig) {
  start_second();
  offer(2);  // the stage before was assigned first
  rig.assign(1, {1, 2}, 0, "", 1000);
  rig.await(msg::Health::READY);  // which does not wait for the edge
  BOOST_CHECK_EQUAL(fake.calls("join_edge"), 0u);
  rig.assign(2, {1, 2}, 0, "", 1000);
  BOOST_REQUIRE(calls_are("join_edge", 1));
  BOOST_CHECK(fake.joined.bytes[0] == std::byte{'k'} && fake.joined.bytes[127] == std::byte{'k'});
  BOOST_CHECK(!rig.next<msg::EdgeReply>(rig.neighbour, 50ms));
  reach(EdgeEnd::from_before, EdgeState::up);
  const auto frame = rig.next<msg::EdgeReply>(rig.neighbour);
  BOOST_REQUIRE(frame);
  BOOST_CHECK(msg::Reading(frame)->getUp());
  BOOST_CHECK_EQUAL(msg::Reading(frame)->getEpoch(), 2u);
  offer(1);  // late
  fake.completes = false;
  mail(rig.stage, encode_for_edge(prompt(2), 128));
  BOOST_REQUIRE(calls_are("submit", 1));
  BOOST_CHECK(fake.step.in_form == gpu::HiddenForm::edge);
  BOOST_CHECK_EQUAL(fake.calls("join_edge"), 1u);
}

BOOST_FIXTURE_TEST_CASE(an_end_that_fails_is_ended_and_the_stage_before_hears_why, EdgeRig) {
  start_second();
  rig.assign(1, {1, 2}, 0, "", 1000);
  offer(1);
  BOOST_REQUIRE(calls_are("join_edge", 1));
  reach(EdgeEnd::from_before, EdgeState::failed, "no route");
  const auto frame = rig.next<msg::EdgeReply>(rig.neighbour);
  BOOST_REQUIRE(frame);
  BOOST_CHECK(!msg::Reading(frame)->getUp());
  BOOST_CHECK_EQUAL(msg::Reading(frame)->getReason().cStr(), std::string("no route"));
  BOOST_CHECK(calls_are("end_edge", 1));
}

BOOST_FIXTURE_TEST_CASE(an_offer_that_is_taken_back_ends_this_end, EdgeRig) {
  start_second();
  rig.assign(1, {1, 2}, 0, "", 1000);
  offer(1);
  BOOST_REQUIRE(calls_are("join_edge", 1));
  reach(EdgeEnd::from_before, EdgeState::up);
  BOOST_REQUIRE(rig.next<msg::EdgeReply>(rig.neighbour));
  offer(1, "");
  BOOST_CHECK(calls_are("end_edge", 1));
  mail(rig.stage, encode_for_edge(prompt(), 128));
  const std::string reason = rig.await(msg::Health::DOWN);
  BOOST_CHECK_MESSAGE(reason.find("an edge that is not there") != reason.npos, reason);
}

BOOST_FIXTURE_TEST_CASE(an_offer_that_cannot_be_taken_up_is_refused, EdgeRig) {
  start_second();
  rig.assign(1, {1, 2}, 0, "", 1000);
  offer(1, "short");
  const auto frame = rig.next<msg::EdgeReply>(rig.neighbour);
  BOOST_REQUIRE(frame);
  BOOST_CHECK(!msg::Reading(frame)->getUp());
  BOOST_CHECK_EQUAL(fake.calls("join_edge"), 0u);
}
