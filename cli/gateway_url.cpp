#include "cli/gateway_url.hpp"

#include "actors/link/link_address.hpp"

namespace convoy::cli {

std::string gateway_url(const actors::ClusterConfig::Gateway& gateway, uint16_t port) {
  const auto endpoint = actors::numeric_endpoint(gateway.host, 0);
  const bool anywhere = endpoint && endpoint->address().is_unspecified();
  const std::string host = !anywhere                       ? gateway.host
                           : gateway.allowed_hosts.empty() ? "localhost"
                                                           : gateway.allowed_hosts.front();
  const bool is_v6 = host.find(':') != host.npos;
  return (gateway.tls_certificate.empty() ? "http://" : "https://") + (is_v6 ? "[" + host + "]" : host) +
         ":" + std::to_string(port);
}

}  // namespace convoy::cli
