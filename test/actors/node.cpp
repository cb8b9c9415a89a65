// The node actor, with what it tells and asks in the hands of the test.

#include "actors/node.hpp"

#include <algorithm>
#include <boost/json.hpp>
#include <boost/test/unit_test.hpp>
#include <mutex>
#include <string>
#include <vector>

#include "actors/node_status.hpp"
#include "model/version.hpp"
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
  return {[world](const Frame<msg::Status>& status) { world->say(msg::Reading(status)->getJson().cStr()); },
          [world](const Frame<msg::MemberReply>& reply) {
            world->say(std::string("refused: ") + msg::Reading(reply)->getRefused().cStr());
          }};
}

NodeActor::behavior_type other_node(NodeActor::pointer, World* world, const std::string& name) {
  return {
      [=](const Frame<msg::ReplaceStage>& f) {
        world->say(name + ": replace " + std::to_string(msg::Reading(f)->getInstance()));
      },
      [=](const Frame<msg::KeepStages>& f) {
        world->say(name + ": keep " + std::to_string(msg::Reading(f)->getStages()));
      },
      [](const Frame<msg::MemberCommand>&) {},
      [](const Frame<msg::MemberReply>&) {},
      [=](const Frame<msg::NodeProblem>& f) { world->say(name + ": " + msg::Reading(f)->getText().cStr()); },
      [](const Frame<msg::StatusQuery>&) {},
      [=](const Frame<msg::Shutdown>&) { world->say(name + ": end"); },
      [](const Frame<msg::PipelineState>&) {},
      [](const Frame<msg::GatewayState>&) {},
      [](const PeerUp&) {},
      [](const PeerDown&) {},
      [](Drained) {},
      [](caf::tick_atom) {}};
}

GatewayActor::behavior_type gateway(GatewayActor::pointer, World* world) {
  return {[](const Frame<msg::Accepted>&) {},
          [](const Frame<msg::Rejected>&) {},
          [](const Frame<msg::StepTokens>&) {},
          [](const Frame<msg::Tokens>&) {},
          [](const Frame<msg::Finished>&) {},
          [](const Frame<msg::PipelineState>&) {},
          [](const Frame<msg::GatewayTerms>&) {},
          [](const Frame<msg::GatewayKeys>&) {},
          [world](const Frame<msg::Shutdown>&) { world->say("gateway: end"); }};
}

struct Fixture {
  explicit Fixture(uint32_t readiness_period_ms = 60'000, const std::string& name = "head") {
    options.config.cluster.models = {{.id = "m", .path = "m"}};
    options.config.cluster.pipelines = {{"main", "m"}};
    options.config.cluster.nodes = {
        {.name = "head", .listen = "127.0.0.1:1", .roles = {"pipeline"}, .stages = 1},
        {.name = "other", .listen = "127.0.0.1:2", .roles = {}, .stages = 2}};
    options.config.pipeline.readiness_period_ms = readiness_period_ms;
    options.name = name;
    options.head = name == "head";
    options.pid = 55;
    NodeEffects effects;
    effects.replace = [this](uint32_t instance, uint64_t incarnation) {
      world.say("replace " + std::to_string(instance) + " " + std::to_string(incarnation));
    };
    effects.keep_stages = [this](uint32_t count) { world.say("keep " + std::to_string(count)); };
    effects.node_handle = [this](const PeerIdentity& peer) { return peer.node == "head" ? own : other; };
    effects.client_handle = [this](const PeerIdentity&) { return asker; };
    effects.gateway_handle = [this](const PeerIdentity&) { return gate; };
    effects.shut_down = [this] { world.say("end"); };
    NodeFacts facts;
    facts.gateway_url = [] { return "http://here"; };
    facts.redis_json = [] { return R"({"state":"up"})"; };
    actor = system.spawn(node, options, facts, effects);
  }
  ~Fixture() { end_and_wait(system, actor, asker, own, other, gate); }

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
    pass(gate, msg::FrameBuilder<msg::PipelineState>().finish());
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
  void replace(const char* owner, uint32_t instance, uint64_t incarnation) {
    msg::FrameBuilder<msg::ReplaceStage> frame;
    frame->setNode(owner);
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
    state->setName("main");
    state->setReady(ready);
    state->setReason(reason);
    mail(actor, std::move(state).finish());
  }

