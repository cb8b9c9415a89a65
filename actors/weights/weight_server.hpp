#pragma once
// WeightServer: gives machines that have not the model's files what they ask for: an outline, digests of
// tensors, bytes of them. Its actor is detached: it reads the files on a thread of its own, one part after
// the other whoever asks, so that several stages get theirs side by side. Digests that nobody kept are
// computed on another thread, those that were asked for first; who asks waits.

#include <prometheus/registry.h>

#include <filesystem>
#include <memory>

#include "actors/messages.hpp"
#include "model/checkpoint/checkpoint.hpp"

namespace convoy::actors {

struct WeightServerOptions {
  std::filesystem::path run_dir;  // where digests are kept if the model's folder cannot be written
  uint64_t frame_bytes_max = 64ull << 20;
  std::shared_ptr<prometheus::Registry> metrics;
};

struct WeightServerData;
struct WeightServerState {
  std::unique_ptr<WeightServerData> data;
  static inline const char* name = "weight_server";
  WeightServerState();
  ~WeightServerState();
};

/// Of a model that comes from files. Spawn it detached.
WeightServerActor::behavior_type weight_server(WeightServerActor::stateful_pointer<WeightServerState> self,
                                               WeightServerOptions options,
                                               std::shared_ptr<const model::Checkpoint> checkpoint);

}  // namespace convoy::actors
