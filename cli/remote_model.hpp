#pragma once
// RemoteModel: a pipeline's model for a process of a stage or a gateway whose machine has not its files. A
// link of its own to the head, and the actor that fetches over it. The process's main thread makes it, before
// it says what it computes with.

#include <future>
#include <memory>
#include <string>

#include "actors/config/cluster_config.hpp"
#include "actors/link/link.hpp"
#include "actors/weights/weight_fetcher.hpp"

namespace convoy::cli {

class RemoteModel {
 public:
  /// pipeline: whose model; empty: the cluster's first one's. Throws InputError if there can be no store of
  /// weights.
  RemoteModel(caf::actor_system& system, const actors::ClusterConfig& config, const std::string& node,
              const std::string& pipeline, const std::string& head_host, uint16_t head_port);
  ~RemoteModel();
  RemoteModel(const RemoteModel&) = delete;
  RemoteModel& operator=(const RemoteModel&) = delete;

  /// Waits until the head has said which it is. Leaves the process when that is told to end. Throws
  /// InputError if it is none that this version runs.
  std::shared_ptr<const model::Checkpoint> await_model();
  const actors::WeightFetcherActor& fetcher() const { return fetcher_; }

 private:
  caf::actor_system& system_;
  std::shared_ptr<actors::FoundModel> found_ = std::make_shared<actors::FoundModel>();
  std::unique_ptr<actors::Links> links_;
  actors::WeightFetcherActor fetcher_;
};

}  // namespace convoy::cli
