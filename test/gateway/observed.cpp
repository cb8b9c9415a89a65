// What an operator sees of requests: /metrics and the log.

#include <boost/test/unit_test.hpp>

#include "model/version.hpp"
#include "test/gateway/captured.hpp"
#include "test/gateway/fake_cluster.hpp"

namespace convoy::gateway::test {

namespace {

/// The value of a sample; -1 if there is none: the label values of requests come into being with the first
/// one.
double sample(Cluster& cluster, const std::string& name_and_labels) {
  Client client(cluster.gateway->port());
  const std::string text = "\n" + client.get("/metrics").body();
  const size_t at = text.find("\n" + name_and_labels + " ");
  return at == std::string::npos ? -1 : std::stod(text.substr(at + name_and_labels.size() + 2));
}

void await_sample(Cluster& cluster, const std::string& name_and_labels, double wanted) {
  BOOST_TEST(convoy::test::comes_true([&] { return sample(cluster, name_and_labels) == wanted; }),
             name_and_labels);
}

std::string field(const std::string& line, const std::string& name) {
  const size_t at = line.find(" " + name + "=");
  if (at == std::string::npos) return "(absent)";
  const size_t begin = at + name.size() + 2;
  return line.substr(begin, line.find(' ', begin) - begin);
}

}  // namespace

BOOST_AUTO_TEST_CASE(tokens_are_counted_as_they_come) {
  Cluster cluster;
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, chat_path, chat_body(R"("stream":true)"));
  const Asked asked = cluster.asked();
  const std::string
      prompt = R"(convoy_gateway_tokens_total{kind="prompt",model="fake-model",source="computed"})",
      answer = R"(convoy_gateway_tokens_total{kind="completion",model="fake-model",source="computed"})";
  BOOST_TEST(sample(cluster, prompt) == 0);  // the cluster has not taken it yet
  cluster.accept(asked.number);
  await_sample(cluster, prompt, 8);
  cluster.text(asked.number, 0, "abc");
  await_sample(cluster, answer, 3);
  await_sample(cluster, R"(convoy_gateway_first_token_seconds_count{model="fake-model",source="computed"})",
               1);
  BOOST_TEST(
      sample(cluster, R"(convoy_gateway_request_seconds_count{model="fake-model",source="computed"})") == 0);
  cluster.text(asked.number, 3, "d");
  cluster.finish(asked.number, 4);
  client.response();
  await_sample(cluster, R"(convoy_gateway_request_seconds_count{model="fake-model",source="computed"})", 1);
  await_sample(cluster, "convoy_gateway_between_tokens_seconds_count", 1);
  await_sample(cluster,
               R"(convoy_gateway_requests_total{endpoint="chat_completions",reason="ok",status="200"})", 1);
}

BOOST_AUTO_TEST_CASE(what_comes_from_the_cache_is_counted_apart) {
  Cluster cluster({}, fake_model(), std::string(32, 's'));
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, chat_path, chat_body(R"("temperature":0)"));
  const Asked asked = cluster.asked();
  cluster.text(asked.number, 0, "abc", true);
  cluster.finish(asked.number, 3, Reason::STOP, true);
  BOOST_TEST(client.response()["x-cache"] == "hit");
  await_sample(cluster, R"(convoy_gateway_tokens_total{kind="completion",model="fake-model",source="cache"})",
               3);
  await_sample(cluster, R"(convoy_gateway_tokens_total{kind="prompt",model="fake-model",source="cache"})", 8);
  await_sample(cluster, R"(convoy_gateway_request_seconds_count{model="fake-model",source="cache"})", 1);
  await_sample(cluster, R"(convoy_gateway_cache_total{result="hit"})", 1);
  BOOST_TEST(
      sample(cluster,
             R"(convoy_gateway_tokens_total{kind="completion",model="fake-model",source="computed"})") == 0);
  BOOST_TEST(
      sample(cluster, R"(convoy_gateway_first_token_seconds_count{model="fake-model",source="computed"})") ==
      0);
  BOOST_TEST(sample(cluster, "convoy_gateway_between_tokens_seconds_count") == 0);
}

BOOST_AUTO_TEST_CASE(a_refusal_for_overload_is_timed_whoever_found_that_there_are_too_many) {
  GatewayOptions options;
  options.readiness_period_ms = 60'000;
  Cluster cluster(options);
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, chat_path, chat_body());
  cluster.reject(cluster.asked().number, schema::Rejected::Reason::OVERLOADED, 100);
  BOOST_TEST(client.response().result_int() == 503u);
  await_sample(cluster, "convoy_gateway_refusal_seconds_count", 1);
  BOOST_TEST(client.post(chat_path, "this is not JSON").result_int() == 400u);
  cluster.pipeline_is_overloaded(true, 100);  // the gateway itself
  BOOST_TEST(client.post(chat_path, chat_body()).result_int() == 503u);
  await_sample(cluster, "convoy_gateway_refusal_seconds_count", 2);
  BOOST_TEST(sample(cluster, "convoy_gateway_refusal_seconds_sum") < 10);
}

