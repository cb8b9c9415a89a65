#pragma once
// Edge: what all sessions of a gateway share. The gateway owns it and outlives its sessions.

#include <atomic>
#include <boost/asio.hpp>
#include <cstdint>
#include <memory>
#include <string>

#include "gateway/gateway.hpp"
#include "gateway/gateway_actor.hpp"
#include "gateway/heard_keys.hpp"
#include "gateway/https.hpp"
#include "gateway/keys_file.hpp"
#include "gateway/metrics.hpp"
#include "gateway/readiness.hpp"

namespace convoy::gateway {

struct Edge {
  const GatewayOptions options;
  const ServedModels models;
  Metrics metrics;
  const std::shared_ptr<Readiness> readiness;
  const std::shared_ptr<ClusterReach> reach;
  const std::unique_ptr<KeyRing> keys;                  // of our own file; null: none
  const std::shared_ptr<HeardKeys> heard_keys;          // as the head says; null: it does not
  const std::unique_ptr<HttpsCertificate> certificate;  // null: HTTP is plain
  const MailroomActor mailroom;
  const bool outlives_head;  // who waits for an answer asks again, if the head is another one
  // Set once, by serve(), before the first session.
  std::string answer_key;
  // Numbers of this process's requests. They start at a point in time, so that mail for a predecessor of this
  // process finds nobody.
  std::atomic<uint64_t> next_request;
  std::atomic<uint64_t> long_bodies_bytes = 0;  // of requests that are being read and tokenised now
  // Reads and tokenises long requests, which would hold up the other streams.
  asio::thread_pool encoder{options.encoder_threads};

  bool asks_for_keys() const { return keys || heard_keys; }
  /// Null: not known yet.
  std::shared_ptr<const ApiKeys> keys_now() const { return keys ? keys->get() : heard_keys->get(); }
  /// Of the connections that are made now; null: HTTP is plain.
  std::shared_ptr<asio::ssl::context> tls() const { return certificate ? certificate->get() : nullptr; }
};

}  // namespace convoy::gateway
