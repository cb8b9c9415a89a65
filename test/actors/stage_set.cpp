// StageSet: who is there, what is due, what is ready, driven without actors and with a clock of the test's
// own.

#include "actors/stage_set.hpp"

#include <boost/test/unit_test.hpp>

using namespace convoy;
using actors::StageSet;
using schema::Health;
using namespace std::chrono_literals;

namespace {

struct Fixture {
  StageSet::Time now{1000s};
  actors::StageSetOptions options;
  std::vector<actors::StageName> plan;
  std::optional<StageSet> set;

  explicit Fixture(uint32_t stages = 3) {
    for (uint32_t i = 0; i < stages; ++i) plan.push_back({"here", i});
    options.stage_threads = 2;
    options.step_timeout_ms = 30'000;
    options.readiness_period_ms = 1000;
    options.load_timeout_ms = 600'000;
    options.ask_again_ms = 800;
    set.emplace(options, plan, now);
  }

  /// Links a process that says in which epoch it is: of a head before, if not 0. True if all are there now.
  bool join(uint32_t index, uint64_t incarnation = 7, uint64_t epoch = 0) {
    link(index, incarnation);
    return hear(index, epoch) == StageSet::Consequence::raise;
  }
  void link(uint32_t index, uint64_t incarnation = 7) {
    actors::PeerIdentity peer;
    peer.node = "here";
    peer.instance = index;
    peer.incarnation = incarnation;
    set->join(peer, now);
  }
  StageSet::Consequence hear(uint32_t index, uint64_t epoch, Health health = Health::LOADING) {
    return set->report(index, {.epoch = epoch, .health = health}, now);
  }
  StageSet::Consequence say(uint32_t index, Health health, uint32_t age_ms = 0, actors::StepCost cost = {}) {
    return set->report(index,
                       {.epoch = set->epoch(),
                        .health = health,
                        .loaded_permille = health == Health::READY ? 1000u : 500u,
                        .step_age_ms = age_ms,
                        .reason = health == Health::DOWN ? "broke" : "",
                        .cost = cost},
                       now);
  }
  /// All linked, loaded, and a token came through.
  void serve() {
    for (uint32_t i = 0; i < plan.size(); ++i) BOOST_REQUIRE_EQUAL(join(i), i + 1 == plan.size());
    set->raise(now);
    for (uint32_t i = 0; i < plan.size(); ++i) say(i, Health::READY);
    BOOST_REQUIRE(set->phase() == StageSet::Phase::serving);
    set->sent_first(now);
    BOOST_REQUIRE(set->committed(now));
  }
};

}  // namespace

BOOST_FIXTURE_TEST_CASE(a_bubble_is_the_share_of_a_second_or_more_without_work_by_the_stages_clock, Fixture) {
  serve();
  const auto ratio_after = [&](uint64_t busy_us, uint64_t clock_us) {
    set->report(0, {.epoch = set->epoch(), .health = Health::READY, .busy_us = busy_us, .clock_us = clock_us},
                now);
    return set->stages()[0].bubble_ratio;
  };
  BOOST_TEST(ratio_after(7'000'000, 50'000'000) == 0.0f);
  BOOST_TEST(ratio_after(7'100'000, 50'900'000) == 0.0f);  // not a second yet
  BOOST_TEST(ratio_after(7'500'000, 52'000'000) == 0.75f);
  BOOST_TEST(ratio_after(7'500'000, 52'500'000) == 0.75f);
  BOOST_TEST(ratio_after(8'500'000, 53'000'000) == 0.0f);
  BOOST_TEST(ratio_after(8'500'000, 55'000'000) == 1.0f);
  BOOST_TEST(ratio_after(100, 60'000'000) == 0.0f);  // another process
  BOOST_TEST(ratio_after(1'000'100, 62'000'000) == 0.5f);
}

BOOST_FIXTURE_TEST_CASE(blocks_and_places_are_those_of_the_stage_that_has_fewest, Fixture) {
  serve();
  BOOST_TEST(set->kv_places() == 0u);  // nobody said that it has some
  const auto say_memory = [&](uint32_t index, uint32_t blocks, uint32_t places) {
    set->report(index,
                {.epoch = set->epoch(), .health = Health::READY, .kv_blocks = blocks, .kv_places = places},
                now);
  };
  say_memory(0, 100, 700), say_memory(1, 300, 500);
  BOOST_TEST(set->kv_places() == 0u);  // one has none
  say_memory(2, 200, 600);
  BOOST_TEST(set->kv_places() == 500u);
  BOOST_TEST(set->kv_blocks() == 100u);
}

