#include "cli/port_holder.hpp"

#include <algorithm>
#include <boost/asio.hpp>
#include <charconv>
#include <cstring>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>
#include <vector>

#include "actors/link/link_address.hpp"
#include "cli/cluster_client.hpp"
#include "cli/unavailable.hpp"
#include "model/error.hpp"

namespace convoy::cli {

namespace fs = std::filesystem;
namespace ip = boost::asio::ip;

namespace {

/// An address as /proc/net/tcp and tcp6 write it: words of 32 bits in the machine's order.
std::optional<ip::address> address_of(const std::string& hex) {
  std::array<uint8_t, 16> bytes{};
  if (hex.size() != 8 && hex.size() != 32) return std::nullopt;
  for (size_t i = 0; i < hex.size() / 8; ++i) {
    uint32_t word = 0;
    std::from_chars(hex.data() + 8 * i, hex.data() + 8 * i + 8, word, 16);
    std::memcpy(bytes.data() + 4 * i, &word, 4);
  }
  if (hex.size() == 32) return ip::address_v6(bytes);
  return ip::address_v4({bytes[0], bytes[1], bytes[2], bytes[3]});
}

/// The sockets that listen on that port, by inode.
std::set<std::string> listening(const ip::address& wanted, uint16_t port) {
  constexpr const char* listen_state = "0A";
  std::set<std::string> inodes;
  for (const char* table : {"/proc/net/tcp", "/proc/net/tcp6"}) {
    std::ifstream in(table);
    std::string line;
    std::getline(in, line);  // the heading
    while (std::getline(in, line)) {
      std::istringstream words(line);
      std::string slot, local, remote, state, queues, timer, retransmits, uid, timeout, inode;
      words >> slot >> local >> remote >> state >> queues >> timer >> retransmits >> uid >> timeout >> inode;
      const auto colon = local.find(':');
      if (state != listen_state || colon == std::string::npos) continue;
      if (std::stoul(local.substr(colon + 1), nullptr, 16) != port) continue;
      const auto address = address_of(local.substr(0, colon));
      if (address && (*address == wanted || address->is_unspecified())) inodes.insert(inode);
    }
  }
  return inodes;
}

bool has_socket(const fs::path& process, const std::set<std::string>& inodes) {
  std::error_code error;
  for (fs::directory_iterator it(process / "fd", error), end; !error && it != end; it.increment(error)) {
    std::error_code gone;
    const std::string target = fs::read_symlink(it->path(), gone).string();
    if (target.starts_with("socket:[") && inodes.contains(target.substr(8, target.size() - 9))) return true;
  }
  return false;
}

std::vector<std::string> command_line(const fs::path& process) {
  std::ifstream in(process / "cmdline");
  std::vector<std::string> words;
  for (std::string word; std::getline(in, word, '\0');) words.push_back(word);
  return words;
}

/// Of a process that runs `… node --config FILE --name NAME`, or the head that it started: whose it is.
void recognise_node(PortHolder& holder, const fs::path& process, const std::vector<std::string>& words) {
  if (words.size() < 2 || (words[1] != "node" && words[1] != "head")) return;
  const bool is_head = words[1] == "head";
  std::string config = "cluster.conf", node;
  pid_t parent = 0;
  for (size_t i = 2; i + 1 < words.size(); ++i) {
    if (words[i] == "--config") config = words[i + 1];
    if (words[i] == "--name") node = words[i + 1];
    if (words[i] == "--parent") parent = static_cast<pid_t>(std::strtol(words[i + 1].c_str(), nullptr, 10));
  }
  std::error_code error;
  const fs::path folder = fs::read_symlink(process / "cwd", error);
  try {
    const auto loaded = actors::load_cluster_config(error ? fs::path(config) : folder / config);
    holder.node = is_head ? loaded.head().name : node;
    if (is_head) holder.pid = parent;  // which starts another one if this one is killed
    holder.cluster = loaded.cluster.name;
    holder.config = loaded.file;
  } catch (const std::exception&) {
    // Its file is gone, or not ours to read: then it is a program like any other.
  }
}

}  // namespace

std::optional<PortHolder> port_holder(const std::string& host, uint16_t port) {
  boost::system::error_code wrong;
  const auto address =
      host == "localhost" ? ip::address(ip::address_v4::loopback()) : ip::make_address(host, wrong);
  if (wrong) return std::nullopt;  // who listens there will say so
  const auto inodes = listening(address, port);
  if (inodes.empty()) return std::nullopt;
  PortHolder holder;
  std::error_code error;
  for (fs::directory_iterator it("/proc", error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos || !has_socket(it->path(), inodes))
      continue;
    holder.pid = static_cast<pid_t>(std::stol(name));
    const auto words = command_line(it->path());
    if (!words.empty()) holder.program = fs::path(words.front()).filename();
    recognise_node(holder, it->path(), words);
    break;
  }
  return holder;
}

std::string port_held_text(const PortHolder& holder, uint16_t port, const std::string& key) {
  const std::string taken = "port " + std::to_string(port) + " (" + key + ") is held by ";
  const std::string pid = "pid " + std::to_string(holder.pid);
  if (!holder.cluster.empty())
    return taken + "cluster " + holder.cluster + " in " + holder.config.parent_path().string() + ", " + pid +
           "; end it with `convoy down --config " + holder.config.string() + "`, or choose another port";
  if (holder.pid != 0) return taken + holder.program + ", " + pid + "; end that, or choose another port";
  return taken + "a process of another user; choose another port";
}

std::vector<actors::NodeConfig> nodes_here(const actors::ClusterConfig& config) {
  namespace asio = boost::asio;
  std::vector<actors::NodeConfig> here;
  std::ranges::copy_if(config.cluster.nodes, std::back_inserter(here), [](const actors::NodeConfig& node) {
    const auto address = actors::numeric_endpoint(node.listen_host(), 0);  // any port
    if (!address) return false;
    asio::io_context io;
    asio::ip::tcp::socket socket(io, address->protocol());
    boost::system::error_code error;
    socket.bind(*address, error);
    return !error;
  });
  return here;
}

bool has_head(const std::vector<actors::NodeConfig>& nodes, const actors::ClusterConfig& config) {
  return std::ranges::any_of(nodes, [&](const auto& node) { return node.name == config.head().name; });
}

uint16_t listen_or_explain(actors::Links& links, const actors::ClusterConfig& config,
                           const actors::NodeConfig& node, uint16_t port) {
  try {
    return links.listen(node.listen_host(), port);
  } catch (const InputError&) {
    const auto holder = port_holder(node.listen_host(), port);
    if (!holder) throw;
    throw Unavailable(port_held_text(*holder, port, listen_key(config, node.name)));
  }
}

}  // namespace convoy::cli
