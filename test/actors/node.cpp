// The node actor, with what it tells and asks in the hands of the test.

#include "actors/node.hpp"

#include <algorithm>
#include <boost/json.hpp>
#include <boost/test/unit_test.hpp>
#include <mutex>
#include <string>
#include <vector>

#include "test/patience.hpp"

namespace {

using namespace convoy;
using namespace convoy::actors;

/// What reached the outside, as words in order. Written by the actor, read after it took all its mail.
struct World {
  std::mutex mutex;
  std::vector<std::string> words;
  void say(std::string word) {
    const std::lock_guard lock(mutex);
    words.push_back(std::move(word));
  }
};

ClientActor::behavior_type client(ClientActor::pointer, World* world) {
  return {[world](const Frame<msg::Status>& status) { world->say(msg::Reading(status)->getJson().cStr()); }};
}

NodeActor::behavior_type other_node(NodeActor::pointer, World* world, const std::string& name) {
  return {[=](const Frame<msg::ReplaceStage>& f) {
            world->say(name + ": replace " + std::to_string(msg::Reading(f)->getInstance()));
          },
          [](const Frame<msg::StatusQuery>&) {},
          [=](const Frame<msg::Shutdown>&) { world->say(name + ": end"); },
          [](const Frame<msg::PipelineState>&) {},
          [](const PeerUp&) {},
          [](const PeerDown&) {},
          [](Drained) {}};
}

struct Fixture {
  explicit Fixture(uint32_t readiness_period_ms = 60'000, const std::string& name = "head") {
    options.config.cluster.nodes = {{.name = "head", .listen = "127.0.0.1:1", .roles = {}, .stages = 1},
                                    {.name = "other", .listen = "127.0.0.1:2", .roles = {}, .stages = 2}};
    options.config.pipeline.readiness_period_ms = readiness_period_ms;
    options.name = name;
    options.head = name == "head";
    options.pid = 55;
    NodeEffects effects;
    effects.replace = [this](uint32_t instance, uint64_t incarnation) {
      world.say("replace " + std::to_string(instance) + " " + std::to_string(incarnation));
    };
    effects.node_handle = [this](const PeerIdentity& peer) { return peer.node == "head" ? own : other; };
    effects.client_handle = [this](const PeerIdentity&) { return asker; };
    effects.shut_down = [this] { world.say("end"); };
    NodeFacts facts;
    facts.gateway_url = [] { return "http://here"; };
    facts.redis_json = [] { return R"({"state":"up"})"; };
    actor = system.spawn(node, options, facts, effects);
  }
  ~Fixture() { end_and_wait(system, actor, asker, own, other); }

  /// What was said once all mail until now was taken, by us and then by those whom we mailed.
  std::vector<std::string> said() {
    caf::scoped_actor self(system);
    const auto pass = [&](const auto& to, const auto& mail) {
      self->request(to, convoy::test::patience, mail)
          .receive([] {}, [](const caf::error&) { BOOST_FAIL("the actor ended"); });
    };
    pass(actor, PeerDown{identity(schema::Role::NODE, "nobody", 0), ""});
    pass(own, PeerDown{});
    pass(other, PeerDown{});
    pass(asker, msg::FrameBuilder<msg::Status>().finish());
    std::erase(world.words, "");
    return world.words;
  }
  void up(schema::Role role, const std::string& name, uint64_t incarnation) {
    caf::anon_send(actor, PeerUp{identity(role, name, incarnation)});
  }
  static PeerIdentity identity(schema::Role role, const std::string& name, uint64_t incarnation) {
    PeerIdentity peer;
    peer.role = role;
    peer.node = name;
    peer.instance = 5;
    peer.incarnation = incarnation;
    peer.pid = 77;
    return peer;
  }
  void replace(uint32_t instance, uint64_t incarnation) {
    msg::FrameBuilder<msg::ReplaceStage> frame;
    frame->setInstance(instance);
    frame->setIncarnation(incarnation);
    mail(actor, std::move(frame).finish());
  }
  void ask() {
    msg::FrameBuilder<msg::StatusQuery> query;
    query->setClient(5);
    mail(actor, std::move(query).finish());
  }

