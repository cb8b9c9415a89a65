// Pipeline: nodes that join and leave, and what goes on in the plan that follows.

#include "pipeline_rig.hpp"

using namespace pipeline_rig;
using Kind = msg::MemberCommand::Kind;

namespace {

/// Two nodes of one stage each.
struct Nodes : Fixture {
  explicit Nodes(MemberState second = MemberState::serving, uint64_t rebalance_after = 1'000'000) {
    rebalance_steps = rebalance_after;
    members.list = {{.node = "a", .listen = "127.0.0.1:1", .stages = 1},
                    {.node = "b", .listen = "127.0.0.1:2", .stages = 1, .state = second}};
    names = {{"a", 0}, {"b", 0}};
    start(30'000, 2, 60'000);
  }

  /// Why not.
  std::string command(Kind kind, const std::string& about) {
    msg::FrameBuilder<msg::MemberCommand> frame;
    frame->setClient(3);
    frame->setKind(kind);
    frame->setNode(about);
    mail(pipeline, std::move(frame).finish());
    const auto reply = next<msg::MemberReply>(node);
    BOOST_CHECK_EQUAL(msg::Reading(reply)->getClient(), 3u);
    return msg::Reading(reply)->getRefused();
  }
  /// What the pipeline says of a node, once it says that.
  void await_state(unsigned index, msg::Member::State state) {
    for (;;) {
      const auto frame = next<msg::PipelineState>(node);
      if (msg::Reading(frame)->getMembers()[index].getState() == state) return;
    }
  }
};
/// Whose speeds are known after four steps.
struct Speeds : Nodes {
  Speeds() : Nodes(MemberState::serving, 4) {
    link_stage(0, 11), link_stage(1, 12);
    bring_up();  // one step
  }
  void steps_cost(uint32_t stage, float us) {
    msg::FrameBuilder<msg::StageReport> frame;
    frame->setKvBlocks(8);
    frame->setEpoch(1);
    frame->setHealth(msg::Health::READY);
    frame->setStepFixedUs(us);
    mail_from(stage, std::move(frame).finish());
  }
  void steps(uint32_t count) {
    for (uint32_t i = 0; i < count; ++i) answer(next_plan(), 42);
  }
  std::pair<uint32_t, uint32_t> assigned(uint32_t stage) {
    const auto frame = next<msg::Assign>(*stages[stage]);
    const msg::Reading assign(frame);
    BOOST_CHECK_EQUAL(assign->getEpoch(), 2u);
    return {assign->getFirstLayer(), assign->getLastLayer()};
  }
};
struct OneDrained : Nodes {
  OneDrained() : Nodes(MemberState::drained) {}
};

}  // namespace

BOOST_FIXTURE_TEST_CASE(a_nodes_layers_go_to_the_others_and_requests_go_on, Nodes) {
  link_stage(0, 11), link_stage(1, 12);
  bring_up();
  ask(9, 3);
  const auto first = next_plan();
  answer(first, 42);
  BOOST_CHECK_EQUAL(answered(), 9u);
  BOOST_CHECK_EQUAL(command(Kind::DRAIN, "b"), "");
  BOOST_CHECK_EQUAL(kept.load(), 1u);
  const auto frame = next<msg::Assign>(*stages[0]);
  const msg::Reading assign(frame);
  BOOST_CHECK_EQUAL(assign->getEpoch(), 2u);
  BOOST_CHECK_EQUAL(assign->getFirstLayer(), 0u);
  BOOST_CHECK_EQUAL(assign->getLastLayer(), 4u);
  BOOST_CHECK_EQUAL(assign->getNextPort(), 0u);
  BOOST_CHECK_EQUAL(assign->getStepsInFlight(), 2u);  // one micro-batch and the slack
  await_state(1, msg::Member::State::DRAINING);       // its stage is linked
  report(0, msg::Health::READY, 2);
  const auto replay = next_plan();
  BOOST_CHECK_EQUAL(replay.rows(), 1 + first.rows() + 1);  // the canary; the prompt and what came behind it
  mail_from(0, encode(result_of(replay, 43)));
  BOOST_CHECK_EQUAL(answered(), 9u);
  BOOST_CHECK_EQUAL(counted("convoy_stages_lost_total", "ended"), 0);
  stages[1].reset();
  await_state(1, msg::Member::State::DRAINED);
  BOOST_CHECK_EQUAL(counted("convoy_stages_lost_total", "ended"), 0);
}

