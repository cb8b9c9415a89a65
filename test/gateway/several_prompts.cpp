// Several prompts in one request: a choice each.

#include <boost/test/unit_test.hpp>
#include <map>
#include <set>

#include "test/gateway/fake_cluster.hpp"

namespace convoy::gateway::test {

namespace {

std::string several(const std::string& prompts, const std::string& more = {}) {
  return R"({"model":"fake-model","prompt":)" + prompts + (more.empty() ? "" : "," + more) + "}";
}

}  // namespace

BOOST_AUTO_TEST_CASE(several_prompts_are_answered_as_choices_in_their_order) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, completions_path, several(R"(["one","three"])", R"("return_token_ids":true)"));
  const Asked one = cluster.asked(), two = cluster.asked();
  BOOST_TEST(one.prompt == "one");
  BOOST_TEST(two.prompt == "three");
  cluster.text(two.number, 0, "b");
  cluster.accept(one.number);
  cluster.answer(two.number, "bbb");  // the last is whole first
  cluster.text(one.number, 0, "a");
  cluster.finish(one.number, 1, Reason::LENGTH);
  const auto response = client.response();
  BOOST_TEST(response.result_int() == 200u);
  const json::value body = parsed(response);
  const json::array& choices = body.at("choices").as_array();
  BOOST_TEST_REQUIRE(choices.size() == 2u);
  BOOST_TEST(choices[0].at("index").as_int64() == 0);
  BOOST_TEST(choices[0].at("text").as_string() == "a");
  BOOST_TEST(choices[0].at("finish_reason").as_string() == "length");
  BOOST_TEST(choices[0].at("token_ids").as_array().size() == 1u);
  BOOST_TEST(choices[1].at("index").as_int64() == 1);
  BOOST_TEST(choices[1].at("text").as_string() == "bbb");
  BOOST_TEST(choices[1].at("finish_reason").as_string() == "stop");
  BOOST_TEST(body.at("usage").at("prompt_tokens").to_number<int>() == 8);
  BOOST_TEST(body.at("usage").at("completion_tokens").to_number<int>() == 5);
  BOOST_TEST(cluster.cancels.stays_empty(20ms));
}

BOOST_AUTO_TEST_CASE(several_prompts_stream_side_by_side) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, completions_path,
             several("[[97],[98]]", R"("stream":true,"stream_options":{"include_usage":true})"));
  const Asked one = cluster.asked(), two = cluster.asked();
  for (const Asked& asked : {one, two}) cluster.accept(asked.number);
  cluster.text(one.number, 0, "a");
  cluster.text(two.number, 0, "b");
  cluster.answer(two.number, "bB");
  cluster.answer(one.number, "aA");
  auto events = events_of(client.response().body());
  BOOST_TEST(events.back() == "[DONE]");
  events.pop_back();
  const json::value last = json::parse(events.back());
  BOOST_TEST(last.at("usage").at("prompt_tokens").to_number<int>() == 2);
  BOOST_TEST(last.at("usage").at("completion_tokens").to_number<int>() == 6);
  events.pop_back();
  std::map<int64_t, std::string> texts;
  std::map<int64_t, int> ends;
  for (const std::string& data : events) {
    const json::value choice = json::parse(data).at("choices").at(0);
    const int64_t index = choice.at("index").as_int64();
    BOOST_TEST(ends[index] == 0);  // nothing after its end
    texts[index] += std::string(choice.at("text").as_string());
    ends[index] += choice.at("finish_reason").is_string();
  }
  BOOST_TEST(texts[0] == "aA");
  BOOST_TEST(texts[1] == "bB");
  BOOST_TEST((ends == std::map<int64_t, int>{{0, 1}, {1, 1}}));
}

BOOST_AUTO_TEST_CASE(one_prompt_that_fails_ends_all_with_its_error) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, completions_path, several(R"(["a","b","c"])"));
  const Asked one = cluster.asked(), two = cluster.asked(), three = cluster.asked();
  cluster.answer(one.number, "whole");
  cluster.accept(three.number);
  cluster.reject(two.number, schema::Rejected::Reason::OVERLOADED, 1000);
  const auto response = client.response();
  BOOST_TEST(response.result_int() == 503u);
  BOOST_TEST(parsed(response).at("error").at("code").as_string() == "overloaded");
  BOOST_TEST(cluster.cancelled() == three.number);  // the others have nothing to cancel
  BOOST_TEST(cluster.cancels.stays_empty(20ms));
  BOOST_TEST(client.get("/livez").result_int() == 200u);
  client.ask(http::verb::post, completions_path, several(R"(["a","b"])", R"("stream":true)"));
  const Asked four = cluster.asked(), five = cluster.asked();
  cluster.accept(four.number);
  cluster.accept(five.number);
  cluster.text(four.number, 0, "x");
  client.read_until("data: ");  // in mid-stream
  cluster.finish(five.number, 0, Reason::FAILED);
  boost::system::error_code ec;
  const std::string rest = client.rest(ec);
  BOOST_TEST(rest.find("generation_failed") != std::string::npos);
  BOOST_TEST(rest.find("[DONE]") == std::string::npos);
  BOOST_TEST(cluster.cancelled() == four.number);
}

BOOST_AUTO_TEST_CASE(a_client_that_leaves_cancels_every_prompt) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, completions_path, several(R"(["a","b"])"));
  const Asked one = cluster.asked(), two = cluster.asked();
  cluster.accept(one.number);
  client.vanish();
  std::set<uint64_t> cancelled{cluster.cancelled(), cluster.cancelled()};
  BOOST_TEST((cancelled == std::set<uint64_t>{one.number, two.number}));
}

BOOST_AUTO_TEST_CASE(more_prompts_than_allowed_are_refused_with_the_limits_name) {
  GatewayOptions options;
  options.prompts_max = 2;
  Cluster cluster(options);
  Client client(cluster.gateway->port());
  const json::value error = parsed(client.post(completions_path, several(R"(["a","b","c"])"))).at("error");
  BOOST_TEST(error.at("param").as_string() == "prompt");
  BOOST_TEST(std::string(error.at("message").as_string()).find("gateway.prompts_max") != std::string::npos);
  BOOST_TEST(cluster.generates.stays_empty(20ms));
}

}  // namespace convoy::gateway::test
