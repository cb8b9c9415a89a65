// One request must not hold the others: what is long is worked on beside the threads that serve, ends when
// nobody waits for it, is refused at once if it cannot fit, and keeps nothing that it does not need.

#include <malloc.h>

#include <boost/test/unit_test.hpp>
#include <stop_token>

#include "test/gateway/fake_cluster.hpp"

namespace convoy::gateway::test {

namespace {

/// Encodes a prompt of more than 64 segments or 16 KB only once the test lets it.
class GatedTokenizer final : public ByteTokenizer {
 public:
  std::vector<int32_t> encode(std::span<const model::Segment> segments,
                              const std::stop_token& stop) const override {
    size_t bytes = 0;
    for (const auto& segment : segments) bytes += segment.text.size();
    std::unique_lock lock(mutex_);
    if (segments.size() > 64 || bytes > 16'384) {
      ++entered_;
      most_ = std::max(most_, entered_);
      changed_.notify_all();
      changed_.wait_for(lock, stop, convoy::test::patience, [&] { return open_; });
      --entered_;
      stopped_ += stop.stop_requested();
      changed_.notify_all();
    }
    lock.unlock();
    return ByteTokenizer::encode(segments, stop);
  }
  void open() {
    std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  bool entered(int count) const {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, convoy::test::patience, [&] { return entered_ == count; });
  }
  bool stopped(int count) const {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, convoy::test::patience, [&] { return stopped_ == count; });
  }
  int most() const {
    std::lock_guard lock(mutex_);
    return most_;
  }

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable_any changed_;
  mutable int entered_ = 0, most_ = 0, stopped_ = 0;
  bool open_ = false;
};

struct Gated {
  std::shared_ptr<GatedTokenizer> tokenizer = std::make_shared<GatedTokenizer>();
  Cluster cluster;
  explicit Gated(GatewayOptions options = {}) : cluster(options, model()) {}
  ~Gated() { tokenizer->open(); }
  uint16_t port() const { return cluster.gateway->port(); }

