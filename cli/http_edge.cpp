#include "cli/http_edge.hpp"

#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/ip/address.hpp>
#include <filesystem>
#include <memory>
#include <sstream>

#include "actors/config/added_node.hpp"
#include "actors/config_check.hpp"
#include "actors/link/authority.hpp"
#include "actors/link/link_address.hpp"
#include "model/error.hpp"

namespace convoy::cli {

namespace fs = std::filesystem;
namespace ip = boost::asio::ip;

namespace {

constexpr const char* keys_file = "keys";

/// Of interfaces that are up; none that is good on one cable only.
std::vector<std::string> addresses_here() {
  std::vector<std::string> addresses;
  ifaddrs* first = nullptr;
  if (::getifaddrs(&first) != 0) return addresses;
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> all(first, ::freeifaddrs);
  for (const ifaddrs* at = first; at; at = at->ifa_next) {
    if (!at->ifa_addr || !(at->ifa_flags & IFF_UP) || (at->ifa_flags & IFF_LOOPBACK)) continue;
    if (at->ifa_addr->sa_family == AF_INET) {
      const auto* v4 = reinterpret_cast<const sockaddr_in*>(at->ifa_addr);
      addresses.push_back(ip::address_v4(ntohl(v4->sin_addr.s_addr)).to_string());
    } else if (at->ifa_addr->sa_family == AF_INET6) {
      const auto* v6 = reinterpret_cast<const sockaddr_in6*>(at->ifa_addr);
      ip::address_v6::bytes_type bytes;
      std::copy_n(v6->sin6_addr.s6_addr, bytes.size(), bytes.begin());
      if (!ip::address_v6(bytes).is_link_local()) addresses.push_back(ip::address_v6(bytes).to_string());
    }
  }
  return addresses;
}

void add_once(std::vector<std::string>& names, const std::string& name) {
  if (!name.empty() && std::ranges::find(names, name) == names.end()) names.push_back(name);
}

}  // namespace

std::vector<std::string> reachable_names(const std::string& host) {
  const auto endpoint = actors::numeric_endpoint(host, 0);
  std::vector<std::string> names;
  if (endpoint && endpoint->address().is_unspecified())
    names = addresses_here();
  else
    names.push_back(host);
  char name[256] = {};
  if (::gethostname(name, sizeof name - 1) == 0) add_once(names, name);
  return names;
}

std::vector<std::string> certificate_names(const actors::ClusterConfig::Gateway& gateway) {
  std::vector<std::string> names = gateway.allowed_hosts;
  const auto endpoint = actors::numeric_endpoint(gateway.host, 0);
  if (endpoint && !endpoint->address().is_unspecified()) add_once(names, endpoint->address().to_string());
  for (const char* name : {"localhost", "127.0.0.1", "::1"}) add_once(names, name);
  return names;
}

std::string gateway_section(const std::string& http, const std::vector<std::string>& names,
                            const std::string& certificate, const std::string& key) {
  const auto [host, port] = actors::split_address(http);
  if (port < 0)
    throw InputError("no port in \"" + http + "\"", "--http", "give HOST:PORT, as 127.0.0.1:8080");
  if (certificate.empty() != key.empty())
    throw InputError("one without the other", "--http-certificate, --http-key", "give both, or none");
  std::ostringstream text;
  text << "\n[gateway]\nhost = " << actors::quoted(host) << "\nport = " << port << "\n";
  if (actors::loopback_endpoint(host, 0) && names.empty() && certificate.empty()) return text.str();
  const fs::path made = fs::path(actors::ClusterConfig().cluster.tls_dir) / actors::gateway_folder;
  const auto named = [](const std::string& file) { return fs::absolute(file).lexically_normal().string(); };
  text << "keys_file = " << actors::quoted(keys_file) << "\ntls_certificate = "
       << actors::quoted(certificate.empty() ? (made / actors::gateway_certificate_file).string()
                                             : named(certificate))
       << "\ntls_key = "
       << actors::quoted(key.empty() ? (made / actors::gateway_key_file).string() : named(key))
       << "\nallowed_hosts = [";
  std::string separator;
  for (const std::string& name : names.empty() ? reachable_names(host) : names) {
    text << separator << actors::quoted(name);
    separator = ", ";
  }
  text << "]\n";
  return text.str();
}

}  // namespace convoy::cli
