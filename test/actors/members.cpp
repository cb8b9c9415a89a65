// Members: what commands make of them, whichever come, and the plan that follows.

#include "actors/members.hpp"

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <random>
#include <set>

#include "model/error.hpp"

using namespace convoy;
using namespace convoy::actors;
using Kind = MemberCommand::Kind;

namespace {

constexpr uint32_t layers = 6;

Members two() {
  ClusterConfig config;
  config.cluster.nodes = {{.name = "a", .listen = "127.0.0.1:1", .stages = 2},
                          {.name = "b", .listen = "127.0.0.2:1", .stages = 1}};
  return configured_members(config);
}

Members done(const Members& members, const MemberCommand& command) {
  const auto applied = apply(members, command, layers);
  const auto* const refused = std::get_if<MemberRefused>(&applied);
  BOOST_REQUIRE_MESSAGE(!refused, (refused ? refused->why : ""));
  return std::get<Members>(applied);
}

void check_refused(const Members& members, const MemberCommand& command, const std::string& words) {
  const auto applied = apply(members, command, layers);
  const auto* const refused = std::get_if<MemberRefused>(&applied);
  BOOST_REQUIRE(refused);
  BOOST_CHECK_MESSAGE(refused->why.find(words) != std::string::npos, refused->why);
}

MemberState state_of(const Members& members, const std::string& node) { return members.find(node)->state; }

std::vector<std::string> names(const Members& members) {
  std::vector<std::string> names;
  for (const StageName& name : names_of(plan_of(members, {.layers = layers}))) names.push_back(text_of(name));
  return names;
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_plan_has_the_stages_of_all_who_serve_in_order) {
  const Members members = two();
  BOOST_TEST(names(members) == (std::vector<std::string>{"stage 0 of a", "stage 1 of a", "stage 0 of b"}),
             boost::test_tools::per_element());
  const auto plan = plan_of(members, {.layers = layers});
  BOOST_CHECK_EQUAL(plan[1].layers.first, 2);
  BOOST_CHECK_EQUAL(plan[2].layers.last, 5);
}

BOOST_AUTO_TEST_CASE(
    a_node_that_is_drained_has_no_stage_in_the_plan_until_it_is_back_and_its_stages_are_there) {
  Members members = done(two(), {Kind::drain, "a"});
  BOOST_TEST(names(members) == std::vector<std::string>{"stage 0 of b"}, boost::test_tools::per_element());
  members = done(members, {Kind::undrain, "a"});
  BOOST_CHECK_EQUAL(names(members).size(), 1u);
  members = done(members, {Kind::arrived, "a"});
  BOOST_CHECK_EQUAL(names(members).size(), 3u);
  BOOST_CHECK_EQUAL(members.revision, 3u);
}

BOOST_AUTO_TEST_CASE(a_node_that_was_added_joins_and_can_be_forgotten) {
  Members members = done(two(), {Kind::add, "c", "127.0.0.3:1", 2});
  BOOST_CHECK(state_of(members, "c") == MemberState::joining);
  BOOST_CHECK_EQUAL(names(members).size(), 3u);
  members = done(members, {Kind::arrived, "c"});
  BOOST_CHECK_EQUAL(names(members).size(), 5u);
  members = done(members, {Kind::remove, "c"});
  BOOST_CHECK(!members.find("c"));
  BOOST_CHECK_EQUAL(names(members).size(), 3u);
}

BOOST_AUTO_TEST_CASE(what_cannot_be_is_refused_with_what_to_do) {
  const Members members = two();
  check_refused(members, {Kind::drain, "x"}, "there is no node x; there are a, b");
  check_refused(members, {Kind::undrain, "a"}, "is not drained");
  check_refused(members, {Kind::arrived, "a"}, "does not join");
  check_refused(members, {Kind::add, "a", "127.0.0.9:1", 1}, "another name");
  check_refused(members, {Kind::add, "c", "127.0.0.2:1", 1}, "node b listens on");
  check_refused(members, {Kind::add, "c", "", 1}, "an address");
  check_refused(members, {Kind::add, "c", "127.0.0.3:1", 0}, "1 to 64 stages");
  check_refused(members, {Kind::add, "c", "127.0.0.3:1", 4}, "7 stages, and the model has 6 layers");
  const Members drained = done(members, {Kind::drain, "a"});
  check_refused(drained, {Kind::drain, "a"}, "drained already");
  check_refused(drained, {Kind::drain, "b"}, "no stage would be left");
  check_refused(drained, {Kind::remove, "b"}, "no stage would be left");
  check_refused(done(drained, {Kind::add, "c", "127.0.0.3:1", 5}), {Kind::undrain, "a"}, "8 stages");
}

BOOST_AUTO_TEST_CASE(a_configured_node_that_was_removed_stays_away_until_it_is_wanted_again) {
  const Members removed = done(two(), {Kind::remove, "b"});
  check_refused(removed, {Kind::drain, "b"}, "there is no node b; there are a");
  const Members next = members_at_start(two(), removed);
  BOOST_CHECK(state_of(next, "b") == MemberState::removed);
  BOOST_CHECK(state_of(done(next, {Kind::undrain, "b"}), "b") == MemberState::joining);
}

BOOST_AUTO_TEST_CASE(a_head_begins_with_what_the_one_before_knew_and_where_cluster_conf_says_that_nodes_are) {
  Members kept = done(two(), {Kind::add, "c", "127.0.0.3:1", 1});
  kept = done(done(kept, {Kind::arrived, "c"}), {Kind::drain, "b"});
  Members configured = two();
  configured.list[1].listen = "127.0.0.2:2";
  configured.list.push_back({"d", "127.0.0.4:1", 1, true, MemberState::serving});
  const Members members = members_at_start(configured, kept);
  BOOST_CHECK_EQUAL(members.revision, kept.revision);
  BOOST_CHECK_EQUAL(members.list.size(), 4u);
  BOOST_CHECK(state_of(members, "b") == MemberState::drained);
  BOOST_CHECK_EQUAL(members.find("b")->listen, "127.0.0.2:2");
  BOOST_CHECK(state_of(members, "c") == MemberState::serving);
  BOOST_CHECK(state_of(members, "d") == MemberState::serving);
}

BOOST_AUTO_TEST_CASE(where_nobody_who_served_is_left_cluster_conf_counts) {
  const Members kept = done(two(), {Kind::drain, "b"});
  Members configured = two();
  configured.list.erase(configured.list.begin());
  const Members members = members_at_start(configured, kept);
  BOOST_CHECK(state_of(members, "b") == MemberState::serving);
  BOOST_CHECK_GT(members.revision, kept.revision);
}

BOOST_AUTO_TEST_CASE(members_are_read_as_they_were_written) {
  const Members members =
      done(done(two(), {Kind::add, "c", "127.0.0.3:1", 1, "127.0.0.3:8080"}), {Kind::drain, "a"});
  BOOST_CHECK_EQUAL(members.find("c")->http, "127.0.0.3:8080");
  const MembersByPipeline all{{"x", members}, {"the other", two()}};
  BOOST_CHECK(read_members(text_of(all), "here") == all);
  for (const char* text : {"", "{", "[]", R"({"revision":1})", R"({"revision":1,"members":[{"node":"a"}]})"})
    BOOST_CHECK_EXCEPTION(read_members(text, "the file"), InputError,
                          [](const InputError& e) { return e.where() == "the file"; });
}

BOOST_AUTO_TEST_CASE(a_change_of_written_members_is_found) {
  const MembersByPipeline all{{"x", done(two(), {Kind::drain, "a"})}};
  const std::string text = text_of(all);
  size_t found = 0;
  for (size_t i = 0; i < text.size(); ++i)
    for (const char change : {'\x01', '\x10'}) {
      std::string changed = text;
      changed[i] = static_cast<char>(changed[i] ^ change);
      try {
        BOOST_CHECK_MESSAGE(read_members(changed, "") == all, "byte " << i << " may change");
      } catch (const InputError&) {
        ++found;
      }
    }
  BOOST_CHECK_GT(found, text.size());  // all but spaces
}

BOOST_AUTO_TEST_CASE(members_that_a_version_with_one_pipeline_wrote_are_read) {
  const auto all = read_members(
      R"({"revision":7,"members":[{"node":"a","listen":"h:1","stages":2,"configured":true,"state":"drained"}]})",
      "here");
  BOOST_REQUIRE_EQUAL(all.size(), 1u);
  const Members& members = all.at("");
  BOOST_CHECK_EQUAL(members.revision, 7u);
  BOOST_CHECK(state_of(members, "a") == MemberState::drained);
}

BOOST_AUTO_TEST_CASE(members_of_a_pipeline_are_the_nodes_that_name_it) {
  ClusterConfig config;
  config.cluster.models = {{.id = "m", .path = "m"}, {.id = "n", .path = "n"}};
  config.cluster.pipelines = {{"first", "m"}, {"second", "n"}};
  config.cluster.nodes = {{.name = "head", .listen = "127.0.0.1:1", .roles = {"pipeline"}, .stages = 2},
                          {.name = "b", .listen = "127.0.0.1:2", .stages = 1, .pipeline = "second"},
                          {.name = "c", .listen = "127.0.0.1:3", .stages = 3, .pipeline = "first"}};
  const auto of = [&](size_t i) {
    const ClusterConfig view = config.of_pipeline(config.cluster.pipelines[i]);
    BOOST_CHECK_EQUAL(view.head().name, "head");
    std::string text = view.cluster.model + ":";
    for (const Member& m : configured_members(view).list)
      text += " " + m.node + "/" + std::to_string(m.stages);
    return text + ", " + std::to_string(view.stage_count());
  };
  BOOST_CHECK_EQUAL(of(0), "m: head/2 c/3, 5");
  BOOST_CHECK_EQUAL(of(1), "n: b/1, 1");
}

// Whatever commands come in whatever order.
BOOST_AUTO_TEST_CASE(there_is_always_a_stage_names_are_unique_and_revisions_rise) {
  for (uint64_t seed = 1; seed <= 200; ++seed) BOOST_TEST_CONTEXT("seed " << seed) {
      std::mt19937_64 random(seed);
      Members members = two();
      int changes = 0;
      for (int i = 0; i < 200; ++i) {
        const char node = static_cast<char>('a' + random() % 5);
        const MemberCommand command{static_cast<Kind>(random() % 5), std::string(1, node),
                                    "127.0.0." + std::to_string(node - 'a' + 1) + ":1",
                                    static_cast<uint32_t>(random() % 4)};
        const auto applied = apply(members, command, layers);
        if (std::holds_alternative<MemberRefused>(applied)) continue;
        ++changes;
        const Members& next = std::get<Members>(applied);
        BOOST_REQUIRE_EQUAL(next.revision, members.revision + 1);
        members = next;
        std::set<std::string> unique;
        for (const Member& m : members.list) unique.insert(m.node);
        BOOST_REQUIRE_EQUAL(unique.size(), members.list.size());
        BOOST_REQUIRE_GE(members.stages(), 1u);
        BOOST_REQUIRE_EQUAL(plan_of(members, {.layers = layers}).size(), members.stages());
        BOOST_REQUIRE(read_members(text_of({{"x", members}}), "").at("x") == members);
        BOOST_REQUIRE_GE(members_at_start(two(), members).stages(), 1u);
      }
      BOOST_CHECK_GT(changes, 10);
    }
}
