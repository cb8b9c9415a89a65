// The answer cache with a Redis that is stopped, killed or slow, and how Redis itself is started and ended.

#include "test/actors/cache_rig.hpp"

using namespace rig;

// What the machine's scheduler adds, it does not add to every request.
BOOST_AUTO_TEST_CASE(a_stopped_redis_costs_the_timeout_until_the_circuit_opens_and_nothing_after) {
  CacheOptions options = patient(200);
  options.circuit_failures = 3;
  Fixture f(options);
  f.keep(key_of('a'), 5);
  ::kill(f.server->pid(), SIGSTOP);
  double fastest_ms = 1e9;
  for (uint64_t i = 0; i < 3; ++i) fastest_ms = std::min(fastest_ms, f.miss_ms(i, key_of('a')));
  BOOST_TEST_MESSAGE("waited " << fastest_ms << " ms");
  BOOST_CHECK_GE(fastest_ms, options.timeout_ms - 1.0);
  BOOST_CHECK_LT(fastest_ms, 2 * options.timeout_ms);
  BOOST_CHECK_EQUAL(f.metric("convoy_cache_lookups_total", "timeout"), 3);
  BOOST_CHECK_EQUAL(f.metric("convoy_redis_circuit_open"), 1);
  BOOST_CHECK_EQUAL(f.metric("convoy_redis_circuit_opened_total"), 1);
  BOOST_CHECK_EQUAL(f.cache->health().state, std::string("slow"));
  fastest_ms = 1e9;
  for (uint64_t i = 10; i < 30; ++i) fastest_ms = std::min(fastest_ms, f.miss_ms(i, key_of('a')));
  BOOST_CHECK_LT(fastest_ms, options.timeout_ms / 2);
  BOOST_CHECK_EQUAL(f.metric("convoy_cache_lookups_total", "open"), 20);
  mail(f.cache->actor(), store(key_of('b'), 5));
  f.await_metric("convoy_cache_stores_total", "dropped", 1);
  ::kill(f.server->pid(), SIGCONT);
}

BOOST_AUTO_TEST_CASE(the_circuit_closes_again_when_redis_goes_on) {
  CacheOptions options = patient(1000);
  options.circuit_retry_ms = 20;
  Fixture f(options);
  f.keep(key_of('a'), 5);
  ::kill(f.server->pid(), SIGSTOP);
  f.await_metric("convoy_redis_circuit_open", "", 1);  // found out in the background, at no request's cost
  BOOST_CHECK_EQUAL(f.metric("convoy_cache_lookups_total", "timeout"), 0);
  std::this_thread::sleep_for(milliseconds(1200));  // a probe fails
  BOOST_CHECK_EQUAL(f.metric("convoy_redis_circuit_open"), 1);
  ::kill(f.server->pid(), SIGCONT);
  BOOST_REQUIRE(test::comes_true([&] { return f.metric("convoy_redis_circuit_open") == 0; }));
  f.hit(1, key_of('a'), 5);
  BOOST_CHECK_EQUAL(f.cache->health().state, std::string("up"));
}