  void pipeline_says(bool ready, const char* reason) {
    msg::FrameBuilder<msg::PipelineState> state;
    state->setReady(ready);
    state->setReason(reason);
    mail(actor, std::move(state).finish());
  }

  World world;
  NodeOptions options;
  caf::actor_system_config config;
  caf::actor_system system{config};
  NodeActor own = system.spawn(other_node, &world, "own"), other = system.spawn(other_node, &world, "other");
  ClientActor asker = system.spawn(client, &world);
  NodeActor actor;
};

/// Not the head.
struct Plain : Fixture {
  Plain() : Fixture(60'000, "other") {}
};

/// Whatever the pipeline said, it said too long ago.
struct Silence : Fixture {
  Silence() : Fixture(0) {}
};

}  // namespace

BOOST_FIXTURE_TEST_CASE(a_stage_is_replaced_by_the_node_that_owns_it, Fixture) {
  replace(1, 11);  // its node is not linked: nobody can be told
  up(schema::Role::NODE, "head", 1);
  replace(0, 10);
  up(schema::Role::NODE, "other", 1);
  replace(3, 13);  // of no node
  BOOST_TEST(said() == std::vector<std::string>{"own: replace 0"}, boost::test_tools::per_element());
  replace(2, 12);
  BOOST_TEST(said() == (std::vector<std::string>{"own: replace 0", "other: replace 2"}),
             boost::test_tools::per_element());
}

BOOST_FIXTURE_TEST_CASE(a_node_replaces_its_stages_itself, Plain) {
  replace(1, 11);
  replace(0, 10);  // the head's node, which is not linked here
  BOOST_TEST(said() == std::vector<std::string>{"replace 1 11"}, boost::test_tools::per_element());
}

BOOST_FIXTURE_TEST_CASE(the_head_passes_the_end_on_once_no_answer_needs_other_nodes, Fixture) {
  up(schema::Role::NODE, "other", 1);
  mail(actor, msg::FrameBuilder<msg::Shutdown>().finish());
  BOOST_TEST(said() == std::vector<std::string>{"end"}, boost::test_tools::per_element());
  caf::anon_send(actor, Drained{});
  BOOST_TEST(said() == (std::vector<std::string>{"end", "other: end"}), boost::test_tools::per_element());
}

BOOST_FIXTURE_TEST_CASE(a_head_that_was_told_to_end_alone_leaves_the_others, Fixture) {
  up(schema::Role::NODE, "other", 1);
  caf::anon_send(actor, Drained{});
  BOOST_TEST(said().empty());
}

BOOST_FIXTURE_TEST_CASE(status_says_that_the_head_ends, Fixture) {
  msg::FrameBuilder<msg::PipelineState> said;
  said->setReady(true);
  NodeState state;
  state.pipeline = std::move(said).finish();
  bool draining = false;
  state.facts.draining = [&draining] { return draining; };
  BOOST_CHECK(boost::json::parse(status_json(options, state, true)).at("ready").as_bool());
  draining = true;
  const auto status = boost::json::parse(status_json(options, state, true));
  BOOST_CHECK(!status.at("ready").as_bool());
  BOOST_CHECK_NE(status.at("reason").as_string().find("gateway.drain_timeout_ms"), std::string::npos);
}

BOOST_FIXTURE_TEST_CASE(status_answers_the_client_that_asked_and_knows_who_is_linked, Fixture) {
  ask();  // no client of that number is linked: no answer
  up(schema::Role::CLIENT, "cli", 9);
  up(schema::Role::NODE, "other", 1);
  ask();
  const auto words = said();
  BOOST_REQUIRE_EQUAL(words.size(), 1u);
  const auto status = boost::json::parse(words[0]);
  BOOST_CHECK(!status.at("ready").as_bool());
  BOOST_CHECK_EQUAL(status.at("gateway").at("url").as_string(), "http://here");
  BOOST_CHECK_EQUAL(status.at("nodes").at(0).at("health").as_string(), "ready");
  BOOST_CHECK_EQUAL(status.at("nodes").at(0).at("pid").as_int64(), 55);
  BOOST_CHECK_EQUAL(status.at("nodes").at(1).at("pid").as_int64(), 77);
}

BOOST_FIXTURE_TEST_CASE(a_client_that_left_is_answered_no_more, Fixture) {
  up(schema::Role::CLIENT, "cli", 9);
  ask();
  caf::anon_send(actor, PeerDown{identity(schema::Role::CLIENT, "cli", 9), "done"});
  ask();
  BOOST_CHECK_EQUAL(said().size(), 1u);
}

BOOST_FIXTURE_TEST_CASE(status_believes_what_the_pipeline_said_lately, Fixture) {
  up(schema::Role::CLIENT, "cli", 9);
  pipeline_says(true, "");
  ask();
  pipeline_says(false, "stage 1 is loading");
  ask();
  const auto words = said();
  BOOST_REQUIRE_EQUAL(words.size(), 2u);
  BOOST_CHECK(boost::json::parse(words[0]).at("ready").as_bool());
  BOOST_CHECK(!boost::json::parse(words[1]).at("ready").as_bool());
  BOOST_CHECK_EQUAL(boost::json::parse(words[1]).at("reason").as_string(), "stage 1 is loading");
}

BOOST_FIXTURE_TEST_CASE(status_says_how_full_steps_are, Fixture) {
  msg::FrameBuilder<msg::PipelineState> said;
  said->setStepsInFlight(3);
  said->setMicroBatches(2);
  said->setRowsPerStep(7.5f);
  said->setKvBlocksTotal(64);
  said->setKvBlocksUsed(40);
  NodeState state;
  state.pipeline = std::move(said).finish();
  const auto status = boost::json::parse(status_json(options, state, true));
  BOOST_CHECK_EQUAL(status.at("steps_in_flight").to_number<int>(), 3);
  BOOST_CHECK_EQUAL(status.at("micro_batches").to_number<int>(), 2);
  BOOST_CHECK_EQUAL(status.at("rows_per_step").to_number<double>(), 7.5);
  BOOST_CHECK_EQUAL(status.at("kv_blocks").to_number<int>(), 64);
  BOOST_CHECK_EQUAL(status.at("kv_blocks_used").to_number<int>(), 40);
}

BOOST_FIXTURE_TEST_CASE(a_pipeline_that_fell_silent_is_not_ready, Fixture) {
  msg::FrameBuilder<msg::PipelineState> said;
  said->setReady(true);
  NodeState state;
  state.pipeline = std::move(said).finish();
  BOOST_CHECK(boost::json::parse(status_json(options, state, true)).at("ready").as_bool());
  const auto silent = boost::json::parse(status_json(options, state, false));
  BOOST_CHECK(!silent.at("ready").as_bool());
  BOOST_CHECK_EQUAL(silent.at("reason").as_string(), "the pipeline is silent");
}

BOOST_FIXTURE_TEST_CASE(status_does_not_believe_what_the_pipeline_said_a_period_ago, Silence) {
  up(schema::Role::CLIENT, "cli", 9);
  pipeline_says(true, "");
  ask();
  const auto words = said();
  BOOST_REQUIRE_EQUAL(words.size(), 1u);
  BOOST_CHECK(!boost::json::parse(words[0]).at("ready").as_bool());
  BOOST_CHECK_EQUAL(boost::json::parse(words[0]).at("reason").as_string(), "the pipeline is silent");
}

BOOST_FIXTURE_TEST_CASE(a_late_end_of_an_earlier_process_does_not_unlink_the_newer_one, Fixture) {
  up(schema::Role::NODE, "other", 1);
  up(schema::Role::NODE, "other", 2);
  caf::anon_send(actor, PeerDown{identity(schema::Role::NODE, "other", 1), "late"});
  replace(1, 11);
  caf::anon_send(actor, PeerDown{identity(schema::Role::NODE, "other", 2), "now"});
  replace(2, 12);
  const auto words = said();
  BOOST_REQUIRE_EQUAL(words.size(), 1u);
  BOOST_CHECK_EQUAL(words[0], "other: replace 1");
}