BOOST_FIXTURE_TEST_CASE(a_node_joins_once_its_stage_is_there, OneDrained) {
  link_stage(0, 11);
  next<msg::Assign>(*stages[0]);
  report(0, msg::Health::READY, 1);
  BOOST_CHECK_EQUAL(command(Kind::UNDRAIN, "b"), "");
  await_state(1, msg::Member::State::JOINING);
  link_stage(1, 12, 1001, 7);  // it was in a later epoch of another head
  for (uint32_t i = 0; i < 2; ++i) {
    const auto frame = next<msg::Assign>(*stages[i]);
    const msg::Reading assign(frame);
    BOOST_CHECK_EQUAL(assign->getEpoch(), 8u);
    BOOST_CHECK_EQUAL(assign->getPosition(), i);
    BOOST_CHECK_EQUAL(assign->getNextNode().cStr(), i == 0 ? "b" : "a");
  }
  await_state(1, msg::Member::State::SERVING);
}

BOOST_FIXTURE_TEST_CASE(a_lost_node_can_be_drained_so_that_the_others_serve, Nodes) {
  link_stage(0, 11), link_stage(1, 12);
  bring_up();
  stages[1].reset();
  next<msg::ReplaceStage>(node);
  BOOST_CHECK_EQUAL(command(Kind::REMOVE, "b"), "");
  BOOST_CHECK_EQUAL(msg::Reading(next<msg::Assign>(*stages[0]))->getLastLayer(), 4u);
}

BOOST_FIXTURE_TEST_CASE(what_is_refused_changes_nothing, Nodes) {
  link_stage(0, 11), link_stage(1, 12);
  bring_up();
  BOOST_CHECK(command(Kind::REMOVE, "b").find("drain it first") != std::string::npos);
  BOOST_CHECK(command(Kind::DRAIN, "c").find("there is no node c") != std::string::npos);
  plan_refused = "too little memory";
  BOOST_CHECK_EQUAL(command(Kind::DRAIN, "b"), "too little memory");
  plan_refused.clear();
  not_kept = "the disk is full";
  BOOST_CHECK(command(Kind::DRAIN, "b").find("the disk is full") != std::string::npos);
  not_kept.clear();
  ask(9, 1);
  const auto plan = next_plan();
  BOOST_CHECK_EQUAL(plan.epoch, 1u);
  answer(plan, 42);
  BOOST_CHECK_EQUAL(answered(), 9u);
}

BOOST_FIXTURE_TEST_CASE(a_node_whose_plan_cannot_be_says_why_it_does_not_join, OneDrained) {
  link_stage(0, 11);
  next<msg::Assign>(*stages[0]);
  BOOST_CHECK_EQUAL(command(Kind::UNDRAIN, "b"), "");
  plan_refused = "too little memory";
  link_stage(1, 12);
  for (;;) {
    const auto frame = next<msg::PipelineState>(node);
    const auto member = msg::Reading(frame)->getMembers()[1];
    if (std::string(member.getReason()) != "too little memory") continue;
    BOOST_CHECK(member.getState() == msg::Member::State::JOINING);
    return;
  }
}

