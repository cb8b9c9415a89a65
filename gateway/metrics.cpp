#include "gateway/metrics.hpp"

#include <prometheus/text_serializer.h>

#include <algorithm>
#include <iterator>

#include "gateway/gauges.hpp"

namespace convoy::gateway {

namespace {

using prometheus::BuildCounter;
using prometheus::BuildGauge;
using prometheus::BuildHistogram;

const prometheus::Histogram::BucketBoundaries first_token_buckets{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
                                                                  1,     2.5,  5,     10,   30,  60};

}  // namespace

Metrics::Metrics(std::shared_ptr<prometheus::Registry> registry)
    : registry_(std::move(registry)),
      requests_(BuildCounter()
                    .Name("convoy_gateway_requests_total")
                    .Help("HTTP requests by endpoint and status")
                    .Register(*registry_)),
      tokens_(BuildCounter()
                  .Name("convoy_gateway_tokens_total")
                  .Help("Tokens of prompts and of answers, from the cache too")
                  .Register(*registry_)),
      cache_(BuildCounter()
                 .Name("convoy_gateway_cache_total")
                 .Help("Answers by what X-Cache said: hit, miss or bypass")
                 .Register(*registry_)),
      connection_events_(
          BuildCounter()
              .Name("convoy_gateway_connection_events_total")
              .Help("Connections accepted, refused, left by the client or cut by us in mid-answer")
              .Register(*registry_)),
      prompt_tokens(tokens_.Add({{"kind", "prompt"}})),
      completion_tokens(tokens_.Add({{"kind", "completion"}})),
      connections_accepted(connection_events_.Add({{"event", "accepted"}})),
      connections_refused(connection_events_.Add({{"event", "refused"}})),
      clients_gone(connection_events_.Add({{"event", "client_gone"}})),
      streams_cut(connection_events_.Add({{"event", "stream_cut"}})),
      connections(BuildGauge()
                      .Name("convoy_gateway_connections")
                      .Help("Connections that are open now")
                      .Register(*registry_)
                      .Add({})),
      first_token_seconds(BuildHistogram()
                              .Name("convoy_gateway_first_token_seconds")
                              .Help("From the whole request to the first token of its answer")
                              .Register(*registry_)
                              .Add({}, first_token_buckets)) {}

void Metrics::answered(const std::string& endpoint, unsigned status) {
  requests_.Add({{"endpoint", endpoint}, {"status", std::to_string(status)}}).Increment();
}

void Metrics::cache(const std::string& result) { cache_.Add({{"result", result}}).Increment(); }

std::string Metrics::text(const Readiness& readiness) const {
  auto families = registry_->Collect();
  for (auto& more : {cluster_gauges(readiness, Readiness::Clock::now()), process_gauges()})
    std::copy_if(more.begin(), more.end(), std::back_inserter(families),
                 [](const auto& family) { return !family.metric.empty(); });
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace convoy::gateway
