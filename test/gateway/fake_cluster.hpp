#pragma once
// A gateway with a cluster that the test plays: what cache and router get lies in inboxes, and the test mails
// the answers. And a plain blocking HTTP client.

#include <prometheus/registry.h>
#include <boost/asio.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/beast.hpp>
#include <boost/json.hpp>
#include <boost/test/unit_test.hpp>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "gateway/gateway.hpp"
#include "gateway/gateway_actor.hpp"
#include "gateway/heard_keys.hpp"
#include "test/gateway/fake_model.hpp"
#include "test/gateway/test_certificate.hpp"
#include "test/patience.hpp"

namespace convoy::gateway::test {

namespace asio = boost::asio;
namespace http = boost::beast::http;
namespace json = boost::json;
using namespace std::chrono_literals;
using schema::Frame;
using schema::FrameBuilder;
using schema::Reading;
using Reason = schema::Finished::Reason;

template <class T>
class Inbox {
 public:
  void put(Frame<T> frame) {
    std::lock_guard lock(mutex_);
    frames_.push_back(std::move(frame));
    more_.notify_all();
  }
  std::optional<Frame<T>> wait(std::chrono::milliseconds limit) {
    std::unique_lock lock(mutex_);
    if (!more_.wait_for(lock, limit, [&] { return !frames_.empty(); })) return {};
    Frame<T> frame = std::move(frames_.front());
    frames_.pop_front();
    return frame;
  }
  Frame<T> take() {
    auto frame = wait(convoy::test::patience);
    if (!frame) BOOST_FAIL("nothing arrived in the inbox");
    return *frame;
  }
  bool stays_empty(std::chrono::milliseconds time) { return !wait(time); }

 private:
  std::mutex mutex_;
  std::condition_variable more_;
  std::deque<Frame<T>> frames_;
};

/// What the gateway asked for, taken apart.
struct Asked {
  uint64_t number = 0;
  uint32_t max_tokens = 0;
  std::string model, prompt, cache_key;
  std::vector<int32_t> end_tokens;
  float temperature = 0;
  uint64_t seed = 0;
  std::string tenant, salt;
  uint32_t priority = 0, drafts = 0, attempt = 0;
  std::string generated;
};

class Cluster {
 public:
  explicit Cluster(GatewayOptions options = {}, const ServedModels& models = fake_model(),
                   std::string cache_secret = {}) {
    options.node = "node1";
    options.port = 0;
    if (over_tls() && options.tls_certificate.empty()) {
      options.tls_certificate = test_certificate().certificate;
      options.tls_key = test_certificate().key;
    }
    spawn_neighbours();
    gateway.emplace(system, options, models, std::make_shared<prometheus::Registry>());
    const bool caches = !cache_secret.empty();
    gateway->serve(cache, router, std::move(cache_secret));
    if (caches) stages_compute_with({"fake"});
  }
  /// A gateway in a process of its own: nobody is there before head_is_up().
  struct Afar {
    std::shared_ptr<HeardKeys> keys = nullptr;
  };
  Cluster(const Afar& afar, GatewayOptions options) {
    options.node = "node1";
    options.port = 0;
    if (over_tls()) {
      options.tls_certificate = test_certificate().certificate;
      options.tls_key = test_certificate().key;
    }
    spawn_neighbours();
    HeadSays says;
    says.terms = [](const auto&) { return true; };
    Line line = open_line(system, "node1", std::chrono::minutes(10), {}, says);
    mailroom = line.mailroom;
    gateway.emplace(system, options, fake_model(), std::make_shared<prometheus::Registry>(), std::move(line),
                    afar.keys);
    gateway->serve("");
  }
  void spawn_neighbours() {
    cache = system.spawn([this](actors::CacheActor::pointer) -> actors::CacheActor::behavior_type {
      return {[this](const Frame<schema::Generate>& f) { generates.put(f); },
              [this](const Frame<schema::Store>& f) { stores.put(f); }, [](const actors::GatewayUp&) {}};
    });
    router = system.spawn([this](actors::RouterActor::pointer) -> actors::RouterActor::behavior_type {
      return {[](const Frame<schema::Generate>&) {},
              [this](const Frame<schema::Cancel>& f) { cancels.put(f); },
              [](const Frame<schema::PipelineState>&) {}, [](const actors::AddPipeline&) {},
              [](const actors::GatewayUp&) {}};
    });
  }
  /// Its pipeline takes requests at once, or later. Returns when the gateway knows it.
  void head_is_up(bool accepts = true) {
    caf::anon_send(mailroom, HeadUp{cache, router});
    actors::mail(gateway->actor(), FrameBuilder<schema::GatewayTerms>().finish());
    if (accepts) pipeline_accepts();
  }
  void pipeline_accepts() {
    FrameBuilder<schema::PipelineState> b;
    b->setName("main");
    b->setModel("fake-model");
    b->setReady(true);
    b->setAccepting(true);
    caf::scoped_actor self(system);
    self->request(gateway->actor(), convoy::test::patience, std::move(b).finish())
        .receive([] {}, [](const caf::error&) { BOOST_ERROR("the gateway does not listen"); });
  }
  /// As a pipeline does, until somebody asks.
  Asked asked_by_one_that_waits() {
    for (;;) {
      pipeline_accepts();
      if (const auto frame = generates.wait(20ms)) return taken_apart(*frame);
    }
  }
  void head_is_gone() { caf::anon_send(mailroom, HeadAway{"its cable is out"}); }
  ~Cluster() {
    gateway.reset();
    // Before the inboxes, into which they may be putting what came last.
    actors::end_and_wait(system, cache, router);
  }

