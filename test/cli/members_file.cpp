// MembersFile: what a head keeps of all its pipelines' members, and what the next one makes of it.

#include "cli/members_file.hpp"

#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <fstream>

#include "model/error.hpp"

namespace {

using namespace convoy;
using namespace convoy::actors;
namespace fs = std::filesystem;

struct TwoPipelines {
  TwoPipelines() {
    fs::create_directories(folder);
    config.cluster.models = {{.id = "m", .path = "m"}};
    config.cluster.pipelines = {{"one", "m"}, {"two", "m"}};
    config.cluster.nodes = {{.name = "a", .listen = "127.0.0.1:1", .roles = {"pipeline"}, .stages = 1},
                            {.name = "b", .listen = "127.0.0.1:2", .stages = 1, .pipeline = "two"}};
  }
  ~TwoPipelines() { fs::remove_all(folder); }

  /// A head: all its pipelines begin.
  std::unique_ptr<cli::MembersFile> head() {
    auto kept = std::make_unique<cli::MembersFile>(config, file);
    for (const PipelineConfig& pipeline : config.cluster.pipelines)
      begun[pipeline.name] = kept->begin(pipeline, configured_members(config.of_pipeline(pipeline)));
    return kept;
  }
  Members with(const std::string& pipeline, const std::string& node) const {
    Members members = begun.at(pipeline);
    ++members.revision;
    members.list.push_back({node, "127.0.0.9:" + node, 1, false, MemberState::serving});
    return members;
  }

  const fs::path folder = fs::temp_directory_path() / ("convoy-members-" + std::to_string(getpid()));
  const fs::path file = folder / ".members.json";
  ClusterConfig config;
  MembersByPipeline begun;
};

}  // namespace

BOOST_FIXTURE_TEST_CASE(each_pipeline_begins_with_its_own_members_and_what_was_added_to_it, TwoPipelines) {
  auto first = head();
  BOOST_TEST(begun.at("one").list.size() == 1u);
  BOOST_TEST(first->pipeline_of("b") == "two");
  BOOST_TEST(first->pipeline_of("c").empty());
  first->keep("two", with("two", "c"));
  const auto next = head();
  BOOST_TEST(begun.at("one").list.size() == 1u);
  BOOST_TEST(begun.at("two").find("c") != nullptr);
  BOOST_TEST(next->pipeline_of("c") == "two");
  const auto nodes = next->nodes();
  BOOST_TEST_REQUIRE(nodes.size() == 3u);
  BOOST_TEST(nodes[2].name == "c");
  BOOST_TEST(nodes[2].pipeline == "two");
}

BOOST_FIXTURE_TEST_CASE(a_node_is_a_member_of_one_pipeline, TwoPipelines) {
  const auto kept = head();
  kept->keep("two", with("two", "c"));
  for (const char* taken : {"c", "b"})
    BOOST_CHECK_EXCEPTION(kept->keep("one", with("one", taken)), InputError, [](const InputError& e) {
      return e.problem().find("belongs to pipeline two") != std::string::npos;
    });
  BOOST_TEST(kept->pipeline_of("c") == "two");
}

BOOST_FIXTURE_TEST_CASE(members_of_a_version_with_one_pipeline_are_the_first_ones, TwoPipelines) {
  std::ofstream(file) << R"({"revision":3,"members":[
    {"node":"a","listen":"127.0.0.1:1","stages":1,"configured":true,"state":"serving"},
    {"node":"c","listen":"127.0.0.9:1","stages":2,"configured":false,"state":"drained"}]})";
  head();
  BOOST_TEST(begun.at("one").revision == 3u);
  BOOST_TEST(begun.at("one").find("c") != nullptr);
  BOOST_TEST(begun.at("two").list.size() == 1u);
}

BOOST_FIXTURE_TEST_CASE(the_only_pipeline_keeps_its_members_when_it_is_renamed_with_its_model, TwoPipelines) {
  config.cluster.pipelines = {{"one", "m"}};
  config.cluster.nodes.pop_back();
  head()->keep("one", with("one", "c"));
  config.cluster.pipelines = {{"other", "m"}};
  head();
  BOOST_TEST(begun.at("other").find("c") != nullptr);
}

BOOST_FIXTURE_TEST_CASE(a_node_that_was_added_is_where_cluster_conf_says_once_it_stands_there, TwoPipelines) {
  head()->keep("one", with("one", "c"));
  config.cluster.nodes.push_back({.name = "c", .listen = "127.0.0.1:3", .stages = 1, .pipeline = "two"});
  const auto next = head();
  BOOST_TEST(begun.at("one").find("c") == nullptr);
  BOOST_TEST(next->pipeline_of("c") == "two");
}
