#pragma once
// The gateway's counters, in the process's registry. Any thread.

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gateway/readiness.hpp"

namespace convoy::gateway {

/// Times between one answer's tokens. Kept beside the answer until its end: on its way no token takes a lock.
class Intervals {
 public:
  void add(double seconds, uint32_t count);
  void observe(prometheus::Histogram& histogram);  // and forgets them

 private:
  std::vector<double> counts_;  // by bucket
  double sum_ = 0;
};

class Metrics {
 public:
  /// models: the ids of all that are served.
  Metrics(std::shared_ptr<prometheus::Registry> registry, const std::vector<std::string>& models);

  /// endpoint: a known route's label, "other", or "none" where no request could be read (a client must not
  /// make up label values). status: HTTP's, or 499 if the client left before its answer was whole. reason:
  /// "ok", "client_gone", or an error's reason().
  void answered(const std::string& endpoint, unsigned status, const std::string& reason);
  /// What became of the cache for an answer: hit, miss or bypass.
  void cache(const std::string& result);
  /// Prometheus' text format: everything in the registry, not only ours, and what is looked up (gauges.hpp).
  std::string text(const Readiness& readiness) const;

 private:
  std::shared_ptr<prometheus::Registry> registry_;
  prometheus::Family<prometheus::Counter>&requests_, &tokens_, &cache_, &connection_events_;
  prometheus::Family<prometheus::Histogram>&first_token_, &request_;

 public:
  /// What the cluster computes and what comes from the cache are counted apart.
  struct Source {
    prometheus::Counter &prompt_tokens, &completion_tokens;
    prometheus::Histogram &first_token_seconds, &request_seconds;
  };
  Source& of(const std::string& model, bool hit) {
    auto& [computed, cached] = sources_.at(model);
    return hit ? cached : computed;
  }

  prometheus::Counter &connections_accepted, &connections_refused, &handshakes_failed;
  prometheus::Counter &clients_gone, &streams_cut, &resumed;
  prometheus::Gauge& connections;
  prometheus::Histogram &between_tokens_seconds, &refusal_seconds;

 private:
  Source source(const std::string& model, const char* name);
  std::map<std::string, std::pair<Source, Source>> sources_;  // computed, from the cache; by model
};

}  // namespace convoy::gateway
