// Ready: every model has a pipeline that is.

#include "actors/model_readiness.hpp"

#include <boost/test/unit_test.hpp>

using namespace convoy::actors;

BOOST_AUTO_TEST_CASE(a_cluster_is_ready_if_every_model_has_a_ready_pipeline) {
  const std::vector<std::string> models{"a", "b"};
  std::vector<PipelineHealth> pipelines{{"a1", "a", false, true, ""}, {"a2", "a", false, false, "loads"}};
  BOOST_CHECK_EQUAL(why_not_ready(models, pipelines), "model b: no pipeline has reported yet");
  pipelines.push_back({"b1", "b", false, false, "stage 0 is loading"});
  BOOST_CHECK_EQUAL(why_not_ready(models, pipelines), "model b: pipeline b1: stage 0 is loading");
  pipelines[2].ready = true;
  BOOST_CHECK_EQUAL(why_not_ready(models, pipelines), "");
  pipelines[0].silent = true;  // what it said before does not count
  BOOST_CHECK_EQUAL(why_not_ready(models, pipelines),
                    "model a: pipeline a1 has not reported lately; pipeline a2: loads");
}

BOOST_AUTO_TEST_CASE(where_there_is_one_model_it_need_not_be_named) {
  BOOST_CHECK_EQUAL(why_not_ready({"a"}, {}), "no pipeline has reported yet");
  BOOST_CHECK_EQUAL(why_not_ready({"a"}, {{"x", "a", false, false, ""}}), "pipeline x is not ready");
}
