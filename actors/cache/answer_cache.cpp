#include "actors/cache/answer_cache.hpp"

#include <kj/exception.h>

#include <atomic>
#include <boost/asio.hpp>
#include <cassert>
#include <mutex>
#include <optional>
#include <thread>

#include "actors/cache/answer_seal.hpp"
#include "actors/cache/cache_metrics.hpp"
#include "actors/cache/circuit.hpp"
#include "actors/cache/redis_client.hpp"
#include "actors/process/io_thread.hpp"
#include "actors/process/log.hpp"
#include "actors/process/secret.hpp"

namespace convoy::actors {
namespace {

namespace asio = boost::asio;
using Clock = RedisClient::Clock;
using Status = RedisReply::Status;
using std::chrono::milliseconds;

constexpr size_t key_bytes = 32;             // an HMAC-SHA-256
constexpr size_t seal_bytes_max = 64;        // what sealing adds to an answer
constexpr uint32_t background_commands = 8;  // probes and deletions, besides requests in flight
constexpr uint32_t tokens_per_frame = 1024;  // of an answer with logprobs less than a control frame
constexpr const char* probe_key = "convoy:1:probe";
constexpr const char* probe_ttl_ms = "1000";

uint64_t now_ms() {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<milliseconds>(Clock::now().time_since_epoch()).count());
}

std::string redis_key(std::string_view key) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string name = "convoy:1:";
  for (const unsigned char byte : key) {
    name += digits[byte >> 4];
    name += digits[byte & 15];
  }
  return name;
}

std::string_view view(capnp::Data::Reader data) {
  return {reinterpret_cast<const char*>(data.begin()), data.size()};
}

/// How many words a message needs that is mostly a copy of this one.
template <class T>
size_t words_of(const Frame<T>& frame) {
  return frame.bytes()->size() / sizeof(capnp::word) + 1;
}

using Answered = capnp::List<msg::Token>::Reader;

/// Only whole answers may be kept: that the client saw the end is the session's word, the rest is checked
/// here.
bool complete(const Answered& tokens, msg::Finished::Reason reason) {
  return tokens.size() > 0 &&
         (reason == msg::Finished::Reason::STOP || reason == msg::Finished::Reason::LENGTH);
}

}  // namespace

/// Shared by the owner and the actor. The actor's thread reads requests and seals answers; the rest is the
/// I/O thread's.
struct AnswerCache::Impl {
  Impl(CacheOptions o, RouterActor r, GatewaysByNode g, std::shared_ptr<prometheus::Registry> m)
      : options(std::move(o)),
        seal_key(derive_key(options.secret, "answer-seal")),
        router(std::move(r)),
        registry(std::move(m)),
        metrics(*registry),
        circuit(options.circuit_failures, options.circuit_retry_ms),
        address(resolve(parse_redis_url(options.redis_url))),
        health_timer(io),
        gateways(std::move(g)),
        health{options.redis_url, "up", ""} {
    redis.emplace(io.get_executor(), address,
                  RedisClient::Limits{options.in_flight_max + background_commands, options.queue_bytes_max,
                                      options.entry_bytes_max + seal_bytes_max});
    watch_health();
    thread = std::thread([this] { run_io(io, "cache"); });
  }

  /// Requests under way go to the router. Called once, by the owner.
  void stop() {
    asio::post(io, [this] {
      open = true;  // later requests go past Redis
      health_timer.cancel();
      redis.reset();
    });
    thread.join();
  }

  // ---- the actor's thread ----

  void generate(const Frame<msg::Generate>& frame) {
    const auto deadline = Clock::now() + milliseconds(options.timeout_ms);
    const schema::Reading request(frame);
    const auto key = view(request->getCacheKey());
    if (key.size() != key_bytes) return pass_on(frame, nullptr);  // not cacheable
    if (open) return pass_on(frame, &metrics.open);
    if (!enter()) return pass_on(frame, &metrics.busy);
    asio::post(io, [this, frame, key = std::string(key), deadline] { look_up(frame, key, deadline); });
  }

  void store(const Frame<msg::Store>& frame) {
    const schema::Reading message(frame);
    const std::string key(view(message->getCacheKey()));
    const auto tokens =
        message->getAnswer().getTokens();  // once: each call counts against the traversal limit
    const auto reason = message->getAnswer().getReason();
    if (key.size() != key_bytes || !complete(tokens, reason)) return metrics.refused.Increment();
    schema::FrameBuilder<msg::Answer> builder(words_of(frame));
    builder->setTokens(tokens);
    builder->setReason(reason);
    const auto answer = std::move(builder).finish();
    if (answer.bytes()->size() > options.entry_bytes_max) return metrics.refused.Increment();
    if (open || !enter()) return metrics.dropped.Increment();
    asio::post(io, [this, key, sealed = seal_answer(seal_key, key, answer)] { set(key, sealed); });
  }