BOOST_AUTO_TEST_CASE(a_request_counts_by_the_true_reason_of_its_end) {
  Cluster cluster;
  const auto counted = [](const std::string& reason, const std::string& status) {
    return R"(convoy_gateway_requests_total{endpoint="completions",reason=")" + reason + R"(",status=")" +
           status + "\"}";
  };
  const std::string body = R"({"model":"fake-model","prompt":"x","stream":true})";
  {
    Client leaves(cluster.gateway->port());
    leaves.ask(http::verb::post, completions_path, body);
    cluster.text(cluster.asked().number, 0, "abc");
    leaves.read_until("data: ");  // it has a status of 200 already
    leaves.vanish();
  }
  await_sample(cluster, counted("client_gone", "499"), 1);
  Client client(cluster.gateway->port());
  client.ask(http::verb::post, completions_path, body);
  cluster.reject(cluster.asked().number, schema::Rejected::Reason::OVERLOADED, 1);
  client.response();
  await_sample(cluster, counted("overloaded", "503"), 1);
  client.post(completions_path, R"({"model":"fake-model","prompt":"x","regex":"y"})");
  await_sample(cluster, counted("unsupported_parameter", "400"), 1);
  client.ask(http::verb::post, completions_path, body);
  const Asked cut = cluster.asked();
  cluster.text(cut.number, 0, "abc");
  client.read_until("data: ");
  cluster.finish(cut.number, 3, Reason::FAILED);
  boost::system::error_code ec;
  client.rest(ec);
  await_sample(cluster, counted("generation_failed", "503"), 1);
  BOOST_TEST(sample(cluster, counted("ok", "200")) == -1);
}

BOOST_AUTO_TEST_CASE(what_the_pipelines_say_of_themselves_is_in_the_metrics) {
  Cluster cluster;
  BOOST_TEST(sample(cluster, "convoy_ready") == 0);
  cluster.pipeline_says(true, "");
  await_sample(cluster, "convoy_ready", 1);
  BOOST_TEST(sample(cluster, R"(convoy_requests_running{model="fake-model",pipeline="main"})") == 0);
  BOOST_TEST(
      sample(cluster, "convoy_build_info{version=\"0.1.0\",commit=\"" + std::string(commit()) + "\"}") == 1);
  BOOST_TEST(sample(cluster, "process_open_fds") > 3);
}

BOOST_AUTO_TEST_CASE(every_request_leaves_one_line_that_says_how_it_ended) {
  const Captured log;
  Cluster cluster;
  Client client(cluster.gateway->port());
  const std::string peer = "127.0.0.1:" + std::to_string(client.socket().local_endpoint().port());
  client.ask(http::verb::post, chat_path, chat_body(R"("max_tokens":5)", "secret words"));
  const Asked asked = cluster.asked();
  cluster.accept(asked.number);
  cluster.text(asked.number, 0, "abcde");
  cluster.finish(asked.number, 5, Reason::LENGTH, false, 3);
  const std::string id(json::parse(client.response().body()).at("id").as_string());
  client.post(chat_path, chat_body(R"("n":0)", "secret words"));
  client.post(chat_path, R"({"model":"of another","messages":[{"role":"user","content":"secret words"}]})");
  client.get("/nowhere");
  client.send("nonsense\r\n\r\n");
  client.response();
  const auto lines = log.lines("request.end", 5);
  BOOST_TEST_REQUIRE(lines.size() == 5u);
  const std::string& answered = lines[0];
  for (const auto& [name, value] : std::map<std::string, std::string>{{"id", id},
                                                                      {"peer", peer},
                                                                      {"endpoint", "chat_completions"},
                                                                      {"model", "fake-model"},
                                                                      {"pipeline", "main"},
                                                                      {"status", "200"},
                                                                      {"reason", "ok"},
                                                                      {"finish", "length"},
                                                                      {"cache", "bypass"},
                                                                      {"prompt_tokens", "18"},
                                                                      {"completion_tokens", "5"},
                                                                      {"cached_tokens", "3"},
                                                                      {"preemptions", "0"},
                                                                      {"queue_ms", "0"},
                                                                      {"prefill_ms", "0"},
                                                                      {"decode_ms", "0"},
                                                                      {"preempted_ms", "0"}})
    BOOST_TEST(field(answered, name) == value, name << " in " << answered);
  for (const char* ms : {"first_token_ms", "total_ms"})
    BOOST_TEST(field(answered, ms).find_first_not_of("0123456789") == std::string::npos, answered);
  BOOST_TEST(field(lines[1], "status") == "400");
  BOOST_TEST(field(lines[1], "reason") == "invalid_value");
  BOOST_TEST(field(lines[2], "reason") == "model_not_found");
  BOOST_TEST(lines[2].find(R"(model="of another")") != std::string::npos);
  BOOST_TEST(field(lines[3], "status") == "404");
  BOOST_TEST(field(lines[4], "status") == "400");
  for (const std::string& line : lines) {
    BOOST_TEST(field(line, "peer") == peer);
    BOOST_TEST(line.find("secret") == std::string::npos);
  }
}

}  // namespace convoy::gateway::test
