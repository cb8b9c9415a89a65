#pragma once
// An answer cache between a fake gateway and a fake router, with a real redis-server of its own.

#include <hiredis/hiredis.h>
#include <prometheus/registry.h>
#include <signal.h>

#include <boost/test/unit_test.hpp>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <filesystem>
#include <mutex>
#include <thread>
#include <variant>

#include "actors/cache/answer_cache.hpp"
#include "actors/cache/redis_server.hpp"
#include "test/patience.hpp"

namespace rig {

using namespace convoy;
using namespace convoy::actors;
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

/// What arrived at a fake actor, in order.
struct Inbox {
  using Mail = std::variant<Frame<msg::Generate>, Frame<msg::Tokens>, Frame<msg::Finished>>;
  struct Item {
    Mail mail;
    Clock::time_point at;
  };
  void put(Mail mail) {
    const std::lock_guard lock(mutex);
    items.push_back({std::move(mail), Clock::now()});
    arrived.notify_all();
  }
  Item take() {
    std::unique_lock lock(mutex);
    if (!arrived.wait_for(lock, test::patience, [&] { return !items.empty(); }))
      BOOST_FAIL("nothing arrived");
    auto item = std::move(items.front());
    items.pop_front();
    return item;
  }
  bool empty() {
    const std::lock_guard lock(mutex);
    return items.empty();
  }
  std::mutex mutex;
  std::condition_variable arrived;
  std::deque<Item> items;
};

inline RouterActor::behavior_type fake_router(RouterActor::pointer, Inbox* inbox) {
  return {[inbox](const Frame<msg::Generate>& f) { inbox->put(f); }, [](const Frame<msg::Cancel>&) {},
          [](const AddPipeline&) {}, [](const Frame<msg::PipelineState>&) {}, [](const GatewayUp&) {}};
}

inline GatewayActor::behavior_type fake_gateway(GatewayActor::pointer, Inbox* inbox) {
  return {[](const Frame<msg::Accepted>&) {},
          [](const Frame<msg::Rejected>&) {},
          [](const Frame<msg::StepTokens>&) {},
          [inbox](const Frame<msg::Tokens>& f) { inbox->put(f); },
          [inbox](const Frame<msg::Finished>& f) { inbox->put(f); },
          [](const Frame<msg::PipelineState>&) {},
          [](const Frame<msg::GatewayTerms>&) {},
          [](const Frame<msg::GatewayKeys>&) {},
          [](const Frame<msg::Shutdown>&) {}};
}

inline Frame<msg::Generate> request(uint64_t number, const std::string& key) {
  schema::FrameBuilder<msg::Generate> builder;
  builder->initReplyTo().setRequest(number);
  builder->getReplyTo().setNode("node1");
  builder->setAttempt(3);
  builder->setCacheKey(kj::arrayPtr(reinterpret_cast<const kj::byte*>(key.data()), key.size()));
  return std::move(builder).finish();
}

inline Frame<msg::Store> store(const std::string& key, unsigned tokens,
                               msg::Finished::Reason reason = msg::Finished::Reason::STOP) {
  schema::FrameBuilder<msg::Store> builder;
  builder->setCacheKey(kj::arrayPtr(reinterpret_cast<const kj::byte*>(key.data()), key.size()));
  auto answer = builder->initAnswer();
  answer.setReason(reason);
  auto list = answer.initTokens(tokens);
  for (unsigned i = 0; i < tokens; ++i) {
    list[i].setId(static_cast<int>(100 + i));
    list[i].setLogprob(-0.5f);
    list[i].initTop(1)[0].setId(7);
  }
  return std::move(builder).finish();
}

inline std::string key_of(char c) { return std::string(32, c); }

/// For tests that are not about time: a loaded machine may be slow.
inline CacheOptions patient(uint32_t timeout_ms = test::patience_ms) {
  CacheOptions options;
  options.timeout_ms = timeout_ms;
  options.store_timeout_ms = test::patience_ms;
  options.circuit_retry_ms = 600'000;  // no background probes
  return options;
}

/// A cache between a fake gateway and a fake router, and its Redis.
struct Fixture {
  explicit Fixture(CacheOptions options = patient()) {
    std::string pattern = fs::temp_directory_path() / "convoy-cache-XXXXXX";
    folder = ::mkdtemp(pattern.data());
    RedisServerOptions server_options;
    server_options.run_dir = folder;
    server.emplace(server_options);
    server->start();
    options.redis_url = server->url();
    options.secret = std::string(32, 's');
    router = system.spawn(fake_router, &to_router);
    gateway = system.spawn(fake_gateway, &to_gateway);
    registry = std::make_shared<prometheus::Registry>();
    cache.emplace(system, options, router, GatewaysByNode{{"node1", gateway}}, registry);
  }
  ~Fixture() {
    cache.reset();
    server.reset();
    fs::remove_all(folder);
  }