  void gateway_up(const GatewayUp& up) {
    asio::post(io, [this, up] { gateways[up.node] = up.gateway; });
  }

  void pass_on(const Frame<msg::Generate>& frame, prometheus::Counter* why) {
    if (why) why->Increment();
    mail(router, frame);
  }

  /// Counts a look-up or store in, if there is room for it.
  bool enter() {
    if (in_flight.fetch_add(1) < options.in_flight_max) return true;
    in_flight.fetch_sub(1);
    return false;
  }

  // ---- the I/O thread ----

  void look_up(const Frame<msg::Generate>& frame, const std::string& key, Clock::time_point deadline) {
    if (!redis) return finish(frame, key, {Status::lost, "the cache ends"});
    redis->command({"GET", redis_key(key)}, deadline,
                   [this, frame, key](RedisReply reply) { finish(frame, key, std::move(reply)); });
  }

  void finish(const Frame<msg::Generate>& frame, const std::string& key, RedisReply reply) {
    in_flight.fetch_sub(1);
    learn(reply, read_refusal);
    switch (reply.status) {
      case Status::value:
        if (answer_from(frame, key, reply.text)) return metrics.hit.Increment();
        discard(key);
        return pass_on(frame, &metrics.miss);
      case Status::nil:
        return pass_on(frame, &metrics.miss);
      case Status::timeout:
        return pass_on(frame, &metrics.timeout);
      case Status::busy:
        return pass_on(frame, &metrics.busy);
      case Status::refused:
      case Status::lost:
        return pass_on(frame, &metrics.error);
    }
  }

  /// Sends the answer to the session. False if the value is not a whole answer to this key.
  bool answer_from(const Frame<msg::Generate>& frame, const std::string& key, std::string_view sealed) {
    const auto opened = open_answer(seal_key, key, sealed);
    if (!opened) return false;
    try {
      const schema::Reading request(frame);
      const schema::Reading answer(*opened);
      const auto answered = answer->getTokens();
      if (!complete(answered, answer->getReason())) return false;
      const uint64_t number = request->getReplyTo().getRequest();
      const auto to = gateways.find(request->getReplyTo().getNode().cStr());
      if (to == gateways.end()) return true;  // nobody waits any more
      const GatewayActor& gateway = to->second;
      for (uint32_t first = 0; first < answered.size(); first += tokens_per_frame) {
        const uint32_t count = std::min(tokens_per_frame, answered.size() - first);
        schema::FrameBuilder<msg::Tokens> tokens(words_of(*opened) * count / answered.size() + 16);
        tokens->setRequest(number);
        tokens->setAttempt(request->getAttempt());
        tokens->setFirstIndex(first);
        tokens->setFromCache(true);
        auto list = tokens->initTokens(count);
        for (uint32_t i = 0; i < count; ++i) list.setWithCaveats(i, answered[first + i]);
        mail(gateway, std::move(tokens).finish());
      }
      schema::FrameBuilder<msg::Finished> finished;
      finished->setRequest(number);
      finished->setAttempt(request->getAttempt());
      finished->setReason(answer->getReason());
      finished->setTokens(answered.size());
      finished->setFromCache(true);
      mail(gateway, std::move(finished).finish());
      return true;
    } catch (const kj::Exception&) {
      return false;  // sealed by a version with another schema
    }
  }

  void discard(const std::string& key) {
    metrics.discarded.Increment();
    log::warn_limited("cache.discarded", {{"reason", "the value cannot be opened"}});
    const auto deadline = Clock::now() + milliseconds(options.store_timeout_ms);
    redis->command({"DEL", redis_key(key)}, deadline,
                   [this](RedisReply reply) { learn(reply, write_refusal); });
  }

  void set(const std::string& key, const std::string& sealed) {
    const auto done = [this](RedisReply reply) {
      in_flight.fetch_sub(1);
      learn(reply, write_refusal);
      (reply.status == Status::value ? metrics.stored : metrics.failed).Increment();
      if (reply.status == Status::refused) log::warn_limited("cache.store_refused", {{"reason", reply.text}});
    };
    if (!redis) return done({Status::lost, "the cache ends"});
    redis->command({"SET", redis_key(key), sealed, "PX", std::to_string(options.ttl_ms)},
                   Clock::now() + milliseconds(options.store_timeout_ms), done);
  }