BOOST_FIXTURE_TEST_CASE(blocks_of_before_are_those_of_stages_that_hold_theirs, Fixture) {
  BOOST_TEST(set->kv_blocks_before() == 0u);
  serve();
  const auto say_blocks = [&](uint32_t index, uint64_t epoch, uint32_t blocks) {
    set->report(index, {.epoch = epoch, .health = Health::READY, .kv_blocks = blocks}, now);
  };
  for (uint32_t i = 0; i < 3; ++i) say_blocks(i, 1, 100 + i);
  BOOST_TEST(set->kv_blocks_before() == 100u);
  set->lose(0, Health::DOWN, "broke", now);
  join(0, 8);
  set->raise(now);
  say(1, Health::LOADING);
  BOOST_TEST(set->kv_blocks_before() == 101u);
}

BOOST_FIXTURE_TEST_CASE(what_stages_hold_since_a_head_before_is_known, Fixture) {
  link(0);
  set->report(0, {.epoch = 4, .health = Health::READY, .kv_blocks = 70}, now);
  BOOST_TEST(set->kv_blocks_before() == 70u);
}

BOOST_FIXTURE_TEST_CASE(stages_are_on_own_cards_if_no_two_have_the_same, Fixture) {
  const auto join_on = [&](uint32_t index, const char* machine, const char* card) {
    actors::PeerIdentity peer;
    peer.node = "here", peer.instance = index, peer.incarnation = 7, peer.machine = machine, peer.card = card;
    set->join(peer, now);
  };
  join_on(0, "a", "card 0"), join_on(1, "a", "card 1"), join_on(2, "b", "card 0");
  BOOST_CHECK(set->on_own_cards());
  join_on(2, "a", "card 0");
  BOOST_CHECK(!set->on_own_cards());
  join_on(2, "a", "");  // a CPU
  BOOST_CHECK(!set->on_own_cards());
}

BOOST_FIXTURE_TEST_CASE(three_stages_gather_load_and_serve, Fixture) {
  BOOST_CHECK(!join(0));
  BOOST_CHECK(!join(2));
  BOOST_CHECK(set->phase() == StageSet::Phase::gathering);
  BOOST_CHECK_EQUAL(set->why_not_ready(), "stage 1 of here is not there: not started");
  BOOST_CHECK(join(1));
  BOOST_CHECK_EQUAL(set->raise(now), 1u);
  BOOST_CHECK(say(0, Health::READY) == StageSet::Consequence::changed);
  BOOST_CHECK(say(1, Health::LOADING) == StageSet::Consequence::changed);
  BOOST_CHECK_EQUAL(set->why_not_ready(), "stage 2 of here is loading (0 %)");
  BOOST_CHECK(say(2, Health::READY) == StageSet::Consequence::changed);
  BOOST_CHECK_EQUAL(set->why_not_ready(), "stage 1 of here is loading (50 %)");
  BOOST_CHECK(say(1, Health::READY) == StageSet::Consequence::serve);
  BOOST_CHECK(!set->ready(now, true));  // no token came through yet
  BOOST_CHECK(set->committed(now));
  BOOST_CHECK(set->ready(now, false));
  BOOST_CHECK(!set->committed(now));  // ready before
}

// Stages that outlived a head are in an epoch of its, and one of them may be ready in it.
BOOST_FIXTURE_TEST_CASE(the_first_epoch_is_above_all_that_stages_were_in, Fixture) {
  link(0), link(2), link(1);
  BOOST_CHECK(hear(0, 1, Health::READY) != StageSet::Consequence::raise);
  BOOST_CHECK(hear(0, 1, Health::READY) != StageSet::Consequence::raise);
  BOOST_CHECK(hear(2, 4, Health::READY) != StageSet::Consequence::raise);
  BOOST_CHECK(set->phase() == StageSet::Phase::gathering);
  BOOST_CHECK(hear(1, 0) == StageSet::Consequence::raise);  // a new process
  BOOST_CHECK_EQUAL(set->raise(now), 5u);
  BOOST_CHECK(hear(2, 4, Health::READY) == StageSet::Consequence::none);
}