  /// The value of a counter or gauge; result: of that label's value, or of the metric without labels.
  double metric(const std::string& name, const std::string& result = "") {
    for (const auto& family : registry->Collect())
      if (family.name == name)
        for (const auto& m : family.metric)
          if ((m.label.empty() ? "" : m.label[0].value) == result)
            return family.type == prometheus::MetricType::Gauge ? m.gauge.value : m.counter.value;
    BOOST_FAIL("no metric " + name);
    return 0;
  }
  void await_metric(const std::string& name, const std::string& result, double at_least) {
    BOOST_REQUIRE_MESSAGE(test::comes_true([&] { return metric(name, result) >= at_least; }),
                          name << " " << result << " stays below " << at_least);
  }

  /// Sends a request that must reach the router; returns the milliseconds that took.
  double miss_ms(uint64_t number, const std::string& key) {
    const auto frame = request(number, key);
    const auto start = Clock::now();
    mail(cache->actor(), frame);
    const auto item = to_router.take();
    const auto& passed = std::get<Frame<msg::Generate>>(item.mail);
    BOOST_CHECK_EQUAL(passed.bytes().get(), frame.bytes().get());  // the frame itself, not a copy
    BOOST_CHECK(to_gateway.empty());
    return std::chrono::duration<double, std::milli>(item.at - start).count();
  }
  /// Sends a request that must be answered with that many stored tokens.
  void hit(uint64_t number, const std::string& key, unsigned tokens) {
    mail(cache->actor(), request(number, key));
    for (unsigned got = 0; got < tokens;) {
      const auto part = to_gateway.take();
      const schema::Reading answer(std::get<Frame<msg::Tokens>>(part.mail));
      BOOST_CHECK_EQUAL(answer->getRequest(), number);
      BOOST_CHECK_EQUAL(answer->getAttempt(), 3u);
      BOOST_CHECK_EQUAL(answer->getFirstIndex(), got);
      BOOST_CHECK(answer->getFromCache());
      const auto list = answer->getTokens();
      BOOST_REQUIRE(list.size() > 0 && list.size() <= 1024);  // what a control frame takes
      for (unsigned i = 0; i < list.size(); ++i, ++got) {
        BOOST_CHECK_EQUAL(list[i].getId(), static_cast<int>(100 + got));
        BOOST_CHECK_EQUAL(list[i].getTop()[0].getId(), 7);
      }
    }
    const auto last = to_gateway.take();
    const schema::Reading end(std::get<Frame<msg::Finished>>(last.mail));
    BOOST_CHECK_EQUAL(end->getRequest(), number);
    BOOST_CHECK_EQUAL(end->getAttempt(), 3u);
    BOOST_CHECK_EQUAL(end->getTokens(), tokens);
    BOOST_CHECK(end->getReason() == msg::Finished::Reason::STOP);
    BOOST_CHECK(end->getFromCache());
    BOOST_CHECK(to_router.empty());
  }
  void keep(const std::string& key, unsigned tokens) {
    const double before = metric("convoy_cache_stores_total", "stored");
    mail(cache->actor(), store(key, tokens));
    await_metric("convoy_cache_stores_total", "stored", before + 1);
  }
  /// One command to Redis from beside, as its text.
  std::string redis(std::initializer_list<std::string> arguments) {
    const std::unique_ptr<redisContext, decltype(&redisFree)> context(
        redisConnectUnix(server->socket_path().c_str()), &redisFree);
    std::vector<const char*> texts;
    std::vector<size_t> sizes;
    for (const auto& a : arguments) texts.push_back(a.data()), sizes.push_back(a.size());
    const std::unique_ptr<void, decltype(&freeReplyObject)> reply(
        redisCommandArgv(context.get(), static_cast<int>(texts.size()), texts.data(), sizes.data()),
        &freeReplyObject);
    BOOST_REQUIRE(reply);
    const auto* r = static_cast<redisReply*>(reply.get());
    if (r->type == REDIS_REPLY_ARRAY) return r->elements == 0 ? "" : r->element[0]->str;
    return r->type == REDIS_REPLY_INTEGER ? std::to_string(r->integer)
           : r->str                       ? std::string(r->str, r->len)
                                          : "";
  }

  caf::actor_system_config config;
  caf::actor_system system{config};
  Inbox to_router, to_gateway;
  std::string folder;
  std::optional<RedisServer> server;
  RouterActor router;
  GatewayActor gateway;
  std::shared_ptr<prometheus::Registry> registry;
  std::optional<AnswerCache> cache;
};

}  // namespace rig
