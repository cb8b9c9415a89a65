#pragma once
// The answer cache: answers a request from Redis, or passes it on to the router, and never delays it by more
// than timeout_ms. It owns the cache actor, one I/O thread and the connection to Redis; the head node's
// process creates it. Values are sealed before they leave the process; Redis may lose, keep or garble them.

#include <cstdint>
#include <memory>
#include <string>

#include "actors/messages.hpp"

namespace prometheus {
class Registry;
}

namespace convoy::actors {

struct CacheOptions {
  std::string redis_url;                // redis://host:port or unix:///path
  uint32_t timeout_ms = 10;             // a look-up that takes longer is a miss
  uint32_t store_timeout_ms = 100;      // nobody waits for a store
  uint64_t ttl_ms = 86'400'000;         // from the store, not from the last use
  uint64_t entry_bytes_max = 1 << 20;   // longer answers are not kept
  uint32_t in_flight_max = 256;         // look-ups and stores; beyond: misses, and stores are dropped
  uint64_t queue_bytes_max = 16 << 20;  // not yet taken by Redis; beyond: the same
  uint32_t circuit_failures = 3;    // time-outs or lost connections in a row after which nobody asks Redis
  uint32_t circuit_retry_ms = 500;  // from one probe in the background to the next
  std::string secret;               // load_or_create_secret's
};

/// What `convoy status` says about Redis.
struct RedisHealth {
  std::string address;
  std::string state = "up";  // or slow (answers too late), down (cannot be reached), degraded (refuses)
  std::string reason;        // of degraded: Redis's own words, as "NOAUTH Authentication required."
};

class AnswerCache {
 public:
  /// Throws InputError if the URL is wrong. Redis need not run yet.
  AnswerCache(caf::actor_system& system, CacheOptions options, RouterActor router, GatewaysByNode gateways,
              std::shared_ptr<prometheus::Registry> metrics);
  ~AnswerCache();  // ends the actor and the thread; requests under way go to the router
  AnswerCache(const AnswerCache&) = delete;
  AnswerCache& operator=(const AnswerCache&) = delete;

  CacheActor actor() const { return actor_; }
  RedisHealth health() const;

  struct Impl;

 private:
  std::shared_ptr<Impl> impl_;
  CacheActor actor_;
};

}  // namespace convoy::actors
