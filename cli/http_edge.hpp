#pragma once
// What a gateway that others reach needs: names, a certificate, keys. For `convoy init` and `convoy ca
// gateway`.

#include <string>
#include <vector>

#include "actors/config/cluster_config.hpp"

namespace convoy::cli {

/// By what others may ask for a gateway that listens on that address: the address, or all of this machine's
/// if it is none in particular, and its host name.
std::vector<std::string> reachable_names(const std::string& host);

/// What the gateway's certificate names: those, as `gateway.allowed_hosts` lists them, and loopback.
std::vector<std::string> certificate_names(const actors::ClusterConfig::Gateway& gateway);

/// [gateway] of a new cluster.conf, for HOST:PORT. certificate, key: files; empty: the cluster's authority
/// makes them. names: empty for reachable_names(). On loopback: the address alone. Throws InputError.
std::string gateway_section(const std::string& http, const std::vector<std::string>& names,
                            const std::string& certificate, const std::string& key);

}  // namespace convoy::cli
