#pragma once
// What is looked up when /metrics is asked for, rather than counted as it happens: the cluster as its
// pipelines described it, this process, this build. Any thread.

#include <prometheus/metric_family.h>

#include <vector>

#include "gateway/readiness.hpp"

namespace convoy::gateway {

std::vector<prometheus::MetricFamily> cluster_gauges(const Readiness& readiness,
                                                     Readiness::Clock::time_point now);

/// Prometheus' usual process_* names, and convoy_build_info.
std::vector<prometheus::MetricFamily> process_gauges();

}  // namespace convoy::gateway
