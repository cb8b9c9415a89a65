#pragma once
// Edge: what all sessions of a gateway share. The gateway owns it and outlives its sessions.

#include <atomic>
#include <boost/asio.hpp>
#include <cstdint>
#include <memory>
#include <string>

#include "gateway/gateway.hpp"
#include "gateway/gateway_actor.hpp"
#include "gateway/metrics.hpp"
#include "gateway/readiness.hpp"

namespace convoy::gateway {

struct Edge {
  const GatewayOptions options;
  const ServedModel model;
  Metrics metrics;
  const std::shared_ptr<Readiness> readiness;
  const MailroomActor mailroom;
  // Set once, by serve(), before the first session.
  actors::CacheActor cache;
  actors::RouterActor router;
  std::string cache_secret;
  // Numbers of this process's requests. They start at a point in time, so that mail for a predecessor of this
  // process finds nobody.
  std::atomic<uint64_t> next_request;
  std::atomic<uint64_t> long_bodies_bytes = 0;  // of requests that are being read and tokenised now
  // Reads and tokenises long requests, which would hold up the other streams.
  asio::thread_pool encoder{options.encoder_threads};
};

}  // namespace convoy::gateway