  const std::chrono::steady_clock::time_point now = std::chrono::steady_clock::now();
  World world;
  NodeOptions options;
  caf::actor_system_config config;
  caf::actor_system system{config};
  NodeActor own = system.spawn(other_node, &world, "own"), other = system.spawn(other_node, &world, "other");
  GatewayActor gate = system.spawn(gateway, &world);
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
  replace("other", 0, 11);  // its node is not linked: nobody can be told
  up(schema::Role::NODE, "head", 1);
  replace("head", 0, 10);
  up(schema::Role::NODE, "other", 1);
  replace("nobody", 0, 13);
  BOOST_TEST(said() == std::vector<std::string>{"own: replace 0"}, boost::test_tools::per_element());
  replace("other", 1, 12);
  BOOST_TEST(said() == (std::vector<std::string>{"own: replace 0", "other: replace 1"}),
             boost::test_tools::per_element());
}

BOOST_FIXTURE_TEST_CASE(a_node_replaces_its_stages_itself, Plain) {
  replace("other", 1, 11);
  replace("head", 0, 10);  // which is not linked here
  BOOST_TEST(said() == std::vector<std::string>{"replace 1 11"}, boost::test_tools::per_element());
}

BOOST_FIXTURE_TEST_CASE(the_head_passes_the_end_on_to_its_machine_once_no_answer_needs_other_nodes, Fixture) {
  for (const char* name : {"other", "head"}) {
    auto peer = identity(schema::Role::NODE, name, 1);
    peer.here = std::string(name) == "other";  // and the other one on another machine, whose it stays
    caf::anon_send(actor, PeerUp{peer});
  }
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
  state.pipelines["main"] = {{}, std::move(said).finish(), now};
  bool draining = false;
  state.facts.draining = [&draining] { return draining; };
  BOOST_CHECK(boost::json::parse(status_json(options, state, now)).at("ready").as_bool());
  draining = true;
  const auto status = boost::json::parse(status_json(options, state, now));
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
  BOOST_CHECK(!status.at("nodes").at(1).at("since").is_null());
}

BOOST_FIXTURE_TEST_CASE(status_says_who_each_node_is, Fixture) {
  NodeState state;
  state.nodes["other"] = identity(schema::Role::NODE, "other", 1);
  state.nodes["other"].version = "9.8.7";
  state.nodes_since_s["other"] = 1'700'000'000;
  const auto nodes = boost::json::parse(status_json(options, state, now)).at("nodes").as_array();
  BOOST_CHECK_EQUAL(nodes[0].at("role").as_string(), "head");
  BOOST_CHECK_EQUAL(nodes[0].at("version").as_string(), version());
  BOOST_CHECK(nodes[0].at("since").is_null());
  BOOST_CHECK_EQUAL(nodes[1].at("role").as_string(), "stages");
  BOOST_CHECK_EQUAL(nodes[1].at("address").as_string(), "127.0.0.1:2");
  BOOST_CHECK_EQUAL(nodes[1].at("version").as_string(), "9.8.7");
  BOOST_CHECK_EQUAL(nodes[1].at("since").as_string(), "2023-11-14T22:13:20Z");
}

BOOST_FIXTURE_TEST_CASE(status_says_which_gateways_there_are, Fixture) {
  up(schema::Role::CLIENT, "cli", 9);
  const auto gateways = [this] {
    ask();
    return boost::json::parse(said().back()).at("gateways").as_array();
  };
  BOOST_REQUIRE_EQUAL(gateways().size(), 1u);
  BOOST_CHECK_EQUAL(gateways()[0].at("url").as_string(), "http://here");
  up(schema::Role::GATEWAY, "other", 3);
  BOOST_REQUIRE_EQUAL(gateways().size(), 2u);
  BOOST_CHECK(!gateways()[1].at("ready").as_bool());
  msg::FrameBuilder<msg::GatewayState> state;
  state->setUrl("http://there");
  state->setReady(true);
  state->setConnections(4);
  const auto frame = std::move(state).finish();
  mail(actor, frame);  // of nobody
  BOOST_CHECK_EQUAL(gateways()[1].at("url").as_string(), "");
  caf::send_as(gate, actor, frame);
  const auto both = gateways();
  BOOST_CHECK_EQUAL(both[1].at("node").as_string(), "other");
  BOOST_CHECK_EQUAL(both[1].at("url").as_string(), "http://there");
  BOOST_CHECK(both[1].at("ready").as_bool());
  BOOST_CHECK_EQUAL(both[1].at("connections").as_int64(), 4);
  caf::anon_send(actor, PeerDown{identity(schema::Role::GATEWAY, "other", 2), "late, of the one before"});
  BOOST_CHECK_EQUAL(gateways().size(), 2u);
  caf::anon_send(actor, PeerDown{identity(schema::Role::GATEWAY, "other", 3), ""});
  BOOST_CHECK_EQUAL(gateways().size(), 1u);
}

