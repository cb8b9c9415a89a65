#pragma once
// The buckets of every histogram of times. Any thread.

#include <prometheus/histogram.h>

namespace convoy {

/// Seconds, from a step of a small model to the longest answer: 1 ms to 10 min.
inline prometheus::Histogram::BucketBoundaries time_buckets_s() {
  return {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600};
}

}  // namespace convoy