namespace {

/// Waits until the cache says that, and returns Redis's own words.
std::string await_state(Fixture& f, const std::string& state) {
  test::comes_true([&] { return f.cache->health().state == state; });
  const RedisHealth health = f.cache->health();
  BOOST_REQUIRE_EQUAL(health.state, state);
  return health.reason;
}

/// Commands to Redis on one connection, which stays signed in.
void tell(Fixture& f, std::initializer_list<const char*> commands) {
  const std::unique_ptr<redisContext, decltype(&redisFree)> context(
      redisConnectUnix(f.server->socket_path().c_str()), &redisFree);
  for (const char* command : commands) {
    const std::unique_ptr<void, decltype(&freeReplyObject)> reply(redisCommand(context.get(), command),
                                                                  &freeReplyObject);
    BOOST_REQUIRE(reply);
    BOOST_REQUIRE_NE(static_cast<redisReply*>(reply.get())->type, REDIS_REPLY_ERROR);
  }
}

CacheOptions probing() {
  CacheOptions options = patient();
  options.circuit_retry_ms = 10;
  return options;
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_redis_that_wants_a_password_is_degraded_in_its_own_words) {
  Fixture f(probing());
  tell(f, {"CONFIG SET requirepass secret", "CLIENT KILL TYPE normal SKIPME yes"});
  BOOST_CHECK(await_state(f, "degraded").starts_with("NOAUTH"));
  f.miss_ms(1, key_of('a'));  // requests go on
  tell(f, {"AUTH secret", "ACL SETUSER default nopass", "CLIENT KILL TYPE normal SKIPME yes"});
  BOOST_CHECK_EQUAL(await_state(f, "up"), "");
}

BOOST_AUTO_TEST_CASE(a_redis_that_is_full_is_degraded_until_it_takes_writes_again) {
  Fixture f(probing());
  f.keep(key_of('a'), 5);
  tell(f, {"CONFIG SET maxmemory-policy noeviction", "CONFIG SET maxmemory 1"});
  BOOST_CHECK(await_state(f, "degraded").starts_with("OOM"));
  f.hit(1, key_of('a'), 5);  // reading goes on, and says nothing about writing
  BOOST_CHECK_EQUAL(f.cache->health().state, "degraded");
  tell(f, {"CONFIG SET maxmemory 0"});
  BOOST_CHECK_EQUAL(await_state(f, "up"), "");
}

BOOST_AUTO_TEST_CASE(a_redis_that_is_a_replica_is_degraded) {
  Fixture f(probing());
  tell(f, {"REPLICAOF 127.0.0.1 1"});
  BOOST_CHECK(await_state(f, "degraded").starts_with("READONLY"));
  tell(f, {"REPLICAOF NO ONE"});
  BOOST_CHECK_EQUAL(await_state(f, "up"), "");
}

BOOST_AUTO_TEST_CASE(late_replies_never_answer_later_requests) {
  CacheOptions options = patient(1000);
  options.circuit_failures = 1000;  // every request asks
  Fixture f(options);
  f.keep(key_of('a'), 5);
  f.keep(key_of('b'), 9);
  ::kill(f.server->pid(), SIGSTOP);
  for (uint64_t i = 0; i < 2; ++i) f.miss_ms(i, key_of('a'));
  ::kill(f.server->pid(), SIGCONT);
  for (uint64_t i = 10; i < 30; ++i) f.hit(i, i % 2 ? key_of('a') : key_of('b'), i % 2 ? 5 : 9);
}

BOOST_AUTO_TEST_CASE(a_killed_redis_costs_no_time_and_is_used_again_when_it_is_back) {
  CacheOptions options = patient(1000);
  options.circuit_retry_ms = 20;
  Fixture f(options);
  f.keep(key_of('a'), 5);
  const pid_t old = f.server->pid();
  ::kill(old, SIGKILL);
  double fastest_ms = 1e9;
  for (uint64_t i = 0; i < 5; ++i) fastest_ms = std::min(fastest_ms, f.miss_ms(i, key_of('z')));
  BOOST_CHECK_LT(fastest_ms, options.timeout_ms / 2);
  BOOST_REQUIRE(test::comes_true([&] {
    return f.server->pid() != old && f.server->pid() != 0 && f.cache->health().state == std::string("up") &&
           f.metric("convoy_redis_circuit_open") == 0;
  }));
  BOOST_CHECK_EQUAL(f.server->restarts(), 1u);
  f.miss_ms(10, key_of('a'));  // the new process has forgotten everything
  f.keep(key_of('a'), 6);
  f.hit(11, key_of('a'), 6);
}

BOOST_AUTO_TEST_CASE(more_requests_than_may_be_in_flight_go_on_without_the_cache) {
  CacheOptions options = patient(1000);
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
  const CacheOptions options = patient();
  Fixture f(options);
  ::kill(f.server->pid(), SIGSTOP);
  mail(f.cache->actor(), request(1, key_of('a')));
  std::this_thread::sleep_for(milliseconds(50));
  BOOST_CHECK(f.to_router.empty());
  f.cache.reset();
  f.to_router.take();
  ::kill(f.server->pid(), SIGCONT);
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