BOOST_FIXTURE_TEST_CASE(gateways_of_its_machine_are_told_to_end_with_the_head, Fixture) {
  auto peer = identity(schema::Role::GATEWAY, "other", 3);
  peer.here = true;
  caf::anon_send(actor, PeerUp{peer});
  up(schema::Role::GATEWAY, "on another machine", 4);
  up(schema::Role::NODE, "other", 1);
  mail(actor, msg::FrameBuilder<msg::Shutdown>().finish());
  BOOST_TEST(said() == (std::vector<std::string>{"end", "gateway: end"}), boost::test_tools::per_element());
}

BOOST_FIXTURE_TEST_CASE(status_says_since_when_a_stage_is_what_it_is, Fixture) {
  NodeState state;
  const auto at = [&](int64_t now_s, int32_t pid, msg::Health health) {
    msg::FrameBuilder<msg::PipelineState> said;
    auto list = said->initStages(1);
    list[0].setNode("head"), list[0].setPid(pid), list[0].setHealth(health);
    state.pipelines["main"] = {{}, std::move(said).finish(), now};
    see_stages(state, now_s);
    const auto since = boost::json::parse(status_json(options, state, now)).at("stages").at(0).at("since");
    return std::string(since.as_string());
  };
  BOOST_CHECK_EQUAL(at(1'700'000'000, 7, msg::Health::LOADING), "2023-11-14T22:13:20Z");
  BOOST_CHECK_EQUAL(at(1'700'000'003, 7, msg::Health::READY), "2023-11-14T22:13:23Z");
  BOOST_CHECK_EQUAL(at(1'700'000'009, 7, msg::Health::READY), "2023-11-14T22:13:23Z");
  BOOST_CHECK_EQUAL(at(1'700'000'010, 8, msg::Health::READY), "2023-11-14T22:13:30Z");  // another process
}

BOOST_FIXTURE_TEST_CASE(status_says_when_certificates_end, Fixture) {
  NodeState state;
  state.nodes["other"] = identity(schema::Role::NODE, "other", 1);
  const auto until = [&](size_t node) {
    return boost::json::parse(status_json(options, state, now)).at("nodes").at(node).at("certificate_until");
  };
  BOOST_CHECK(until(0).is_null() && until(1).is_null());  // of one machine
  state.facts.certificate_until_s = [] { return 1'800'000'000; };
  state.nodes["other"].certificate_until_s = 1'700'000'000;
  BOOST_CHECK_EQUAL(until(0).as_string(), "2027-01-15T08:00:00Z");
  BOOST_CHECK_EQUAL(until(1).as_string(), "2023-11-14T22:13:20Z");
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
  state.pipelines["main"] = {{}, std::move(said).finish(), now};
  const auto status = boost::json::parse(status_json(options, state, now));
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
  state.pipelines["main"] = {{}, std::move(said).finish(), now};
  BOOST_CHECK(boost::json::parse(status_json(options, state, now)).at("ready").as_bool());
  const auto silent = boost::json::parse(status_json(options, state, now + std::chrono::hours(1)));
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
  replace("other", 0, 11);
  caf::anon_send(actor, PeerDown{identity(schema::Role::NODE, "other", 2), "now"});
  replace("other", 1, 12);
  const auto words = said();
  BOOST_REQUIRE_EQUAL(words.size(), 1u);
  BOOST_CHECK_EQUAL(words[0], "other: replace 0");
}

BOOST_FIXTURE_TEST_CASE(each_node_is_told_how_many_stages_to_run_when_it_is_linked_and_when_that_changes,
                        Fixture) {
  const auto members = [&](msg::Member::State of_other) {
    msg::FrameBuilder<msg::PipelineState> state;
    state->setName("main");
    auto list = state->initMembers(2);
    list[0].setNode("head"), list[0].setStages(1), list[0].setState(msg::Member::State::SERVING);
    list[1].setNode("other"), list[1].setStages(2), list[1].setState(of_other);
    mail(actor, std::move(state).finish());
  };
  up(schema::Role::NODE, "other", 1);
  BOOST_TEST(said().empty());
  members(msg::Member::State::SERVING);
  members(msg::Member::State::SERVING);
  up(schema::Role::NODE, "head", 1);
  members(msg::Member::State::DRAINING);
  members(msg::Member::State::DRAINED);
  up(schema::Role::NODE, "other", 2);  // another process
  members(msg::Member::State::JOINING);
  auto words = said();
  BOOST_CHECK_EQUAL(std::ranges::count(words, "own: keep 1"), 1);
  std::erase(words, "own: keep 1");  // beside the others
  BOOST_TEST(
      words == (std::vector<std::string>{"other: keep 2", "other: keep 0", "other: keep 0", "other: keep 2"}),
      boost::test_tools::per_element());
}

BOOST_FIXTURE_TEST_CASE(a_node_of_no_member_runs_no_stages, Fixture) {
  msg::FrameBuilder<msg::PipelineState> state;
  state->setName("main");
  state->initMembers(1)[0].setNode("head");
  mail(actor, std::move(state).finish());
  up(schema::Role::NODE, "other", 1);
  BOOST_TEST(said() == std::vector<std::string>{"other: keep 0"}, boost::test_tools::per_element());
}

BOOST_FIXTURE_TEST_CASE(a_node_runs_as_many_stages_as_it_is_told, Plain) {
  const auto keep = [&](uint32_t stages) {
    msg::FrameBuilder<msg::KeepStages> order;
    order->setStages(stages);
    mail(actor, std::move(order).finish());
  };
  keep(3), keep(0), keep(node_stages_max + 1);
  BOOST_TEST(said() == (std::vector<std::string>{"keep 3", "keep 0"}), boost::test_tools::per_element());
}

BOOST_FIXTURE_TEST_CASE(a_member_command_that_no_pipeline_can_take_is_refused, Fixture) {
  up(schema::Role::CLIENT, "cli", 9);
  msg::FrameBuilder<msg::MemberCommand> command;
  command->setClient(5);
  mail(actor, std::move(command).finish());
  BOOST_TEST(said() == std::vector<std::string>{"refused: the pipeline has not reported yet; try again"},
             boost::test_tools::per_element());
}

BOOST_FIXTURE_TEST_CASE(status_says_what_members_do, Fixture) {
  msg::FrameBuilder<msg::PipelineState> said;
  auto list = said->initMembers(2);
  list[0].setNode("head"), list[0].setState(msg::Member::State::SERVING);
  list[1].setNode("joined"), list[1].setState(msg::Member::State::JOINING), list[1].setReason("too small");
  NodeState state;
  state.pipelines["main"] = {{}, std::move(said).finish(), now};
  const auto nodes = boost::json::parse(status_json(options, state, now)).at("nodes").as_array();
  BOOST_REQUIRE_EQUAL(nodes.size(), 2u);
  BOOST_CHECK_EQUAL(nodes[0].at("pid").as_int64(), 55);
  BOOST_CHECK_EQUAL(nodes[1].at("name").as_string(), "joined");
  BOOST_CHECK_EQUAL(nodes[1].at("state").as_string(), "joining");
  BOOST_CHECK_EQUAL(nodes[1].at("reason").as_string(), "too small");
  BOOST_CHECK_EQUAL(nodes[1].at("health").as_string(), "down");
}

BOOST_FIXTURE_TEST_CASE(a_node_tells_its_head_why_its_stages_cannot_run, Plain) {
  msg::FrameBuilder<msg::NodeProblem> problem;
  problem->setText("there is no model");
  mail(actor, std::move(problem).finish());
  BOOST_TEST(said().empty());  // it is not linked yet
  up(schema::Role::NODE, "head", 1);
  BOOST_TEST(said() == std::vector<std::string>{"own: there is no model"}, boost::test_tools::per_element());
}

BOOST_FIXTURE_TEST_CASE(the_head_shows_what_is_wrong_with_a_node_until_another_process_is_linked, Fixture) {
  const auto reason = [this] {
    ask();
    auto words = said();
    std::erase_if(words, [](const std::string& word) { return word[0] != '{'; });
    const auto status = boost::json::parse(words.back());
    return std::string(status.at("nodes").at(0).at("reason").as_string());
  };
  msg::FrameBuilder<msg::PipelineState> state;
  state->setName("main");
  state->initMembers(1)[0].setNode("other");
  mail(actor, std::move(state).finish());
  up(schema::Role::CLIENT, "cli", 9);
  up(schema::Role::NODE, "other", 1);
  msg::FrameBuilder<msg::NodeProblem> problem;
  problem->setText("there is no model");
  const auto frame = std::move(problem).finish();
  mail(actor, frame);  // of nobody
  BOOST_CHECK_EQUAL(reason(), "");
  caf::send_as(other, actor, frame);
  BOOST_CHECK_EQUAL(reason(), "there is no model");
  up(schema::Role::NODE, "other", 2);
  BOOST_CHECK_EQUAL(reason(), "");
}

namespace {

/// Two pipelines: the head's own stages serve one, those of the other node the other.
struct Two : Fixture {
  Two() {
    options.config.cluster.models = {{.id = "m", .path = "m"}, {.id = "n", .path = "n"}};
    options.config.cluster.pipelines = {{"main", "m"}, {"second", "n"}};
    options.config.cluster.nodes[1].pipeline = "second";
    state.pipelines["main"] = {{}, said("main", "head", true, 3), now};
  }
  static Frame<msg::PipelineState> said(const char* name, const char* node, bool ready, uint32_t running) {
    msg::FrameBuilder<msg::PipelineState> state;
    state->setName(name);
    state->setReady(ready);
    state->setReason(ready ? "" : "stage 0 is loading");
    state->setRunning(running);
    auto list = state->initMembers(1);
    list[0].setNode(node), list[0].setStages(1), list[0].setState(msg::Member::State::SERVING);
    auto stages = state->initStages(1);
    stages[0].setNode(node);
    return std::move(state).finish();
  }
  boost::json::value status() const { return boost::json::parse(status_json(options, state, now)); }
  NodeState state;
};

}  // namespace

BOOST_FIXTURE_TEST_CASE(status_shows_each_pipeline_and_is_ready_when_all_models_are, Two) {
  auto shown = status();
  BOOST_CHECK(!shown.at("ready").as_bool());
  BOOST_CHECK_EQUAL(shown.at("reason").as_string(), "model n: pipeline second has not reported lately");
  BOOST_CHECK_EQUAL(shown.at("nodes").as_array().size(), 2u);
  state.pipelines["second"] = {{}, said("second", "other", false, 4), now};
  BOOST_CHECK_EQUAL(status().at("reason").as_string(), "model n: pipeline second: stage 0 is loading");
  state.pipelines["second"] = {{}, said("second", "other", true, 4), now};
  shown = status();
  BOOST_CHECK(shown.at("ready").as_bool());
  BOOST_CHECK_EQUAL(shown.at("running").to_number<int>(), 7);
  BOOST_REQUIRE_EQUAL(shown.at("pipelines").as_array().size(), 2u);
  const auto& second = shown.at("pipelines").at(1);
  BOOST_CHECK_EQUAL(second.at("name").as_string(), "second");
  BOOST_CHECK_EQUAL(second.at("model").as_string(), "n");
  BOOST_CHECK_EQUAL(second.at("running").to_number<int>(), 4);
  BOOST_CHECK_EQUAL(shown.at("nodes").at(1).at("pipeline").as_string(), "second");
  BOOST_CHECK_EQUAL(shown.at("stages").at(1).at("pipeline").as_string(), "second");
}

BOOST_FIXTURE_TEST_CASE(a_node_of_a_pipeline_that_has_not_reported_yet_keeps_its_stages, Fixture) {
  // The actor's own options: of one pipeline more than reports.
  NodeOptions two = options;
  two.config.cluster.models.push_back({.id = "n", .path = "n"});
  two.config.cluster.pipelines.push_back({"second", "n"});
  NodeEffects effects;
  effects.node_handle = [this](const PeerIdentity&) { return other; };
  const auto head = system.spawn(node, two, NodeFacts{}, effects);
  caf::anon_send(head, PeerUp{identity(schema::Role::NODE, "other", 1)});
  mail(head, Two::said("main", "head", true, 0));
  const auto settle = [&] {
    caf::scoped_actor self(system);
    self->request(head, convoy::test::patience, PeerDown{identity(schema::Role::NODE, "nobody", 0), ""})
        .receive([] {}, [](const caf::error&) { BOOST_FAIL("the actor ended"); });
  };
  settle();
  BOOST_TEST(said().empty());
  mail(head, Two::said("second", "other", true, 0));
  settle();
  BOOST_TEST(said() == std::vector<std::string>{"other: keep 1"}, boost::test_tools::per_element());
  end_and_wait(system, head);
}
