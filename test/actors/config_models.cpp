// cluster.conf of several models and pipelines: what is left out, what contradicts, and what one pipeline
// sees.

#include <boost/test/unit_test.hpp>
#include <random>

#include "actors/config/added_node.hpp"
#include "actors/config/cluster_config.hpp"
#include "actors/pipeline_name.hpp"
#include "model/error.hpp"
#include "test/actors/config_text.hpp"

using namespace convoy;
using namespace convoy::actors;

namespace {

const std::string side_node = R"({name = "b", listen = "127.0.0.1:7412", stages = 1, pipeline = "two"})";

/// models: line 3, pipelines: line 4, nodes: line 5.
std::string conf(const std::string& models, const std::string& pipelines,
                 const std::string& nodes = test::head_node + ", " + side_node) {
  return "[cluster]\nname = \"c\"\nmodels = [" + models + "]\npipelines = [" + pipelines + "]\nnodes = [" +
         nodes + "]\n";
}

const std::string two_models = R"({id = "x", path = "x.gguf", aliases = ["y"]}, {path = "z.gguf"})";
const std::string two_pipelines = R"({name = "one", model = "x"}, {name = "two", model = "z"})";

void expect_mistake(const std::string& text, int line, const std::vector<std::string>& words) {
  const auto found = read_cluster_config(text).problems;
  BOOST_TEST_CONTEXT(text) {
    for (const auto& problem : found) BOOST_TEST_MESSAGE(problem.text);
    BOOST_TEST_REQUIRE(found.size() == 1u);
    BOOST_TEST(found[0].line == line);
    for (const std::string& word : words)
      BOOST_TEST(found[0].text.find(word) != std::string::npos, "no '" << word << "' in: " << found[0].text);
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(one_model_is_a_list_of_one_and_has_a_pipeline_of_its_name) {
  const auto result = read_cluster_config(test::with("model_id = \"id\"\nchat_template = \"smollm2\"\n"));
  BOOST_TEST_REQUIRE(result.problems.empty());
  const auto& cluster = result.config.cluster;
  BOOST_TEST_REQUIRE(cluster.models.size() == 1u);
  BOOST_TEST(cluster.models[0].id == "id");
  BOOST_TEST(cluster.models[0].path == "m.gguf");
  BOOST_TEST(cluster.models[0].chat_template == "smollm2");
  BOOST_TEST_REQUIRE(cluster.pipelines.size() == 1u);
  BOOST_TEST(cluster.pipelines[0].name == "id");
  BOOST_TEST(read_cluster_config(test::with("")).config.cluster.pipelines[0].name == "m");
}

BOOST_AUTO_TEST_CASE(several_models_have_a_pipeline_each_unless_they_are_listed) {
  const auto listed = read_cluster_config(conf(two_models, two_pipelines));
  BOOST_TEST_REQUIRE(listed.problems.empty());
  BOOST_TEST(listed.config.cluster.models[1].id == "z");  // of its file
  BOOST_TEST(listed.config.pipeline_of(listed.config.cluster.nodes[0]) == "one");
  const auto replicas =
      read_cluster_config(conf(R"({id = "x", path = "x"})", R"({name = "one"}, {name = "two"})"));
  BOOST_TEST_REQUIRE(replicas.problems.empty());
  BOOST_TEST(replicas.config.cluster.pipelines[1].model == "x");
  const std::string unlisted = "[cluster]\nname = \"c\"\nmodels = [" + two_models + "]\nnodes = [" +
                               test::head_node +
                               R"(, {name = "b", listen = "127.0.0.1:7412", stages = 1, pipeline = "z"}])";
  const auto each = read_cluster_config(unlisted);
  BOOST_TEST_REQUIRE(each.problems.empty());
  BOOST_TEST(each.config.cluster.pipelines[1].name == "z");
}

BOOST_AUTO_TEST_CASE(a_pipeline_sees_its_model_and_its_nodes) {
  const ClusterConfig config = read_cluster_config(conf(two_models, two_pipelines)).config;
  const ClusterConfig two = config.of_pipeline(*config.find_pipeline("two"));
  BOOST_TEST(two.cluster.model == "z.gguf");
  BOOST_TEST(two.cluster.model_id == "z");
  BOOST_TEST(two.stage_count() == 1u);
  BOOST_TEST(two.head().name == "a");
  BOOST_TEST(two.head().stages == 0u);  // they are the other pipeline's
  BOOST_TEST(two.cluster.others.size() == 1u);
  const ClusterConfig one = config.of_pipeline(*config.find_pipeline(""));
  BOOST_TEST(one.cluster.model_id == "x");
  BOOST_TEST(one.stage_count() == 2u);
  BOOST_TEST(!one.find_node("b"));
}

BOOST_AUTO_TEST_CASE(what_contradicts_in_models_and_pipelines_is_said_where_it_stands) {
  expect_mistake(
      conf(R"({id = "x", path = "x"}, {id = "x", path = "y"})", R"({name = "one"}, {name = "two"})"), 3,
      {"two models", "\"x\""});
  expect_mistake(conf(R"({id = "x", path = "x", aliases = ["z"]}, {id = "z", path = "z"})", two_pipelines), 3,
                 {"two models", "\"z\"", "cluster.models[0].aliases"});
  expect_mistake(conf(two_models, R"({name = "one", model = "x"}, {name = "two", model = "zz"})"), 4,
                 {"\"zz\"", "did you mean `z`"});
  expect_mistake(conf(two_models, R"({name = "one", model = "x"}, {name = "two", model = "x"})"), 3,
                 {"no pipeline serves the model \"z\""});
  expect_mistake(
      conf(two_models, R"({name = "two", model = "x"}, {name = "two", model = "z"})", test::head_node), 4,
      {"two pipelines are named \"two\""});
  expect_mistake(
      conf(two_models,
           R"({name = "one", model = "x"}, {name = "t/o", model = "z"}, {name = "two", model = "z"})",
           test::head_node + ", " + side_node +
               R"(, {name = "d", listen = "127.0.0.1:7413", stages = 1, pipeline = "t/o"})"),
      4, {"\"t/o\"", "letters"});
  expect_mistake(conf(two_models, two_pipelines, test::head_node), 5,
                 {"no node has stages of pipeline \"two\""});
  expect_mistake(conf(two_models, two_pipelines,
                      test::head_node + ", " + side_node +
                          R"(, {name = "d", listen = "127.0.0.1:7413", pipeline = "tow"})"),
                 5, {"cluster.nodes[2].pipeline", "\"tow\"", "did you mean `two`"});
  expect_mistake(conf(R"({id = "x"}, {path = "z.gguf"})", two_pipelines), 3,
                 {"cluster.models[0].path", "missing"});
  expect_mistake(conf(R"({path = "random:qwenn"})", R"({name = "one"}, {name = "two"})"), 3,
                 {"cluster.models[0].path", "qwenn"});
}

BOOST_AUTO_TEST_CASE(the_keys_of_one_model_and_a_list_of_models_do_not_stand_together) {
  const std::string list = "models = [{id = \"x\", path = \"x\"}]\n";
  const auto both = read_cluster_config(test::with(list)).problems;
  BOOST_TEST_REQUIRE(both.size() == 1u);
  BOOST_TEST(both[0].line == 3);
  BOOST_TEST(both[0].text.find("keep one of the two") != std::string::npos);
  const auto neither =
      read_cluster_config("[cluster]\nname = \"c\"\nnodes = [" + test::head_node + "]\n").problems;
  BOOST_TEST_REQUIRE(neither.size() == 1u);
  BOOST_TEST(neither[0].text.find("`cluster.model` is missing") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_node_that_is_added_keeps_its_pipeline) {
  const std::string text = conf(two_models, two_pipelines);
  const auto added = read_cluster_config(with_node(text, {"d", "127.0.0.1:7413", {}, 1, "two"})).config;
  BOOST_TEST(added.find_node("d")->pipeline == "two");
  BOOST_TEST(read_cluster_config(with_node(text, {"d", "127.0.0.1:7413", {}, 1}))
                 .config.find_node("d")
                 ->pipeline.empty());
  BOOST_CHECK_EXCEPTION(
      with_node(text, {"d", "127.0.0.1:7413", {}, 1, "three"}), InputError,
      [](const InputError& e) { return e.problem().find("no pipeline") != std::string::npos; });
}

BOOST_AUTO_TEST_CASE(a_model_can_be_replaced_where_it_is_the_only_one) {
  ClusterConfig one = read_cluster_config(test::with("")).config;
  replace_model(one, "/other/n.gguf");
  BOOST_TEST(one.cluster.model == "/other/n.gguf");
  BOOST_TEST(one.cluster.pipelines[0].name == "m");  // whose stages they are does not change by it
  BOOST_TEST(one.model_of(one.cluster.pipelines[0]).id == "n");
  ClusterConfig two = read_cluster_config(conf(two_models, two_pipelines)).config;
  BOOST_CHECK_THROW(replace_model(two, "/other/n.gguf"), InputError);
}

BOOST_AUTO_TEST_CASE(pipelines_are_told_apart_by_their_names) {
  BOOST_TEST(pipeline_instance("") == 0u);  // the first, whatever it is called
  BOOST_TEST(pipeline_instance("one") != pipeline_instance("two"));
  BOOST_TEST(pipeline_instance("one") != 0u);
}

BOOST_AUTO_TEST_CASE(damaged_lists_of_models_and_pipelines_are_refused_or_read_but_never_crash) {
  std::mt19937 random(20260101u);
  const std::string good = conf(two_models, two_pipelines), bytes = "[]{}\"=,; x0";
  size_t refused = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string text = good;
    for (unsigned edits = 1 + random() % 3; edits > 0; --edits) {
      const size_t at = random() % text.size();
      if (random() % 2 == 0)
        text[at] = bytes[random() % bytes.size()];
      else
        text.erase(at, 1 + random() % 20);
    }
    const auto result = read_cluster_config(text);
    refused += !result.problems.empty();
    if (result.problems.empty())
      for (const PipelineConfig& pipeline : result.config.cluster.pipelines)
        BOOST_TEST_REQUIRE(result.config.of_pipeline(pipeline).stage_count() > 0u);
  }
  BOOST_TEST(refused > 1000u);
}
