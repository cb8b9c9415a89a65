#pragma once
// Stage: a layer range in a process of its own. Its actor is detached and calls its device on its own thread:
// it hands over steps in order, as many ahead as the device takes, and mails what comes of them straight to
// the next stage, so that no other thread has to wake up on the way of a token. The last one's next is the
// first, which waits for sampled tokens, and the pipeline hears of them too (docs/decisions/0006). It blocks
// on the device, for the whole step if that has no depth; its reporter speaks for it meanwhile.

#include <pthread.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "actors/messages.hpp"
#include "gpu/engine.hpp"

namespace convoy::actors {

struct StageOptions {
  uint32_t instance = 0;       // which of its node's
  std::string node;            // whose machine this is
  std::string pipeline;        // that it serves; empty: the cluster's first
  gpu::DeviceFactory device;   // what computes
  int64_t context_tokens = 0;  // positions per sequence
  int64_t rows_per_step = 0;
  std::optional<model::DType> kv_type;  // of cached keys and values; else the device's choice
  bool deterministic = false;
  uint32_t sharers = 1;                // stages that share the device's memory
  gpu::SecondTierOptions second_tier;  // of KV blocks
  uint32_t report_ms = 200;            // a quarter of failure_detection_ms
  PeerIdentity own;                    // what its Hello says, which decides about edges
  uint32_t edge_timeout_ms = 10'000;
};

/// How the actor reaches others; the process fills these with its links.
struct StageLinks {
  std::function<PipelineActor(const PeerIdentity& head)> pipeline;
  std::function<StageActor(const PeerIdentity& next)> next_stage;
  std::function<void(const std::string& host, uint16_t port)> connect;
  WeightFetcherActor fetcher = {};  // null: the model's files are here
  std::vector<pthread_t> threads;   // that bring the stage its work, and may be moved with it
};

struct StageData;
struct StageStateHolder {
  std::unique_ptr<StageData> data;
  static inline const char* name = "stage";
  StageStateHolder();
  ~StageStateHolder();
};

/// Spawn it detached: all of it runs on the thread that computes.
StageActor::behavior_type stage(StageActor::stateful_pointer<StageStateHolder> self, StageOptions options,
                                std::shared_ptr<const model::Checkpoint> checkpoint, StageLinks links);

}  // namespace convoy::actors