 private:
  ServedModel model() const {
    ServedModel model = fake_model(1'000'000);
    model.tokenizer = tokenizer;
    return model;
  }
};

std::string many_messages(size_t count, const std::string& more = {}) {
  std::string body = R"({"model":"fake-model","messages":[)";
  for (size_t i = 0; i < count; ++i)
    body += i ? R"(,{"role":"user","content":""})" : R"({"role":"user","content":""})";
  return body + "]" + more + "}";
}

std::string long_body() { return chat_body({}, std::string(100'000, 'x')); }

[[maybe_unused]] size_t bytes_in_use() {
  const auto info = ::mallinfo2();
  return info.uordblks + info.hblkhd;
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_long_request_holds_up_neither_liveness_nor_other_answers) {
  for (const std::string& body : {long_body(), many_messages(20'000)}) {
    Gated gated;  // one thread that serves
    Client longer(gated.port()), other(gated.port());
    longer.ask(http::verb::post, chat_path, body);
    BOOST_TEST_REQUIRE(gated.tokenizer->entered(1));
    BOOST_TEST(other.get("/livez").result_int() == 200u);
    other.ask(http::verb::post, chat_path, chat_body());
    gated.cluster.answer(gated.cluster.asked().number, "quick");
    BOOST_TEST(other.response().body().find("quick") != std::string::npos);
    gated.tokenizer->open();
    gated.cluster.answer(gated.cluster.asked().number, "long");
    BOOST_TEST(longer.response().body().find("long") != std::string::npos);
  }
}

BOOST_AUTO_TEST_CASE(long_requests_are_encoded_side_by_side_up_to_a_limit) {
  GatewayOptions options;
  options.encoder_threads = 2;
  Gated gated(options);
  std::deque<Client> clients;
  for (int i = 0; i < 4; ++i)
    clients.emplace_back(gated.port()).ask(http::verb::post, chat_path, long_body());
  BOOST_TEST(gated.tokenizer->entered(2));
  gated.tokenizer->open();
  for (int i = 0; i < 4; ++i) gated.cluster.answer(gated.cluster.asked().number, "done");
  for (Client& client : clients) BOOST_TEST(client.response().result_int() == 200u);
  BOOST_TEST(gated.tokenizer->most() == 2);
}

BOOST_AUTO_TEST_CASE(a_client_that_leaves_ends_the_encoding_of_its_request) {
  Gated gated;
  Client client(gated.port());
  client.ask(http::verb::post, chat_path, long_body());
  BOOST_TEST_REQUIRE(gated.tokenizer->entered(1));
  client.vanish();
  BOOST_TEST(gated.tokenizer->stopped(1));
  Client other(gated.port());
  other.ask(http::verb::post, chat_path, chat_body());
  BOOST_TEST(gated.cluster.asked().prompt == "|user:hi");  // the one that left was not mailed
}

BOOST_AUTO_TEST_CASE(shutting_down_ends_encodings_with_an_error) {
  Gated gated;
  Client client(gated.port());
  client.ask(http::verb::post, chat_path, long_body());
  BOOST_TEST_REQUIRE(gated.tokenizer->entered(1));
  gated.cluster.gateway.reset();
  const auto response = client.response();
  BOOST_TEST(response.result_int() == 503u);
  BOOST_TEST(parsed(response).at("error").at("code").as_string() == "shutting_down");
}

BOOST_AUTO_TEST_CASE(a_prompt_that_cannot_fit_is_refused_before_it_is_encoded) {
  const auto tokenizer = std::make_shared<GatedTokenizer>();  // never opened: encoding would wait
  ServedModel model = fake_model(8192);
  model.tokenizer = tokenizer;
  Cluster cluster({}, model);
  Client client(cluster.gateway->port());
  for (const std::string& body : {many_messages(100'000), chat_body({}, std::string(160'000, 'x'))}) {
    const auto response = client.post(chat_path, body);
    BOOST_TEST(response.result_int() == 400u);
    const auto error = parsed(response).at("error");
    BOOST_TEST(error.at("code").as_string() == "context_length_exceeded");
    BOOST_TEST(error.at("param").as_string() == "messages");
  }
  BOOST_TEST(tokenizer->most() == 0);
}

BOOST_AUTO_TEST_CASE(a_prompt_that_just_fits_is_not_refused_for_its_length) {
  Cluster cluster({}, fake_model(200));
  Client client(cluster.gateway->port());
  const std::string text = R"({"model":"fake-model","max_tokens":1,"prompt":")";
  client.ask(http::verb::post, "/v1/completions", text + std::string(199, 'x') + "\"}");
  cluster.answer(cluster.asked().number, "");
  BOOST_TEST(client.response().result_int() == 200u);
  const auto none_left = client.post("/v1/completions", text + std::string(200, 'x') + "\"}");
  BOOST_TEST(none_left.result_int() == 400u);
  BOOST_TEST(none_left.body().find("has 200 tokens, which leaves no room") != std::string::npos);
}

// Sanitizers have allocators of their own, which count nothing.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
BOOST_AUTO_TEST_CASE(a_request_under_way_does_not_keep_its_body) {
  GatewayOptions options;
  options.body_bytes_max = 8 << 20;
  Cluster cluster(options, fake_model(100'000'000), std::string(32, 's'));
  constexpr size_t requests = 8, messages = 100'000;  // 2.9 MB each
  const std::string body = many_messages(messages, R"(,"seed":1)");
  std::deque<Client> clients;
  for (size_t i = 0; i < requests; ++i) clients.emplace_back(cluster.gateway->port());
  clients[0].ask(http::verb::post, chat_path, body);  // what is allocated once is not counted
  cluster.generates.take();
  const size_t before = bytes_in_use();
  for (size_t i = 1; i < requests; ++i) {
    clients[i].ask(http::verb::post, chat_path, body);
    cluster.generates.take();  // and its tokens with it
  }
  const auto held_now = [&] {
    const size_t now = bytes_in_use();
    return (now - std::min(before, now)) / (requests - 1);
  };
  // The last frame's mail may still be on its way out of the actor that got it.
  BOOST_TEST(convoy::test::comes_true([&] { return held_now() < body.size() / 8; }),
             held_now() << " bytes a request");
}
#endif

}  // namespace convoy::gateway::test
