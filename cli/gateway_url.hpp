#pragma once
// The URL by which somebody on another machine, if that may be, can ask a gateway. For what people read.

#include <cstdint>
#include <string>

#include "actors/config/cluster_config.hpp"

namespace convoy::cli {

/// Of all of a machine's addresses, the first that may be named. port: that it took.
std::string gateway_url(const actors::ClusterConfig::Gateway& gateway, uint16_t port);

}  // namespace convoy::cli