  Asked asked() { return taken_apart(generates.take()); }
  static Asked taken_apart(const Frame<schema::Generate>& frame) {
    Reading g(frame);
    BOOST_TEST(g->getReplyTo().getNode().cStr() == std::string("node1"));
    Asked a;
    a.number = g->getReplyTo().getRequest();
    a.model = g->getModel();
    a.max_tokens = g->getMaxTokens();
    for (int32_t id : g->getTokens()) a.prompt += id < 256 ? std::string(1, static_cast<char>(id)) : "|";
    for (int32_t id : g->getSampling().getEndTokens()) a.end_tokens.push_back(id);
    a.temperature = g->getSampling().getTemperature();
    a.seed = g->getSampling().getSeed();
    a.tenant = g->getTenant();
    a.salt = g->getSalt();
    a.priority = g->getPriority();
    a.drafts = g->getDrafts();
    a.attempt = g->getAttempt();
    for (int32_t id : g->getGenerated()) a.generated += static_cast<char>(id);
    a.cache_key.assign(reinterpret_cast<const char*>(g->getCacheKey().begin()), g->getCacheKey().size());
    return a;
  }

  void accept(uint64_t number, uint32_t attempt = 0) {
    FrameBuilder<schema::Accepted> b;
    b->setName("main");
    b->setRequest(number);
    b->setAttempt(attempt);
    actors::mail(gateway->actor(), std::move(b).finish());
  }
  void reject(uint64_t number, schema::Rejected::Reason reason, uint32_t retry_after_ms,
              uint32_t attempt = 0) {
    FrameBuilder<schema::Rejected> b;
    b->setAttempt(attempt);
    b->setRequest(number);
    b->setReason(reason);
    b->setMessage("full");
    b->setRetryAfterMs(retry_after_ms);
    actors::mail(gateway->actor(), std::move(b).finish());
  }
  void tokens(uint64_t number, uint32_t first, const std::vector<int32_t>& ids, bool from_cache = false,
              uint32_t attempt = 0) {
    FrameBuilder<schema::Tokens> b(1024 + ids.size() * 8);
    b->setRequest(number);
    b->setAttempt(attempt);
    b->setFirstIndex(first);
    b->setFromCache(from_cache);
    auto list = b->initTokens(static_cast<unsigned>(ids.size()));
    for (unsigned i = 0; i < list.size(); ++i) list[i].setId(ids[i]);
    actors::mail(gateway->actor(), std::move(b).finish());
  }
  void text(uint64_t number, uint32_t first, std::string_view text, bool from_cache = false) {
    tokens(number, first, ids(text), from_cache);
  }
  void finish(uint64_t number, uint32_t count, Reason reason = Reason::STOP, bool from_cache = false,
              uint32_t cached_tokens = 0, uint32_t attempt = 0) {
    FrameBuilder<schema::Finished> b;
    b->setAttempt(attempt);
    b->setRequest(number);
    b->setReason(reason);
    b->setTokens(count);
    b->setMessage("stage 1 is gone");
    b->setFromCache(from_cache);
    b->initFacts().setCachedTokens(cached_tokens);
    actors::mail(gateway->actor(), std::move(b).finish());
  }
  /// What a step gave: a character to each of these, and the ends of those whose length this completes.
  struct Part {
    uint64_t number;
    uint32_t first;
    char character;
    bool ends = false;
  };
  void step(const std::vector<Part>& parts) {
    FrameBuilder<schema::StepTokens> b;
    auto answers = b->initAnswers(static_cast<unsigned>(parts.size()));
    const auto ends = std::count_if(parts.begin(), parts.end(), [](const Part& part) { return part.ends; });
    auto finishes = b->initFinished(static_cast<unsigned>(ends));
    auto end = finishes.begin();
    for (unsigned i = 0; i < parts.size(); ++i) {
      answers[i].setRequest(parts[i].number);
      answers[i].setFirstIndex(parts[i].first);
      answers[i].initTokens(1)[0].setId(static_cast<unsigned char>(parts[i].character));
      if (!parts[i].ends) continue;
      auto finished = *end++;
      finished.setRequest(parts[i].number);
      finished.setReason(Reason::LENGTH);
      finished.setTokens(parts[i].first + 1);
    }
    actors::mail(gateway->actor(), std::move(b).finish());
  }
  /// A whole answer: the text byte by byte, then the end token.
  void answer(uint64_t number, std::string_view text) {
    accept(number);
    uint32_t i = 0;
    for (char c : text) tokens(number, i++, {static_cast<unsigned char>(c)});
    tokens(number, i, {end_token});
    finish(number, i + 1);
  }
  /// Returns when the gateway knows it.
  void stages_compute_with(const std::vector<std::string>& variants) {
    FrameBuilder<schema::PipelineState> b;
    b->setName("main");
    b->setModel("fake-model");
    b->setReady(true);
    auto stages = b->initStages(static_cast<unsigned>(variants.size()));
    for (unsigned i = 0; i < variants.size(); ++i) stages[i].setKernelVariant(variants[i]);
    caf::scoped_actor self(system);
    self->request(gateway->actor(), convoy::test::patience, std::move(b).finish())
        .receive([] {}, [](const caf::error&) { BOOST_ERROR("the gateway does not listen"); });
  }
  /// Returns when the gateway knows it.
  void pipeline_is_overloaded(bool overloaded, uint32_t retry_after_ms = 0) {
    FrameBuilder<schema::PipelineState> b;
    b->setName("main");
    b->setModel("fake-model");
    b->setReady(true);
    b->setOverloaded(overloaded);
    b->setReason("9 are waiting");
    b->setRetryAfterMs(retry_after_ms);
    caf::scoped_actor self(system);
    self->request(gateway->actor(), convoy::test::patience, std::move(b).finish())
        .receive([] {}, [](const caf::error&) { BOOST_ERROR("the gateway does not listen"); });
  }
  void pipeline_says(bool ready, const char* reason) {
    FrameBuilder<schema::PipelineState> b;
    b->setName("main");
    b->setModel("fake-model");
    b->setReady(ready);
    b->setReason(reason);
    actors::mail(gateway->actor(), std::move(b).finish());
  }
  uint64_t cancelled() {
    const auto frame = cancels.take();
    return Reading(frame)->getReplyTo().getRequest();
  }
  static std::vector<int32_t> ids(std::string_view text) {
    std::vector<int32_t> ids;
    for (char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }

  caf::actor_system_config config;
  caf::actor_system system{config};
  Inbox<schema::Generate> generates;
  Inbox<schema::Store> stores;
  Inbox<schema::Cancel> cancels;
  actors::CacheActor cache;
  actors::RouterActor router;
  std::optional<Gateway> gateway;
  MailroomActor mailroom;  // of Afar
};

/// One blocking connection; a read that gets nothing for long fails. Over TLS if all are, or from encrypt()
/// on.
class Client {
 public:
  using Response = http::response<http::string_body>;
  using Tls = asio::ssl::stream<asio::ip::tcp::socket&>;
  explicit Client(uint16_t port, int receive_buffer_bytes = 0) : Client(port, Plain{}, receive_buffer_bytes) {
    if (over_tls()) encrypt(test_certificate().trusting());
  }
  struct Plain {};
  Client(uint16_t port, Plain, int receive_buffer_bytes = 0) : socket_(io_, asio::ip::tcp::v4()) {
    if (receive_buffer_bytes)
      socket_.set_option(asio::socket_base::receive_buffer_size(receive_buffer_bytes));
    socket_.connect({asio::ip::address_v4::loopback(), port});
    const timeval limit{convoy::test::patience.count(), 0};
    ::setsockopt(socket_.native_handle(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  }
  Tls& encrypt(asio::ssl::context context) {
    context_.emplace(std::move(context));
    tls_.emplace(socket_, *context_);
    tls_->handshake(Tls::client);
    return *tls_;
  }
  /// Does it on what is read and written.
  template <class Do>
  auto on_stream(Do&& what) {
    return tls_ ? what(*tls_) : what(socket_);
  }
  void send(const std::string& bytes) {
    on_stream([&](auto& stream) { return asio::write(stream, asio::buffer(bytes)); });
  }
  void ask(http::verb verb, const std::string& target, const std::string& body = {},
           const std::string& extra_header = {}) {
    std::string text =
        std::string(http::to_string(verb)) + " " + target + " HTTP/1.1\r\nHost: localhost\r\n" + extra_header;
    if (!key.empty()) text += "Authorization: Bearer " + key + "\r\n";
    if (verb == http::verb::post) text += "Content-Length: " + std::to_string(body.size()) + "\r\n";
    send(text + "\r\n" + body);
  }
  Response response(bool head = false) {
    http::response_parser<http::string_body> parser;
    parser.skip(head);
    parser.body_limit(64 << 20);
    on_stream([&](auto& stream) { return http::read(stream, buffer_, parser); });
    return parser.release();
  }
  Response get(const std::string& target) {
    ask(http::verb::get, target);
    return response();
  }
  Response post(const std::string& target, const std::string& body, const std::string& extra_header = {}) {
    ask(http::verb::post, target, body, extra_header);
    return response();
  }
  /// Everything until the connection ends; `ec`: how.
  std::string rest(boost::system::error_code& ec) {
    std::string text(boost::beast::buffers_to_string(buffer_.data()));
    on_stream([&](auto& stream) { return asio::read(stream, asio::dynamic_buffer(text), ec); });
    return text;
  }
  /// Bytes until `text` holds the mark.
  std::string read_until(std::string_view mark) {
    std::string text;
    char piece[4096];
    while (text.find(mark) == std::string::npos)
      text.append(piece, on_stream([&](auto& stream) { return stream.read_some(asio::buffer(piece)); }));
    return text;
  }
  void vanish() {
    socket_.set_option(asio::socket_base::linger(true, 0));
    socket_.close();
  }
  void close() { socket_.close(); }
  std::string key;  // that it shows from now on
  asio::ip::tcp::socket& socket() { return socket_; }

 private:
  asio::io_context io_;
  asio::ip::tcp::socket socket_;
  std::optional<asio::ssl::context> context_;
  std::optional<Tls> tls_;
  boost::beast::flat_buffer buffer_;
};

inline const std::string chat_path = "/v1/chat/completions", completions_path = "/v1/completions";

inline json::value parsed(const Client::Response& response) { return json::parse(response.body()); }

/// The data of the server-sent events in a body; [DONE] as it is.
inline std::vector<std::string> events_of(const std::string& body) {
  std::vector<std::string> events;
  size_t at = 0;
  while (at < body.size()) {
    const size_t end = body.find("\n\n", at);
    BOOST_TEST_REQUIRE(end != std::string::npos);
    BOOST_TEST_REQUIRE(body.compare(at, 6, "data: ") == 0);
    events.push_back(body.substr(at + 6, end - at - 6));
    at = end + 2;
  }
  return events;
}

inline std::string chat_body(const std::string& more = {}, const std::string& text = "hi") {
  return R"({"model":"fake-model","messages":[{"role":"user","content":")" + text + "\"}]" +
         (more.empty() ? "" : "," + more) + "}";
}

}  // namespace convoy::gateway::test
