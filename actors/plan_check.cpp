#include "actors/plan_check.hpp"

#include <map>
#include <utility>

#include "actors/config/plan_limits.hpp"
#include "model/checkpoint/inspect.hpp"

namespace convoy::actors {

namespace {

std::string mib(uint64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

}  // namespace

std::optional<std::string> refuse_plan(const ClusterConfig& config, const model::Checkpoint& checkpoint,
                                       const std::vector<PlannedStage>& plan,
                                       const std::vector<PeerIdentity>& peers) {
  const uint64_t frame = step_frame_bytes(config, checkpoint.config());
  if (plan.size() > 1 && frame > config.link.bulk_frame_bytes_max)
    return "a step is a frame of up to " + std::to_string(frame) +
           " bytes between stages, and link.bulk_frame_bytes_max is " +
           std::to_string(config.link.bulk_frame_bytes_max);
  struct Holds {
    uint64_t weights = 0, memory = 0;
  };
  std::map<std::pair<std::string, std::string>, Holds> places;  // machine and card
  for (size_t i = 0; i < plan.size(); ++i) {
    const PeerIdentity& peer = peers[i];
    if (peer.node.empty() || peer.memory_bytes == 0) continue;
    Holds& place = places[{peer.machine, peer.card}];
    place.memory = peer.memory_bytes;
    place.weights += model::stage_bytes(checkpoint, plan[i].layers);
    if (place.weights > place.memory)
      return "node " + peer.node + " would have " + mib(place.weights) + " of weights on " + peer.device +
             ", whose memory is " + mib(place.memory);
  }
  return std::nullopt;
}

}  // namespace convoy::actors
