#pragma once
// What `convoy status` says: the cluster as its head's node actor knows it, as one JSON object.

#include <string>

#include "actors/node.hpp"

namespace convoy::actors {

/// Notes which stages are no more as they were, from what the pipelines said last.
void see_stages(NodeState& state, int64_t now_unix_s);

/// The object that `convoy status --json` prints. Pure but for the facts' functions.
std::string status_json(const NodeOptions& options, const NodeState& state,
                        std::chrono::steady_clock::time_point now);

}  // namespace convoy::actors
