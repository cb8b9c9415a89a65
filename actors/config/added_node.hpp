#pragma once
// Nodes that join: their roles, and the text of a cluster.conf with one more, as its machine gets it. Pure.

#include <string>
#include <string_view>

#include "actors/config/cluster_config.hpp"

namespace convoy::actors {

/// A text as a value in cluster.conf.
std::string quoted(const std::string& text);

/// Of a node that is in no cluster.conf: it has the role gateway if it says where that serves.
NodeConfig with_roles(NodeConfig node);

/// The node becomes the last one of `cluster.nodes`; everything else stays as it stands. Throws InputError if
/// it does not fit: its name or address is taken, or is none.
std::string with_node(std::string_view text, const NodeConfig& node);

}  // namespace convoy::actors
