// The answer cache against a real redis-server of its own: hits, misses, and a Redis that is stopped, killed
// or lies.

#include "actors/answer_cache.hpp"

#include <hiredis/hiredis.h>
#include <prometheus/registry.h>
#include <signal.h>

#include <boost/test/unit_test.hpp>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <filesystem>
#include <mutex>
#include <sstream>
#include <thread>
#include <variant>

#include "actors/redis_server.hpp"
#include "actors/secret.hpp"

using namespace convoy;
using namespace convoy::actors;
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

namespace {

constexpr int patience_ms = 5000;  // for what must happen at some time
constexpr int noise_ms = 20;       // what the scheduler of a loaded machine may add to a time-out

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
    if (!arrived.wait_for(lock, milliseconds(patience_ms), [&] { return !items.empty(); }))
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

RouterActor::behavior_type fake_router(RouterActor::pointer, Inbox* inbox) {
  return {[inbox](const Frame<msg::Generate>& f) { inbox->put(f); }, [](const Frame<msg::Cancel>&) {},
          [](const AddPipeline&) {}, [](const Frame<msg::PipelineState>&) {}};
}

GatewayActor::behavior_type fake_gateway(GatewayActor::pointer, Inbox* inbox) {
  return {[](const Frame<msg::Accepted>&) {}, [](const Frame<msg::Rejected>&) {},
          [inbox](const Frame<msg::Tokens>& f) { inbox->put(f); },
          [inbox](const Frame<msg::Finished>& f) { inbox->put(f); }, [](const Frame<msg::PipelineState>&) {}};
}

Frame<msg::Generate> request(uint64_t number, const std::string& key) {
  schema::FrameBuilder<msg::Generate> builder;
  builder->initReplyTo().setRequest(number);
  builder->setAttempt(3);
  builder->setCacheKey(kj::arrayPtr(reinterpret_cast<const kj::byte*>(key.data()), key.size()));
  return std::move(builder).finish();
}

Frame<msg::Store> store(const std::string& key, unsigned tokens,
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

std::string key_of(char c) { return std::string(32, c); }

/// For tests that are not about time: a loaded machine may be slow.
CacheOptions patient(uint32_t timeout_ms = 2000) {
  CacheOptions options;
  options.timeout_ms = timeout_ms;
  options.store_timeout_ms = 2000;
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
    cache.emplace(system, options, router, gateway, registry);
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
    const auto give_up = Clock::now() + milliseconds(patience_ms);
    while (metric(name, result) < at_least && Clock::now() < give_up)
      std::this_thread::sleep_for(milliseconds(2));
    BOOST_REQUIRE_GE(metric(name, result), at_least);
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
    const auto first = to_gateway.take(), last = to_gateway.take();
    const schema::Reading answer(std::get<Frame<msg::Tokens>>(first.mail));
    BOOST_CHECK_EQUAL(answer->getRequest(), number);
    BOOST_CHECK_EQUAL(answer->getAttempt(), 3u);
    BOOST_CHECK_EQUAL(answer->getFirstIndex(), 0u);
    BOOST_CHECK(answer->getFromCache());
    const auto list = answer->getTokens();
    BOOST_REQUIRE_EQUAL(list.size(), tokens);
    for (unsigned i = 0; i < tokens; ++i) {
      BOOST_CHECK_EQUAL(list[i].getId(), static_cast<int>(100 + i));
      BOOST_CHECK_EQUAL(list[i].getTop()[0].getId(), 7);
    }
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

}  // namespace

BOOST_AUTO_TEST_CASE(a_stored_answer_is_a_hit_with_all_its_tokens) {
  Fixture f;
  f.miss_ms(1, key_of('a'));
  BOOST_CHECK_EQUAL(f.metric("convoy_cache_lookups_total", "miss"), 1);
  f.keep(key_of('a'), 5);
  f.hit(2, key_of('a'), 5);
  f.hit(3, key_of('a'), 5);
  f.keep(key_of('b'), 3000);
  f.hit(4, key_of('b'), 3000);
  f.miss_ms(5, key_of('c'));
  BOOST_CHECK_EQUAL(f.metric("convoy_cache_lookups_total", "hit"), 3);
  BOOST_CHECK_EQUAL(f.cache->health().state, std::string("up"));
}

BOOST_AUTO_TEST_CASE(a_request_without_a_key_goes_straight_to_the_router) {
  Fixture f;
  f.miss_ms(1, "");
  for (const char* result : {"hit", "miss", "timeout", "error", "open", "busy"})
    BOOST_CHECK_EQUAL(f.metric("convoy_cache_lookups_total", result), 0);
}

BOOST_AUTO_TEST_CASE(what_lies_in_redis_is_sealed_and_has_a_time_to_live) {
  CacheOptions options = patient();
  options.ttl_ms = 5000;
  Fixture f(options);
  f.keep(key_of('a'), 100);
  const std::string name = f.redis({"KEYS", "*"});
  BOOST_CHECK(name == "convoy:1:" + [] {
    std::string s;
    for (int i = 0; i < 32; ++i) s += "61";
    return s;
  }());
  const std::string value = f.redis({"GET", name});
  BOOST_CHECK_GT(value.size(), 100u);
  BOOST_CHECK(value.find(std::string("\x64\0\0\0", 4)) == std::string::npos);  // the first token's id
  const int left_ms = std::stoi(f.redis({"PTTL", name}));
  BOOST_CHECK(left_ms > 0 && left_ms <= 5000);
}

BOOST_AUTO_TEST_CASE(an_answer_lives_no_longer_than_its_time_to_live) {
  CacheOptions options = patient();
  options.ttl_ms = 50;
  Fixture f(options);
  f.keep(key_of('a'), 5);
  std::this_thread::sleep_for(milliseconds(80));
  f.miss_ms(1, key_of('a'));
}

BOOST_AUTO_TEST_CASE(a_value_that_was_changed_or_moved_is_a_miss_and_deleted) {
  Fixture f;
  f.keep(key_of('a'), 5);
  const std::string name = f.redis({"KEYS", "*"});
  std::string value = f.redis({"GET", name});
  const std::string other = "convoy:1:" + [] {
    std::string s;
    for (int i = 0; i < 32; ++i) s += "62";
    return s;
  }();
  f.redis({"SET", other, value});  // another request's answer
  value[value.size() / 2] ^= 1;
  f.redis({"SET", name, value});
  f.miss_ms(1, key_of('a'));
  f.miss_ms(2, key_of('b'));
  BOOST_CHECK_EQUAL(f.metric("convoy_cache_lookups_total", "miss"), 2);
  f.await_metric("convoy_cache_discarded_total", "", 2);
  f.miss_ms(3, key_of('c'));  // behind the deletions on the same connection
  BOOST_CHECK_EQUAL(f.redis({"DBSIZE"}), "0");
  f.keep(key_of('a'), 5);
  f.hit(4, key_of('a'), 5);
}

BOOST_AUTO_TEST_CASE(incomplete_and_oversized_answers_are_never_stored) {
  CacheOptions options = patient();
  options.entry_bytes_max = 4096;
  Fixture f(options);
  mail(f.cache->actor(), store(key_of('a'), 5, msg::Finished::Reason::CANCELLED));
  mail(f.cache->actor(), store(key_of('a'), 5, msg::Finished::Reason::FAILED));
  mail(f.cache->actor(), store(key_of('a'), 0));
  mail(f.cache->actor(), store(key_of('a'), 1000));
  mail(f.cache->actor(), store("short key", 5));
  f.await_metric("convoy_cache_stores_total", "refused", 5);
  f.miss_ms(1, key_of('a'));
  BOOST_CHECK_EQUAL(f.redis({"DBSIZE"}), "0");
}

BOOST_AUTO_TEST_CASE(a_stopped_redis_costs_the_timeout_until_the_circuit_opens_and_nothing_after) {
  CacheOptions options = patient(CacheOptions().timeout_ms);
  options.circuit_failures = 3;
  Fixture f(options);
  f.keep(key_of('a'), 5);
  ::kill(f.server->pid(), SIGSTOP);
  double slowest_ms = 0, fastest_ms = 1000;
  for (uint64_t i = 0; i < 3; ++i) {
    const double ms = f.miss_ms(i, key_of('a'));
    slowest_ms = std::max(slowest_ms, ms);
    fastest_ms = std::min(fastest_ms, ms);
  }
  BOOST_TEST_MESSAGE("waited " << fastest_ms << " to " << slowest_ms << " ms");
  BOOST_CHECK_GE(fastest_ms, options.timeout_ms - 1.0);
  BOOST_CHECK_LE(fastest_ms, options.timeout_ms + noise_ms);
  BOOST_CHECK_LE(slowest_ms, options.timeout_ms + 10 * noise_ms);
  BOOST_CHECK_EQUAL(f.metric("convoy_cache_lookups_total", "timeout"), 3);
  BOOST_CHECK_EQUAL(f.metric("convoy_redis_circuit_open"), 1);
  BOOST_CHECK_EQUAL(f.metric("convoy_redis_circuit_opened_total"), 1);
  BOOST_CHECK_EQUAL(f.cache->health().state, std::string("slow"));
  fastest_ms = 1000;
  for (uint64_t i = 10; i < 30; ++i) fastest_ms = std::min(fastest_ms, f.miss_ms(i, key_of('a')));
  BOOST_CHECK_LT(fastest_ms, 2);
  BOOST_CHECK_EQUAL(f.metric("convoy_cache_lookups_total", "open"), 20);
  mail(f.cache->actor(), store(key_of('b'), 5));
  f.await_metric("convoy_cache_stores_total", "dropped", 1);
  ::kill(f.server->pid(), SIGCONT);
}

BOOST_AUTO_TEST_CASE(the_circuit_closes_again_when_redis_goes_on) {
  CacheOptions options = patient(200);
  options.circuit_retry_ms = 20;
  Fixture f(options);
  f.keep(key_of('a'), 5);
  ::kill(f.server->pid(), SIGSTOP);
  f.await_metric("convoy_redis_circuit_open", "", 1);  // found out in the background, at no request's cost
  BOOST_CHECK_EQUAL(f.metric("convoy_cache_lookups_total", "timeout"), 0);
  std::this_thread::sleep_for(milliseconds(300));  // a probe fails
  BOOST_CHECK_EQUAL(f.metric("convoy_redis_circuit_open"), 1);
  ::kill(f.server->pid(), SIGCONT);
  const auto give_up = Clock::now() + milliseconds(patience_ms);
  while (f.metric("convoy_redis_circuit_open") > 0 && Clock::now() < give_up)
    std::this_thread::sleep_for(milliseconds(2));
  f.hit(1, key_of('a'), 5);
  BOOST_CHECK_EQUAL(f.cache->health().state, std::string("up"));
}

BOOST_AUTO_TEST_CASE(late_replies_never_answer_later_requests) {
  CacheOptions options = patient(100);
  options.circuit_failures = 1000;  // every request asks
  Fixture f(options);
  f.keep(key_of('a'), 5);
  f.keep(key_of('b'), 9);
  ::kill(f.server->pid(), SIGSTOP);
  for (uint64_t i = 0; i < 4; ++i) f.miss_ms(i, key_of('a'));
  ::kill(f.server->pid(), SIGCONT);
  for (uint64_t i = 10; i < 30; ++i) f.hit(i, i % 2 ? key_of('a') : key_of('b'), i % 2 ? 5 : 9);
}

BOOST_AUTO_TEST_CASE(a_killed_redis_costs_no_time_and_is_used_again_when_it_is_back) {
  CacheOptions options = patient(200);
  options.circuit_retry_ms = 20;
  Fixture f(options);
  f.keep(key_of('a'), 5);
  const pid_t old = f.server->pid();
  ::kill(old, SIGKILL);
  double fastest_ms = 1000;
  for (uint64_t i = 0; i < 5; ++i) fastest_ms = std::min(fastest_ms, f.miss_ms(i, key_of('z')));
  BOOST_CHECK_LT(fastest_ms, 5);
  const auto give_up = Clock::now() + milliseconds(patience_ms);
  while ((f.server->pid() == old || f.server->pid() == 0 || f.cache->health().state != std::string("up") ||
          f.metric("convoy_redis_circuit_open") > 0) &&
         Clock::now() < give_up)
    std::this_thread::sleep_for(milliseconds(5));
  BOOST_CHECK_EQUAL(f.server->restarts(), 1u);
  f.miss_ms(10, key_of('a'));  // the new process has forgotten everything
  f.keep(key_of('a'), 6);
  f.hit(11, key_of('a'), 6);
}

BOOST_AUTO_TEST_CASE(more_requests_than_may_be_in_flight_go_on_without_the_cache) {
  CacheOptions options = patient(200);
  options.in_flight_max = 4;
  Fixture f(options);
  ::kill(f.server->pid(), SIGSTOP);
  for (uint64_t i = 0; i < 10; ++i) mail(f.cache->actor(), request(i, key_of('a')));
  for (int i = 0; i < 10; ++i) f.to_router.take();
  BOOST_CHECK_EQUAL(f.metric("convoy_cache_lookups_total", "busy"), 6);
  BOOST_CHECK_EQUAL(f.metric("convoy_cache_lookups_total", "timeout"), 4);
  ::kill(f.server->pid(), SIGCONT);
}

BOOST_AUTO_TEST_CASE(requests_under_way_reach_the_router_when_the_cache_ends) {
  const CacheOptions options = patient(60'000);
  Fixture f(options);
  ::kill(f.server->pid(), SIGSTOP);
  mail(f.cache->actor(), request(1, key_of('a')));
  std::this_thread::sleep_for(milliseconds(50));
  BOOST_CHECK(f.to_router.empty());
  f.cache.reset();
  f.to_router.take();
  ::kill(f.server->pid(), SIGCONT);
}

BOOST_AUTO_TEST_CASE(a_frame_that_cannot_be_read_does_not_end_the_cache) {
  Fixture f;
  auto bytes = std::make_shared<schema::FrameBuffer>(16);
  const uint32_t words[4] = {0, 1, 0xfffffffc, 0xffffffff};  // a root pointer to far outside
  std::memcpy(bytes->data(), words, sizeof words);
  mail(f.cache->actor(), Frame<msg::Generate>(bytes));
  mail(f.cache->actor(), Frame<msg::Store>(bytes));
  f.miss_ms(1, key_of('a'));
}

BOOST_AUTO_TEST_CASE(a_redis_server_that_was_ended_leaves_no_process_and_no_socket) {
  Fixture f;
  const pid_t pid = f.server->pid();
  BOOST_CHECK(fs::exists(f.server->socket_path()));
  f.server->stop();
  BOOST_CHECK_EQUAL(f.server->pid(), 0);
  BOOST_CHECK_EQUAL(::kill(pid, 0), -1);
  BOOST_CHECK(!fs::exists(f.server->socket_path()));
  f.server->start();
  const pid_t second = f.server->pid();
  ::kill(second, SIGSTOP);  // it cannot end well now
  f.server->stop();
  BOOST_CHECK_EQUAL(::kill(second, 0), -1);
  BOOST_CHECK(!fs::exists(f.server->socket_path()));
}

BOOST_AUTO_TEST_CASE(a_redis_server_that_cannot_start_says_where_its_log_is) {
  Fixture f;
  RedisServerOptions options;
  options.run_dir = f.folder + "/second";
  fs::create_directory(options.run_dir);
  options.memory_bytes_max = 0;
  RedisServer server(options);
  fs::create_directories(server.socket_path() + "/in the way");  // where the socket should be
  BOOST_CHECK_EXCEPTION(server.start(), std::runtime_error,
                        [](auto& e) { return std::string(e.what()).find("redis.log") != std::string::npos; });
}