BOOST_FIXTURE_TEST_CASE(a_stage_that_failed_under_a_head_before_is_lost_if_its_epoch_was_the_last, Fixture) {
  BOOST_CHECK(!join(0, 7, 3));
  BOOST_CHECK(!join(1, 7, 3));
  link(2);
  BOOST_CHECK(hear(2, 3, Health::DOWN) == StageSet::Consequence::lost);
  set->lose(2, Health::DOWN, "broke", now);
  BOOST_CHECK(join(2, 8));
  BOOST_CHECK_EQUAL(set->raise(now), 4u);
}

BOOST_FIXTURE_TEST_CASE(a_stage_that_failed_in_an_earlier_epoch_is_given_its_layers_again, Fixture) {
  BOOST_CHECK(!join(0, 7, 3));
  BOOST_CHECK(!join(1, 7, 3));
  link(2);
  BOOST_CHECK(hear(2, 2, Health::DOWN) == StageSet::Consequence::raise);
}

BOOST_FIXTURE_TEST_CASE(a_linked_stage_that_never_reports_is_lost, Fixture) {
  join(0), join(1), link(2);
  BOOST_CHECK(set->due(now + 30s, false).lost.empty());
  const auto due = set->due(now + 31s, false);
  BOOST_REQUIRE_EQUAL(due.lost.size(), 1u);
  BOOST_CHECK_EQUAL(due.lost[0].index, 2u);
  BOOST_CHECK(due.lost[0].loss == actors::StageLoss::hung);
  BOOST_CHECK(due.replacements.empty());
}

BOOST_FIXTURE_TEST_CASE(a_failed_stage_of_three_is_lost_replaced_and_the_epoch_raised, Fixture) {
  serve();
  BOOST_CHECK(say(1, Health::DOWN) == StageSet::Consequence::lost);
  set->lose(1, Health::DOWN, "broke", now);
  BOOST_CHECK(!set->ready(now, false));
  BOOST_CHECK_EQUAL(set->why_not_ready(), "stage 1 of here is not there: broke");
  BOOST_CHECK(say(2, Health::READY) == StageSet::Consequence::none);  // serves nothing while one is missing
  BOOST_CHECK(join(1, 8));
  BOOST_CHECK_EQUAL(set->stages()[1].restarts, 1u);
  BOOST_CHECK_EQUAL(set->stages()[0].restarts, 0u);
  BOOST_CHECK_EQUAL(set->raise(now), 2u);
  const StageSet::Report old{.epoch = 1, .health = Health::READY};
  for (uint32_t i = 0; i < 3; ++i) BOOST_CHECK(set->report(i, old, now) == StageSet::Consequence::none);
  BOOST_CHECK(set->phase() == StageSet::Phase::loading);
  say(0, Health::READY), say(1, Health::READY);
  BOOST_CHECK(say(2, Health::READY) == StageSet::Consequence::serve);
}

BOOST_FIXTURE_TEST_CASE(a_replacement_is_asked_for_until_it_comes, Fixture) {
  serve();
  set->lose(2, Health::HUNG, "its lease ended", now);
  set->asked(2, now);
  BOOST_CHECK(set->due(now + 700ms, false).replacements.empty());
  for (int times = 0; times < 3; ++times) {
    now += 900ms;
    const auto due = set->due(now, false);
    BOOST_REQUIRE_EQUAL(due.replacements.size(), 1u);
    BOOST_CHECK_EQUAL(due.replacements[0].index, 2u);
    BOOST_CHECK_EQUAL(due.replacements[0].incarnation, 7u);
    set->asked(2, now);
  }
  join(2, 8);
  BOOST_CHECK(set->due(now + 5s, false).replacements.empty());
}

BOOST_FIXTURE_TEST_CASE(a_stage_that_never_links_itself_is_replaced_whichever_process_it_is, Fixture) {
  join(0), join(1);
  BOOST_CHECK(set->due(now + 599s, false).replacements.empty());  // its node may be starting
  const auto due = set->due(now + 601s, false);
  BOOST_REQUIRE_EQUAL(due.replacements.size(), 1u);
  BOOST_CHECK_EQUAL(due.replacements[0].index, 2u);
  BOOST_CHECK_EQUAL(due.replacements[0].incarnation, 0u);
  set->asked(2, now + 601s);
  BOOST_CHECK(set->due(now + 700s, false).replacements.empty());  // it gets the same time again
}

