#pragma once
// LinkMetrics: what links count. They alone use it, on their I/O thread.

#include <prometheus/counter.h>
#include <prometheus/registry.h>

namespace convoy::actors {

struct LinkMetrics {
  explicit LinkMetrics(prometheus::Registry& registry)
      : dropped(prometheus::BuildCounter()
                    .Name("convoy_link_frames_dropped_total")
                    .Help("Frames of peers that reached no actor, by why")
                    .Register(registry)) {}

  prometheus::Family<prometheus::Counter>& dropped;
  prometheus::Counter& not_allowed = dropped.Add({{"reason", "not_allowed"}});  // by its sender's role
  prometheus::Counter& to_nobody = dropped.Add({{"reason", "to_nobody"}});      // no such actor is published
  prometheus::Counter& unknown_type = dropped.Add({{"reason", "unknown_type"}});  // of a newer version
};

}  // namespace convoy::actors
