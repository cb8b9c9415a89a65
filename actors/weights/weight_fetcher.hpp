#pragma once
// WeightFetcher: gets the outline of the cluster's model from the head, and then whatever layers its stage
// asks for, into the store. Its actor is detached: it writes to a disk. In the process of a stage whose
// machine has not the model's files; the link that it uses is its own, so that nothing waits behind weights.

#include <functional>
#include <future>
#include <memory>

#include "actors/messages.hpp"
#include "actors/weights/weight_fetch.hpp"

namespace convoy::actors {

struct FetcherOptions {
  std::shared_ptr<WeightStore> store;  // the actor's from then on
  FetchLimits limits;
  uint32_t silence_ms = 30'000;
};

/// How the actor reaches the head; the process fills these with its links.
struct FetcherLinks {
  std::function<WeightServerActor(const PeerIdentity& head)> server;
  std::function<void(const PeerIdentity& head, const std::string& reason)> drop;
};

using FoundModel = std::promise<std::shared_ptr<const model::StoredCheckpoint>>;

struct WeightFetcherData;
struct WeightFetcherState {
  std::unique_ptr<WeightFetcherData> data;
  static inline const char* name = "weight_fetcher";
  WeightFetcherState();
  ~WeightFetcherState();
};

/// Spawn it detached. found: the model, or why there is none.
WeightFetcherActor::behavior_type weight_fetcher(
    WeightFetcherActor::stateful_pointer<WeightFetcherState> self, FetcherOptions options, FetcherLinks links,
    std::shared_ptr<FoundModel> found);

}  // namespace convoy::actors
