#include "gateway/metrics.hpp"

#include <prometheus/text_serializer.h>

#include <algorithm>
#include <iterator>

#include "actors/process/time_buckets.hpp"
#include "gateway/gauges.hpp"

namespace convoy::gateway {

namespace {

using prometheus::BuildCounter;
using prometheus::BuildGauge;
using prometheus::BuildHistogram;

const auto buckets = time_buckets_s();

}  // namespace

Metrics::Metrics(std::shared_ptr<prometheus::Registry> registry, const std::vector<std::string>& models)
    : registry_(std::move(registry)),
      requests_(BuildCounter()
                    .Name("convoy_gateway_requests_total")
                    .Help("HTTP requests by endpoint, status and why they ended so; 499: the client left")
                    .Register(*registry_)),
      tokens_(BuildCounter()
                  .Name("convoy_gateway_tokens_total")
                  .Help("Tokens of prompts and of answers, as they come; computed and from the cache")
                  .Register(*registry_)),
      cache_(BuildCounter()
                 .Name("convoy_gateway_cache_total")
                 .Help("Answers by what X-Cache said: hit, miss or bypass")
                 .Register(*registry_)),
      connection_events_(BuildCounter()
                             .Name("convoy_gateway_connection_events_total")
                             .Help("Connections accepted, refused, without a TLS handshake, left by the "
                                   "client or cut by us in mid-answer")
                             .Register(*registry_)),
      first_token_(BuildHistogram()
                       .Name("convoy_gateway_first_token_seconds")
                       .Help("From the whole request to the first token of its answer")
                       .Register(*registry_)),
      request_(BuildHistogram()
                   .Name("convoy_gateway_request_seconds")
                   .Help("From the whole request to the last token of its answer, of whole answers")
                   .Register(*registry_)),
      connections_accepted(connection_events_.Add({{"event", "accepted"}})),
      connections_refused(connection_events_.Add({{"event", "refused"}})),
      handshakes_failed(connection_events_.Add({{"event", "handshake_failed"}})),
      clients_gone(connection_events_.Add({{"event", "client_gone"}})),
      streams_cut(connection_events_.Add({{"event", "stream_cut"}})),
      resumed(
          BuildCounter()
              .Name("convoy_gateway_resumed_total")
              .Help("Answers that were asked for anew, behind the tokens they had, as the head had been away")
              .Register(*registry_)
              .Add({})),
      connections(BuildGauge()
                      .Name("convoy_gateway_connections")
                      .Help("Connections that are open now")
                      .Register(*registry_)
                      .Add({})),
      between_tokens_seconds(BuildHistogram()
                                 .Name("convoy_gateway_between_tokens_seconds")
                                 .Help("Between tokens of an answer that is computed, of whole answers")
                                 .Register(*registry_)
                                 .Add({}, buckets)),
      refusal_seconds(
          BuildHistogram()
              .Name("convoy_gateway_refusal_seconds")
              .Help("From the end of a request's header until it was told that there are too many")
              .Register(*registry_)
              .Add({}, buckets)) {
  for (const std::string& model : models)
    sources_.emplace(model, std::pair(source(model, "computed"), source(model, "cache")));
  for (const char* result : {"hit", "miss", "bypass"}) cache_.Add({{"result", result}});
}

Metrics::Source Metrics::source(const std::string& model, const char* name) {
  const prometheus::Labels labels{{"model", model}, {"source", name}};
  const auto of_kind = [&labels](const char* kind) {
    prometheus::Labels more = labels;
    more.emplace("kind", kind);
    return more;
  };
  return {tokens_.Add(of_kind("prompt")), tokens_.Add(of_kind("completion")),
          first_token_.Add(labels, buckets), request_.Add(labels, buckets)};
}

void Intervals::add(double seconds, uint32_t count) {
  counts_.resize(buckets.size() + 1);
  const auto bucket = std::lower_bound(buckets.begin(), buckets.end(), seconds);
  counts_[static_cast<size_t>(bucket - buckets.begin())] += count;
  sum_ += seconds * count;
}

void Intervals::observe(prometheus::Histogram& histogram) {
  if (!counts_.empty()) histogram.ObserveMultiple(counts_, sum_);
  counts_.clear();
  sum_ = 0;
}

void Metrics::answered(const std::string& endpoint, unsigned status, const std::string& reason) {
  requests_.Add({{"endpoint", endpoint}, {"status", std::to_string(status)}, {"reason", reason}}).Increment();
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
