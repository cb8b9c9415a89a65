// The answer cache against a real Redis: hits, misses, what it stores and what it does not.

#include "test/actors/cache_rig.hpp"

using namespace rig;

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

BOOST_AUTO_TEST_CASE(a_frame_that_cannot_be_read_does_not_end_the_cache) {
  Fixture f;
  auto bytes = std::make_shared<schema::FrameBuffer>(16);
  const uint32_t words[4] = {0, 1, 0xfffffffc, 0xffffffff};  // a root pointer to far outside
  std::memcpy(bytes->data(), words, sizeof words);
  mail(f.cache->actor(), Frame<msg::Generate>(bytes));
  mail(f.cache->actor(), Frame<msg::Store>(bytes));
  f.miss_ms(1, key_of('a'));
}
