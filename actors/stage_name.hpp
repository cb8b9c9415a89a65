#pragma once
// StageName: which stage process somebody means, wherever the plan has put it: the n-th of a node. A value.

#include <compare>
#include <cstdint>
#include <string>

#include "actors/link/peer_identity.hpp"

namespace convoy::actors {

struct StageName {
  std::string node;
  uint32_t instance = 0;  // counted from 0 on each node

  auto operator<=>(const StageName&) const = default;
};

inline StageName stage_name(const PeerIdentity& peer) { return {peer.node, peer.instance}; }

/// As logs and status call it.
inline std::string text_of(const StageName& name) {
  return "stage " + std::to_string(name.instance) + " of " + name.node;
}

}  // namespace convoy::actors
