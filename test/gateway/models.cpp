// Several models behind one gateway: which one a request gets, what lists say of them, and what their
// pipelines' states mean for each.

#include "test/gateway/fake_cluster.hpp"

namespace convoy::gateway::test {

namespace {

/// "fake-model" with an alias, and "other" whose context is shorter.
ServedModels two_models() {
  std::vector<ServedModel> list{fake_model(), fake_model(100)};
  list[0].aliases = {"nick"};
  list[1].id = "other";
  list[1].weights_digest = "fedcba9876543210";
  return ServedModels(std::move(list));
}

struct Two : Cluster {
  explicit Two(std::string cache_secret = {}) : Cluster({}, two_models(), std::move(cache_secret)) {
    other_says(false);
  }
  void other_says(bool overloaded, const char* variant = "fake") {
    FrameBuilder<schema::PipelineState> b;
    b->setName("second");
    b->setModel("other");
    b->setReady(true);
    b->setOverloaded(overloaded);
    b->setReason("busy");
    b->setRetryAfterMs(3000);
    b->initStages(1)[0].setKernelVariant(variant);
    caf::scoped_actor self(system);
    self->request(gateway->actor(), convoy::test::patience, std::move(b).finish())
        .receive([] {}, [](const caf::error&) { BOOST_ERROR("the gateway does not listen"); });
  }
};

std::string body_for(const std::string& model, const std::string& more = {}) {
  return R"({"model":")" + model + R"(","prompt":"hi","max_tokens":3)" + more + "}";
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_request_gets_the_model_that_it_names_by_id_or_alias_and_the_answer_has_the_id) {
  Two cluster;
  Client client(cluster.gateway->port());
  for (const auto& [name, id] : {std::pair("fake-model", "fake-model"),
                                 {"nick", "fake-model"},
                                 {"default", "fake-model"},
                                 {"other", "other"}}) {
    client.ask(http::verb::post, completions_path, body_for(name));
    const Asked asked = cluster.asked();
    BOOST_TEST(asked.model == id);
    cluster.answer(asked.number, "a");
    BOOST_TEST(parsed(client.response()).at("model").as_string() == id, name);
  }
}

BOOST_AUTO_TEST_CASE(an_unknown_model_is_404_with_those_that_there_are) {
  Two cluster;
  Client client(cluster.gateway->port());
  const auto response = client.post(completions_path, body_for("gpt"));
  BOOST_TEST(response.result_int() == 404u);
  const auto error = parsed(response).at("error");
  BOOST_TEST(error.at("code").as_string() == "model_not_found");
  BOOST_TEST(error.at("message").as_string() ==
             "the model 'gpt' does not exist; this cluster serves 'fake-model', 'other'");
}

BOOST_AUTO_TEST_CASE(models_are_listed_by_ids_and_aliases) {
  Two cluster;
  Client client(cluster.gateway->port());
  std::vector<std::string> ids, roots;
  const auto models = parsed(client.get("/v1/models"));
  for (const json::value& model : models.at("data").as_array()) {
    ids.emplace_back(model.at("id").as_string());
    roots.emplace_back(model.at("root").as_string());
  }
  BOOST_TEST(ids == (std::vector<std::string>{"fake-model", "nick", "other"}),
             boost::test_tools::per_element());
  BOOST_TEST(roots == (std::vector<std::string>{"fake-model", "fake-model", "other"}),
             boost::test_tools::per_element());
  const auto nick = parsed(client.get("/v1/models/nick"));
  BOOST_TEST(nick.at("id").as_string() == "nick");
  BOOST_TEST(nick.at("root").as_string() == "fake-model");
  BOOST_TEST(parsed(client.get("/v1/models/other")).at("max_model_len").to_number<int>() == 100);
}

BOOST_AUTO_TEST_CASE(one_model_that_is_overloaded_does_not_keep_requests_from_the_other) {
  Two cluster;
  Client client(cluster.gateway->port());
  cluster.pipeline_is_overloaded(false);
  cluster.other_says(true);
  const auto refused = client.post(completions_path, body_for("other"));
  BOOST_TEST(refused.result_int() == 503u);
  BOOST_TEST(refused[http::field::retry_after] == "3");
  BOOST_TEST(refused.body().find("busy") != std::string::npos);
  client.ask(http::verb::post, completions_path, body_for("fake-model"));
  const Asked asked = cluster.asked();
  BOOST_TEST(asked.model == "fake-model");
  cluster.answer(asked.number, "a");
  BOOST_TEST(client.response().result_int() == 200u);
}

BOOST_AUTO_TEST_CASE(a_gateway_is_ready_when_each_model_is) {
  Cluster cluster({}, two_models());
  Client client(cluster.gateway->port());
  cluster.pipeline_is_overloaded(false);  // and ready
  const auto unready = client.get("/readyz");
  BOOST_TEST(unready.result_int() == 503u);
  BOOST_TEST(unready.body().find("model other: no pipeline has reported yet") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(an_answer_is_kept_under_its_models_id_and_digest) {
  Two cluster(std::string(32, 's'));
  Client client(cluster.gateway->port());
  const auto key_of = [&](const std::string& model) {
    client.ask(http::verb::post, completions_path, body_for(model, R"(,"temperature":0)"));
    const Asked asked = cluster.asked();
    cluster.answer(asked.number, "a");
    client.response();
    return asked.cache_key;
  };
  const std::string key = key_of("fake-model");
  BOOST_TEST(!key.empty());
  BOOST_TEST((key_of("nick") == key));
  BOOST_TEST((key_of("other") != key));
}

BOOST_AUTO_TEST_CASE(who_is_cancelled_is_told_by_name) {
  Two cluster;
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, completions_path, body_for("fake-model", R"(,"stream":true)"));
  const Asked asked = cluster.asked();
  cluster.accept(asked.number);
  cluster.text(asked.number, 0, "a");
  client.read_until("data:");
  client.vanish();
  const auto frame = cluster.cancels.take();
  BOOST_TEST(Reading(frame)->getPipeline().cStr() == std::string("main"));
}

}  // namespace convoy::gateway::test
