// Router: which replica a request goes to, and that its actor asks those of the request's model alone.

#include "actors/router.hpp"

#include <boost/test/unit_test.hpp>
#include <string>
#include <vector>

#include "gpu/step.hpp"
#include "test/patience.hpp"

using namespace convoy;
using namespace convoy::actors;

namespace {

ReplicaLoad load(uint32_t running, uint32_t waiting = 0, uint32_t wait_estimate_ms = 0) {
  return {.accepting = true,
          .ready = true,
          .running = running,
          .waiting = waiting,
          .wait_estimate_ms = wait_estimate_ms};
}

/// A pipeline that answers with its name whatever it is asked, and says which requests to forget.
PipelineActor::behavior_type named(PipelineActor::pointer, std::string name, caf::actor test) {
  return {[=](const Frame<msg::Generate>&) { caf::anon_send(test, name); },
          [=](const Frame<msg::Cancel>&) { caf::anon_send(test, "cancel " + name); },
          [](const Frame<msg::StepResult>&) {},
          [](const Frame<msg::StageReport>&) {},
          [](const StageUp&) {},
          [](const Frame<msg::MemberCommand>&) {},
          [](const AddNode&) {},
          [](const GatewayUp&) {},
          [](caf::tick_atom) {}};
}

struct Fixture {
  Fixture() {
    actor = system.spawn(router, RouterOptions{60'000},
                         GatewaysByNode{{"door", caf::actor_cast<GatewayActor>(test)}});
    for (const auto& [name, model] : {std::pair("a1", "a"), {"a2", "a"}, {"b1", "b"}}) {
      pipelines.push_back(system.spawn(named, std::string(name), caf::actor_cast<caf::actor>(test)));
      caf::anon_send(actor, AddPipeline{name, model, pipelines.back()});
    }
  }
  ~Fixture() {
    end_and_wait(system, actor);
    for (const auto& pipeline : pipelines) end_and_wait(system, pipeline);
  }
  void says(const char* name, bool accepting, uint32_t running = 0, const char* reason = "") {
    msg::FrameBuilder<msg::PipelineState> state;
    state->setName(name);
    state->setAccepting(accepting);
    state->setReady(accepting);
    state->setRunning(running);
    state->setReason(reason);
    mail(actor, std::move(state).finish());
  }
  /// Who gets it, or why nobody does.
  std::string asked(const char* model, const std::vector<int32_t>& prompt = {}) {
    msg::FrameBuilder<msg::Generate> frame;
    frame->setModel(model);
    frame->initReplyTo().setNode("door");
    auto tokens = frame->initTokens(static_cast<unsigned>(prompt.size()));
    for (unsigned i = 0; i < tokens.size(); ++i) tokens.set(i, prompt[i]);
    mail(actor, std::move(frame).finish());
    return heard();
  }
  std::string heard() {
    std::string word;
    test->receive([&](const std::string& said) { word = said; },
                  [&](const Frame<msg::Rejected>& frame) { word = msg::Reading(frame)->getMessage().cStr(); },
                  caf::after(convoy::test::patience) >> [] { BOOST_FAIL("nobody was asked"); });
    return word;
  }

  caf::actor_system_config config;
  caf::actor_system system{config};
  caf::scoped_actor test{system};
  std::vector<PipelineActor> pipelines;
  RouterActor actor;
};

std::vector<int32_t> prompt_of(int32_t first) {
  std::vector<int32_t> prompt(gpu::kv_block_tokens + 1, 7);
  prompt[0] = first;
  return prompt;
}

}  // namespace

BOOST_AUTO_TEST_CASE(the_replica_that_a_request_waits_for_least_is_chosen) {
  BOOST_CHECK_EQUAL(choose_replica({}), -1);
  BOOST_CHECK_EQUAL(choose_replica({ReplicaLoad{}}), -1);
  BOOST_CHECK_EQUAL(choose_replica({load(2, 1), load(1, 1), ReplicaLoad{}}), 1);
  BOOST_CHECK_EQUAL(choose_replica({load(1, 0, 900), load(5)}), 1);  // by time, not by number
  ReplicaLoad sent = load(0);
  sent.sent = 3;  // of which it says nothing yet
  BOOST_CHECK_EQUAL(choose_replica({sent, load(2)}), 1);
}

BOOST_AUTO_TEST_CASE(a_slower_replica_gets_less_once_both_are_measured) {
  ReplicaLoad quick = load(6), slow = load(2);
  quick.step_us = 10'000;
  BOOST_CHECK_EQUAL(choose_replica({quick, slow}), 1);  // what is not measured may be as quick
  slow.step_us = 30'000;
  BOOST_CHECK_EQUAL(choose_replica({quick, slow}), 0);
  quick.running = 40;
  BOOST_CHECK_EQUAL(choose_replica({quick, slow}), 1);
  quick = load(1), slow = load(1);
  quick.step_us = 10'000, slow.step_us = 14'000;  // by noise: they take turns
  quick.chosen = 1;
  BOOST_CHECK_EQUAL(choose_replica({quick, slow}), 1);
}

BOOST_AUTO_TEST_CASE(a_replica_at_rest_that_was_long_passed_over_is_tried_again) {
  ReplicaLoad quick = load(1), slow = load(0);
  quick.step_us = 10'000, slow.step_us = 90'000;
  slow.passed = 15;
  BOOST_CHECK_EQUAL(choose_replica({quick, slow}), 0);
  slow.passed = 16;
  BOOST_CHECK_EQUAL(choose_replica({quick, slow}), 1);
  slow.running = 1;  // it is being measured
  BOOST_CHECK_EQUAL(choose_replica({quick, slow}), 0);
  slow.running = 0;
  slow.ready = false;
  BOOST_CHECK_EQUAL(choose_replica({quick, slow}), 0);
}

BOOST_AUTO_TEST_CASE(replicas_that_are_alike_take_turns) {
  ReplicaLoad first = load(1), second = load(1);
  BOOST_CHECK_EQUAL(choose_replica({first, second}), 0);
  first.chosen = 1;
  BOOST_CHECK_EQUAL(choose_replica({first, second}), 1);
}

BOOST_AUTO_TEST_CASE(one_that_recovers_comes_behind_those_that_are_ready_and_one_that_would_reject_last) {
  ReplicaLoad recovers = load(0), rejects = load(0);
  recovers.ready = false;
  rejects.overloaded = true;
  BOOST_CHECK_EQUAL(choose_replica({recovers, load(60, 10, 5000)}), 1);
  BOOST_CHECK_EQUAL(choose_replica({rejects, recovers}), 1);
  BOOST_CHECK_EQUAL(choose_replica({rejects, ReplicaLoad{}}), 0);  // it says when to try again
}

BOOST_AUTO_TEST_CASE(who_has_a_prompts_beginning_gets_it_unless_it_is_much_busier) {
  BOOST_CHECK_EQUAL(choose_replica({load(0), load(3)}, 1), 1);
  BOOST_CHECK_EQUAL(choose_replica({load(0), load(9)}, 1), 0);
  BOOST_CHECK_EQUAL(choose_replica({load(0), load(0, 0, 1000)}, 1), 0);
  BOOST_CHECK_EQUAL(choose_replica({load(0), ReplicaLoad{}}, 1), 0);
  ReplicaLoad recovers = load(0);
  recovers.ready = false;
  BOOST_CHECK_EQUAL(choose_replica({load(2), recovers}, 1), 0);
}

BOOST_AUTO_TEST_CASE(owners_of_prefixes_are_bounded_and_the_longest_unused_go_first) {
  PrefixOwners owners;
  for (uint64_t key = 1; key <= PrefixOwners::entries_max; ++key) owners.set(key, "a");
  BOOST_CHECK_EQUAL(owners.find(1), "a");  // which uses it
  owners.set(PrefixOwners::entries_max + 1, "b");
  BOOST_CHECK_EQUAL(owners.size(), PrefixOwners::entries_max);
  BOOST_CHECK_EQUAL(owners.find(1), "a");
  BOOST_CHECK_EQUAL(owners.find(2), "");
  owners.set(1, "c");
  BOOST_CHECK_EQUAL(owners.find(1), "c");
}

BOOST_AUTO_TEST_CASE(a_replica_that_is_silent_counts_as_gone) {
  Replicas replicas(std::chrono::milliseconds(1000));
  const Replicas::Time then{std::chrono::hours(1)};
  for (const char* name : {"a1", "a2"}) replicas.add(name, "a");
  replicas.heard("a1", load(0), "", then);
  replicas.heard("a2", load(9), "", then + std::chrono::milliseconds(500));
  const auto chosen = [&](int ms) { return replicas.choose("a", 0, then + std::chrono::milliseconds(ms)); };
  BOOST_CHECK_EQUAL(std::get<size_t>(chosen(1000)), 0u);
  BOOST_CHECK_EQUAL(std::get<size_t>(chosen(1001)), 1u);
  BOOST_CHECK_EQUAL(std::get<std::string>(chosen(1501)), "pipeline a2 is silent");
}

BOOST_FIXTURE_TEST_CASE(a_request_goes_to_a_pipeline_of_its_model, Fixture) {
  BOOST_CHECK_EQUAL(asked("b"), "pipeline b1 has not reported yet");
  for (const char* name : {"a1", "a2", "b1"}) says(name, true);
  BOOST_CHECK_EQUAL(asked("b"), "b1");
  BOOST_CHECK_EQUAL(asked("b"), "b1");
  BOOST_CHECK_EQUAL(asked("a"), "a1");
  BOOST_CHECK_EQUAL(asked("a"), "a2");  // a1 has one that it did not speak of yet
  BOOST_CHECK_EQUAL(asked("c"), "no pipeline serves model c");
}

BOOST_FIXTURE_TEST_CASE(while_one_replica_does_not_accept_the_other_gets_all, Fixture) {
  says("a1", false, 0, "stage 0 is loading");
  says("a2", true, 50);
  for (int i = 0; i < 5; ++i) BOOST_CHECK_EQUAL(asked("a"), "a2");
  says("a2", false, 0, "stage 1 is gone");
  BOOST_CHECK_EQUAL(asked("a"), "pipeline a2: stage 1 is gone");
}

BOOST_FIXTURE_TEST_CASE(prompts_that_begin_alike_go_to_the_same_replica, Fixture) {
  says("a1", true);
  says("a2", true);
  const std::string first = asked("a", prompt_of(1));
  says("a1", true);
  says("a2", true);
  BOOST_CHECK_EQUAL(asked("a", prompt_of(1)), first);
  const std::string second = asked("a", prompt_of(2));
  BOOST_CHECK_NE(second, first);
  BOOST_CHECK_EQUAL(asked("a", prompt_of(1)), first);
  BOOST_CHECK_EQUAL(asked("a", prompt_of(2)), second);
}

BOOST_FIXTURE_TEST_CASE(who_accepted_a_request_is_told_to_forget_it_or_all_are, Fixture) {
  const auto cancel = [&](const char* pipeline) {
    msg::FrameBuilder<msg::Cancel> frame;
    frame->setPipeline(pipeline);
    mail(actor, std::move(frame).finish());
  };
  cancel("a2");
  BOOST_CHECK_EQUAL(heard(), "cancel a2");
  cancel("");
  std::vector<std::string> words{heard(), heard(), heard()};
  std::sort(words.begin(), words.end());
  BOOST_TEST(words == (std::vector<std::string>{"cancel a1", "cancel a2", "cancel b1"}),
             boost::test_tools::per_element());
}
