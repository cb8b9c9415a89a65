#pragma once
// The gateway's counters, in the process's registry. Any thread.

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <memory>
#include <string>

#include "gateway/readiness.hpp"

namespace convoy::gateway {

class Metrics {
 public:
  explicit Metrics(std::shared_ptr<prometheus::Registry> registry);

  /// endpoint: one of the known routes or "other" (a client must not make up label values). status: HTTP's.
  void answered(const std::string& endpoint, unsigned status);
  /// What became of the cache for an answer: hit, miss or bypass.
  void cache(const std::string& result);
  /// Prometheus' text format: everything in the registry, not only ours, and what is looked up (gauges.hpp).
  std::string text(const Readiness& readiness) const;

 private:
  std::shared_ptr<prometheus::Registry> registry_;
  prometheus::Family<prometheus::Counter>&requests_, &tokens_, &cache_, &connection_events_;

 public:
  prometheus::Counter &prompt_tokens, &completion_tokens, &connections_accepted, &connections_refused;
  prometheus::Counter &clients_gone, &streams_cut;
  prometheus::Gauge& connections;
  prometheus::Histogram& first_token_seconds;
};

}  // namespace convoy::gateway
