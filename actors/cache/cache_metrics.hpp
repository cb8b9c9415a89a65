#pragma once
// CacheMetrics: what the answer cache counts. It alone uses them, on its actor's thread and on its I/O
// thread.

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

namespace convoy::actors {

struct CacheMetrics {
  explicit CacheMetrics(prometheus::Registry& registry)
      : lookups(prometheus::BuildCounter()
                    .Name("convoy_cache_lookups_total")
                    .Help("Requests with a cache key, by what Redis said")
                    .Register(registry)),
        stores(prometheus::BuildCounter()
                   .Name("convoy_cache_stores_total")
                   .Help("Complete answers that sessions offered, by what became of them")
                   .Register(registry)),
        discarded(prometheus::BuildCounter()
                      .Name("convoy_cache_discarded_total")
                      .Help("Values that could not be opened and were deleted")
                      .Register(registry)
                      .Add({})),
        circuit_opened(prometheus::BuildCounter()
                           .Name("convoy_redis_circuit_opened_total")
                           .Help("How often the cache stopped asking Redis")
                           .Register(registry)
                           .Add({})),
        circuit_open(prometheus::BuildGauge()
                         .Name("convoy_redis_circuit_open")
                         .Help("1 while the cache does not ask Redis")
                         .Register(registry)
                         .Add({})) {}

  prometheus::Family<prometheus::Counter>&lookups, &stores;
  prometheus::Counter& hit = lookups.Add({{"result", "hit"}});
  prometheus::Counter& miss = lookups.Add({{"result", "miss"}});
  prometheus::Counter& timeout = lookups.Add({{"result", "timeout"}});
  prometheus::Counter& error = lookups.Add({{"result", "error"}});
  prometheus::Counter& open = lookups.Add({{"result", "open"}});  // not asked: the circuit is open
  prometheus::Counter& busy =
      lookups.Add({{"result", "busy"}});  // not asked: in_flight_max or queue_bytes_max
  prometheus::Counter& stored = stores.Add({{"result", "stored"}});
  prometheus::Counter& refused =
      stores.Add({{"result", "refused"}});  // incomplete, too long, or no valid key
  prometheus::Counter& dropped =
      stores.Add({{"result", "dropped"}});  // the circuit is open, or too much in flight
  prometheus::Counter& failed = stores.Add({{"result", "failed"}});  // Redis did not take it
  prometheus::Counter &discarded, &circuit_opened;
  prometheus::Gauge& circuit_open;
};

}  // namespace convoy::actors