BOOST_FIXTURE_TEST_CASE(layers_move_to_the_faster_stage_once_speeds_are_known, Speeds) {
  ask(9, 10);
  steps_cost(0, 300), steps_cost(1, 600);  // three layers, and two
  steps(3);
  BOOST_TEST((assigned(0) == std::pair(0u, 3u)));
  BOOST_TEST((assigned(1) == std::pair(4u, 4u)));
  BOOST_CHECK_EQUAL(counted("convoy_rebalanced_total"), 1);
  BOOST_CHECK_EQUAL(answered(), 9u);
  report(0, msg::Health::READY, 2), report(1, msg::Health::READY, 2);
  steps_cost(0, 9'000);  // however it goes on: once
  for (int i = 0; i < 6; ++i) {
    const auto plan = next_plan();
    BOOST_REQUIRE_EQUAL(plan.epoch, 2u);
    answer(plan, 42);
  }
}

BOOST_FIXTURE_TEST_CASE(layers_stay_for_a_small_gain, Speeds) {
  ask(9, 10);
  steps_cost(0, 300), steps_cost(1, 220);
  steps(3);
  BOOST_REQUIRE_EQUAL(next_plan().epoch, 1u);
  BOOST_CHECK_EQUAL(counted("convoy_rebalanced_total"), 0);
}

BOOST_FIXTURE_TEST_CASE(a_stage_that_only_slows_the_others_is_left_out, Speeds) {
  ask(9, 10);
  steps_cost(0, 300), steps_cost(1, 2'000);
  steps(3);
  BOOST_TEST((assigned(0) == std::pair(0u, 4u)));
  for (;;) {
    const auto frame = next<msg::PipelineState>(node);
    const auto member = msg::Reading(frame)->getMembers()[1];
    if (std::string(member.getReason()).starts_with("left out")) break;
  }
  // What is known of it counts in the next plan, too: it is needed if the other one goes.
  report(0, msg::Health::READY, 2);
  BOOST_CHECK_EQUAL(command(Kind::DRAIN, "a"), "");
  BOOST_CHECK_EQUAL(msg::Reading(next<msg::Assign>(*stages[1]))->getLastLayer(), 4u);
}

BOOST_FIXTURE_TEST_CASE(stages_without_the_model_fetch_their_layers_before_their_node_joins, OneDrained) {
  const auto says = [&](uint32_t stage, uint64_t epoch, std::optional<model::LayerRange> fetched) {
    msg::FrameBuilder<msg::StageReport> report;
    report->setKvBlocks(20);
    report->setEpoch(epoch);
    report->setHealth(epoch == 0 ? msg::Health::LOADING : msg::Health::READY);
    report->setLacksModel(true);
    report->setReason(fetched ? "" : "fetches");
    if (fetched) {
      report->setFetched(true);
      report->setFetchedFirst(static_cast<uint32_t>(fetched->first));
      report->setFetchedLast(static_cast<uint32_t>(fetched->last));
    }
    mail_from(stage, std::move(report).finish());
  };
  const auto told = [&](uint32_t stage) {
    const auto frame = next<msg::Prepare>(*stages[stage]);
    const msg::Reading prepare(frame);
    return std::pair(prepare->getFirstLayer(), prepare->getLastLayer());
  };
  link_stage(0, 11);
  next<msg::Assign>(*stages[0]);
  says(0, 1, model::LayerRange{0, 4});
  BOOST_CHECK_EQUAL(command(Kind::UNDRAIN, "b"), "");
  stages.resize(2);
  stages[1] = std::make_unique<caf::scoped_actor>(system);
  PeerIdentity peer{.node = "b", .role = schema::Role::STAGE, .incarnation = 12, .listen_port = 1001};
  (*stages[1])->send(pipeline, StageUp{peer, caf::actor_cast<StageActor>(*stages[1])});
  says(1, 0, std::nullopt);
  // Both lack some of what the plan to come gives them, and the one that serves goes on with what it has.
  const auto first = told(0), second = told(1);
  BOOST_CHECK_EQUAL(first.first, 0u);
  BOOST_CHECK_EQUAL(second.first, first.second + 1);
  BOOST_CHECK_EQUAL(second.second, 4u);
  for (;;) {
    const auto frame = next<msg::PipelineState>(node);
    const auto member = msg::Reading(frame)->getMembers()[1];
    if (std::string(member.getReason()) != "stage 0 of b fetches") continue;
    BOOST_CHECK(member.getState() == msg::Member::State::JOINING);
    break;
  }
  says(1, 0, model::LayerRange{second.first, second.second});
  await_state(1, msg::Member::State::JOINING);
  says(0, 1, model::LayerRange{first.first, first.second});
  BOOST_CHECK_EQUAL(msg::Reading(next<msg::Assign>(*stages[1]))->getEpoch(), 2u);
  BOOST_CHECK_EQUAL(msg::Reading(next<msg::Assign>(*stages[0]))->getLastLayer(), first.second);
  await_state(1, msg::Member::State::SERVING);
}