BOOST_FIXTURE_TEST_CASE(who_does_not_load_in_time_is_lost, Fixture) {
  for (uint32_t i = 0; i < 3; ++i) join(i);
  set->raise(now);
  say(0, Health::READY), say(2, Health::READY);
  BOOST_CHECK(set->due(now + 599s, false).lost.empty());
  const auto due = set->due(now + 601s, false);
  BOOST_REQUIRE_EQUAL(due.lost.size(), 1u);
  BOOST_CHECK_EQUAL(due.lost[0].index, 1u);
}

// A step that waits behind others is not owed: only the time since a stage began it counts.
BOOST_FIXTURE_TEST_CASE(a_slow_stage_with_a_deep_queue_keeps_its_place, Fixture) {
  serve();
  set->sent_first(now);
  for (int i = 0; i < 100; ++i) {  // for 100 s some step is in flight, each takes a stage 20 s
    now += 1s;
    say(0, Health::READY, 1 + static_cast<uint32_t>(i % 20) * 1000);
    BOOST_CHECK(set->due(now, true).lost.empty());
    BOOST_CHECK(set->ready(now, true));
  }
}

BOOST_FIXTURE_TEST_CASE(a_stage_that_computes_one_step_too_long_is_lost, Fixture) {
  serve();
  set->sent_first(now);
  now += 31s;
  say(0, Health::READY, 0), say(1, Health::READY, 30'900), say(2, Health::READY, 100);
  const auto due = set->due(now, true);
  BOOST_REQUIRE_EQUAL(due.lost.size(), 1u);
  BOOST_CHECK_EQUAL(due.lost[0].index, 1u);
}

BOOST_FIXTURE_TEST_CASE(a_step_that_no_stage_computes_is_noticed, Fixture) {
  serve();
  set->sent_first(now);
  for (uint32_t i = 0; i < 3; ++i) say(i, Health::READY, 0);
  BOOST_CHECK(set->due(now + 29s, true).lost.empty());
  BOOST_CHECK(set->due(now + 31s, false).lost.empty());  // nothing is in flight
  BOOST_CHECK_EQUAL(set->due(now + 31s, true).lost.size(), 1u);
}

BOOST_FIXTURE_TEST_CASE(a_step_under_way_is_a_sign_of_life, Fixture) {
  serve();
  now += 20s;  // one long chunk of a prompt
  BOOST_CHECK(set->ready(now, true));
  BOOST_CHECK(!set->ready(now, false));
}

BOOST_FIXTURE_TEST_CASE(a_canary_comes_after_half_of_the_period_and_only_at_rest, Fixture) {
  serve();
  BOOST_CHECK(!set->due(now + 400ms, false).canary);
  BOOST_CHECK(set->due(now + 600ms, false).canary);
  BOOST_CHECK(!set->due(now + 600ms, true).canary);
  set->committed(now + 550ms);
  BOOST_CHECK(!set->due(now + 600ms, false).canary);
}

// 0.8 s of two threads a token: a canary twice a second would keep the machine busy.
BOOST_FIXTURE_TEST_CASE(canaries_of_a_slow_model_take_a_fifth_of_a_percent_of_a_core_at_most, Fixture) {
  serve();
  for (uint32_t i = 0; i < 3; ++i) say(i, Health::READY, 0, {.fixed_us = 260'000, .per_row_us = 6'667});
  const double busy_s = 3 * 0.266667 * 2;
  const double interval_s = std::chrono::duration<double>(set->canary_interval()).count();
  BOOST_CHECK_CLOSE(busy_s / interval_s, 0.002, 0.1);
  BOOST_CHECK(set->ready(now + 100s, false));  // at rest, and well
  BOOST_CHECK(!set->due(now + 100s, false).canary);
}

BOOST_FIXTURE_TEST_CASE(a_canary_without_a_token_is_not_ready, Fixture) {
  serve();
  set->committed(now);
  set->canary_failed("not a number");
  BOOST_CHECK(!set->ready(now, false));
  BOOST_CHECK(set->why_not_ready().find("not a number") != std::string::npos);
  BOOST_CHECK(set->due(now + 600ms, false).canary);  // it is tried again
  BOOST_CHECK(set->committed(now + 700ms));
  BOOST_CHECK(set->ready(now + 700ms, false));
  now += 10s;  // the next token is late, which is no fault of that canary
  BOOST_CHECK(!set->ready(now, false));
  BOOST_CHECK_EQUAL(set->why_not_ready(), "no token went through all stages lately");
}

BOOST_FIXTURE_TEST_CASE(a_stage_that_lost_its_neighbour_raises_the_epoch_only_while_serving, Fixture) {
  for (uint32_t i = 0; i < 3; ++i) join(i);
  set->raise(now);
  BOOST_CHECK(say(1, Health::LOADING) == StageSet::Consequence::changed);
  say(0, Health::READY), say(2, Health::READY);
  BOOST_CHECK(say(1, Health::READY) == StageSet::Consequence::serve);
  BOOST_CHECK(say(1, Health::LOADING) == StageSet::Consequence::raise);
}

BOOST_FIXTURE_TEST_CASE(what_went_through_the_stages_in_an_earlier_epoch_makes_no_later_one_ready, Fixture) {
  const auto serve_anew = [&] {
    BOOST_REQUIRE(say(1, Health::LOADING) == StageSet::Consequence::raise);
    set->raise(now);
    for (uint32_t i = 0; i < 3; ++i) say(i, Health::READY);
    BOOST_REQUIRE(set->phase() == StageSet::Phase::serving);
    BOOST_CHECK(!set->ready(now, false));
    BOOST_CHECK_EQUAL(set->why_not_ready(), "no token went through all stages yet");
  };
  serve();
  BOOST_CHECK(set->ready(now, false));
  serve_anew();
  set->committed(now);
  set->canary_failed("not a number");
  serve_anew();
}

BOOST_FIXTURE_TEST_CASE(a_stage_is_slow_long_before_it_counts_as_hung, Fixture) {
  serve();
  set->sent_first(now);
  BOOST_CHECK(say(1, Health::READY, 7'000) == StageSet::Consequence::none);
  BOOST_CHECK(!set->stages()[1].slow);
  BOOST_CHECK(say(1, Health::READY, 8'000) == StageSet::Consequence::changed);
  BOOST_CHECK(set->stages()[1].slow);
  BOOST_CHECK_EQUAL(set->stages()[1].reason, "slow: it has computed a step for 8000 ms");
  BOOST_CHECK(say(1, Health::READY, 9'000) == StageSet::Consequence::none);
  BOOST_CHECK(set->due(now, true).lost.empty());
  BOOST_CHECK(say(1, Health::READY, 0) == StageSet::Consequence::changed);
  BOOST_CHECK_EQUAL(set->stages()[1].reason, "");
}

BOOST_FIXTURE_TEST_CASE(a_stage_that_hangs_in_a_step_of_the_epoch_before_is_lost_while_others_load, Fixture) {
  serve();
  const uint64_t before = set->epoch();
  set->raise(now);
  say(0, Health::LOADING);
  set->report(1, {.epoch = before, .health = Health::READY, .step_age_ms = 30'000}, now);
  BOOST_CHECK(set->due(now, false).lost.empty());
  set->report(1, {.epoch = before, .health = Health::READY, .step_age_ms = 30'100}, now);
  const auto due = set->due(now, false);
  BOOST_REQUIRE_EQUAL(due.lost.size(), 1u);
  BOOST_CHECK_EQUAL(due.lost[0].index, 1u);
  BOOST_CHECK(due.lost[0].loss == actors::StageLoss::hung);
}

BOOST_AUTO_TEST_CASE(what_is_left_of_a_silent_stage_says_what_it_is) {
  using actors::loss_of_link, actors::ProcessState, actors::StageLoss;
  const char* const lease = "lease ended: nothing received for 800 ms";
  BOOST_CHECK(loss_of_link("closed by the peer", ProcessState::runs) == StageLoss::ended);
  BOOST_CHECK(actors::may_be_by_a_request(loss_of_link("closed by the peer", ProcessState::runs)));
  BOOST_CHECK(!actors::may_be_by_a_request(loss_of_link(lease, ProcessState::unknown)));
  BOOST_CHECK(loss_of_link(lease, ProcessState::stopped) == StageLoss::frozen);
  BOOST_CHECK(loss_of_link(lease, ProcessState::runs) == StageLoss::cut_off);
  BOOST_CHECK(loss_of_link(lease, ProcessState::unknown) == StageLoss::silent);
}

BOOST_FIXTURE_TEST_CASE(another_plan_takes_who_is_there_and_leaves_the_rest_beside, Fixture) {
  serve();
  BOOST_CHECK(set->replan({{"here", 2}, {"here", 0}}, now));
  BOOST_CHECK(!set->ready(now, false));
  BOOST_CHECK_EQUAL(set->raise(now), 2u);
  BOOST_CHECK_EQUAL(set->stages().size(), 2u);
  BOOST_CHECK_EQUAL(set->stages()[0].name.instance, 2u);
  BOOST_CHECK_EQUAL(*set->find({"here", 1}), 2u);
  BOOST_CHECK(say(2, Health::READY) == StageSet::Consequence::none);  // beside
  BOOST_CHECK(say(0, Health::READY) == StageSet::Consequence::changed);
  BOOST_CHECK(say(1, Health::READY) == StageSet::Consequence::serve);
  set->lose(2, Health::DOWN, "ended", now);
  BOOST_CHECK(!set->find({"here", 1}));
  BOOST_CHECK(set->phase() == StageSet::Phase::serving);
}

BOOST_FIXTURE_TEST_CASE(a_plan_with_a_stage_that_is_not_there_waits_for_it, Fixture) {
  serve();
  BOOST_CHECK(!set->replan({{"here", 0}, {"there", 0}}, now));
  BOOST_CHECK_EQUAL(set->why_not_ready(), "stage 0 of there is not there: not started");
  actors::PeerIdentity peer;
  peer.node = "there", peer.incarnation = 9;
  set->join(peer, now);
  BOOST_CHECK(hear(1, 5) == StageSet::Consequence::raise);
  BOOST_CHECK_EQUAL(set->raise(now), 6u);
}

BOOST_FIXTURE_TEST_CASE(who_stands_beside_arrives_once_and_its_epoch_counts_when_it_is_planned, Fixture) {
  serve();
  actors::PeerIdentity peer;
  peer.node = "there", peer.incarnation = 9;
  set->join(peer, now);
  BOOST_CHECK_EQUAL(set->heard_of("there"), 0u);
  BOOST_CHECK(hear(3, 40) == StageSet::Consequence::arrived);
  BOOST_CHECK(hear(3, 40) == StageSet::Consequence::none);
  BOOST_CHECK_EQUAL(set->heard_of("there"), 1u);
  BOOST_CHECK_EQUAL(set->epoch(), 1u);
  plan.push_back({"there", 0});
  BOOST_CHECK(set->replan(plan, now));
  BOOST_CHECK_EQUAL(set->raise(now), 41u);
}

BOOST_FIXTURE_TEST_CASE(blocks_for_other_layers_are_no_measure_for_a_new_plan, Fixture) {
  serve();
  const auto has = [&](uint32_t index, uint32_t blocks) {
    set->report(index, {.epoch = set->epoch(), .health = Health::READY, .kv_blocks = blocks}, now);
  };
  has(0, 20), has(1, 30), has(2, 30);
  BOOST_CHECK_EQUAL(set->kv_blocks_before(), 20u);
  set->replan({{"here", 0}, {"here", 1}}, now);
  has(0, 20);  // said before it heard of it
  BOOST_CHECK_EQUAL(set->kv_blocks_before(), 0u);
  set->raise(now);
  has(0, 14), has(1, 15);
  BOOST_CHECK_EQUAL(set->kv_blocks(), 14u);
  BOOST_CHECK_EQUAL(set->kv_blocks_before(), 14u);
}

BOOST_FIXTURE_TEST_CASE(a_stage_that_fetches_its_weights_may_load_for_as_long_as_more_of_them_come, Fixture) {
  for (uint32_t i = 0; i < plan.size(); ++i) join(i);
  set->raise(now);
  say(0, Health::READY), say(1, Health::READY);
  const auto fetches = [&](uint64_t progress) {
    set->report(2,
                {.epoch = set->epoch(),
                 .health = Health::LOADING,
                 .reason = "fetches",
                 .lacks_model = true,
                 .fetch_progress = progress},
                now);
  };
  for (uint64_t progress = 1; progress < 5; ++progress) {
    now += 500s;
    fetches(progress);
    BOOST_TEST(set->due(now, false).lost.empty());
  }
  BOOST_TEST(set->why_not_ready() == "stage 2 of here fetches");
  now += 500s;
  fetches(3);  // thrown away, and come again
  fetches(4);
  now += 101s;
  BOOST_TEST(set->due(now, false).lost.size() == 1u);
}