  /// Asks in the background: finds out about a Redis that stopped before requests do, and when it is back. By
  /// a write, since one that is full or a replica answers everything else.
  void watch_health() {
    health_timer.expires_after(milliseconds(options.circuit_retry_ms));
    health_timer.async_wait([this](boost::system::error_code error) {
      if (error || !redis) return;
      const auto deadline = Clock::now() + milliseconds(options.timeout_ms);
      if (!circuit.open() || circuit.begin_probe(now_ms()))
        redis->command({"SET", probe_key, "", "PX", probe_ttl_ms}, deadline,
                       [this](RedisReply reply) { learn(reply, write_refusal); });
      if (!circuit.open() && !read_refusal.empty())
        redis->command({"GET", probe_key}, deadline,
                       [this](RedisReply reply) { learn(reply, read_refusal); });
      watch_health();
    });
  }

  /// What a reply says about Redis. An error reply is one in time: the circuit is about waiting. refusal: of
  /// that kind of command, which may be refused while the other is not.
  void learn(const RedisReply& reply, std::string& refusal) {
    const bool was_open = circuit.open();
    switch (reply.status) {
      case Status::busy:
        return;
      case Status::value:
      case Status::nil:
      case Status::refused:
        circuit.succeeded();
        refusal = reply.status == Status::refused ? reply.text : "";
        if (const std::string& reason = write_refusal.empty() ? read_refusal : write_refusal; reason.empty())
          set_health("up", "");
        else
          set_health("degraded", reason);
        break;
      case Status::timeout:
      case Status::lost:
        circuit.failed(now_ms());
        set_health(reply.status == Status::timeout ? "slow" : "down", "");
        break;
    }
    if (circuit.open() == was_open || !redis) return;
    open = circuit.open();
    metrics.circuit_open.Set(open ? 1 : 0);
    if (!open) return log::info("redis.circuit_closed", {{"address", options.redis_url}});
    metrics.circuit_opened.Increment();
    log::warn("redis.circuit_opened", {{"address", options.redis_url}, {"reason", reply.text}});
  }

  void set_health(const char* state, const std::string& reason) {
    const std::lock_guard lock(health_mutex);
    if (health.state == state && health.reason == reason) return;
    if (!reason.empty())
      log::warn_limited("redis.refuses", {{"address", options.redis_url}, {"reason", reason}});
    health.state = state;
    health.reason = reason;
  }

  const CacheOptions options;
  const std::string seal_key;
  const RouterActor router;
  const std::shared_ptr<prometheus::Registry> registry;
  CacheMetrics metrics;
  std::atomic<bool> open = false;  // the circuit's, for the actor's thread
  std::atomic<uint32_t> in_flight = 0;

  // The I/O thread's.
  asio::io_context io{1};
  Circuit circuit;
  const RedisAddress address;
  std::string read_refusal,
      write_refusal;  // Redis's words for the last command of that kind; empty: it took it
  asio::steady_timer health_timer;
  std::optional<RedisClient> redis;  // none once stop() was called
  GatewaysByNode gateways;
  std::thread thread;

  mutable std::mutex health_mutex;  // health() is asked by any thread
  RedisHealth health;
};

namespace {

/// A frame that cannot be read is dropped, and the session's deadline ends it: links have looked at those
/// that come from other processes.
template <class Handler>
void read_or_drop(const char* type, Handler handler) {
  try {
    handler();
  } catch (const kj::Exception& error) {
    log::warn_limited("cache.bad_frame", {{"type", type}, {"reason", error.getDescription().cStr()}});
  }
}

CacheActor::behavior_type cache_actor(CacheActor::pointer, std::shared_ptr<AnswerCache::Impl> impl) {
  return {
      [impl](const Frame<msg::Generate>& frame) { read_or_drop("Generate", [&] { impl->generate(frame); }); },
      [impl](const Frame<msg::Store>& frame) { read_or_drop("Store", [&] { impl->store(frame); }); },
      [impl](const GatewayUp& up) { impl->gateway_up(up); },
  };
}

}  // namespace

AnswerCache::AnswerCache(caf::actor_system& system, CacheOptions options, RouterActor router,
                         GatewaysByNode gateways, std::shared_ptr<prometheus::Registry> metrics)
    : impl_(std::make_shared<Impl>(std::move(options), std::move(router), std::move(gateways),
                                   std::move(metrics))),
      actor_(system.spawn(cache_actor, impl_)) {}

AnswerCache::~AnswerCache() {
  caf::anon_send_exit(actor_, caf::exit_reason::user_shutdown);
  impl_->stop();
}

RedisHealth AnswerCache::health() const {
  const std::lock_guard lock(impl_->health_mutex);
  return impl_->health;
}

}  // namespace convoy::actors
