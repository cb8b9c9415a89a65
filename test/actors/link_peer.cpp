// The far side of the link tests, a process of its own: link_peer PORT LEASE_MS [TLS_FOLDER] connects, with
// the certificate of node "far" if a folder is named, publishes an echo as stage 1 and lives until its link
// ends (exit 0) or cannot be made (exit 3).

#include <cstdlib>

#include "actors/link/link_tls.hpp"
#include "link_rig.hpp"

using namespace rig;

int main(int argc, char** argv) {
  if (argc != 3 && argc != 4) return 2;
  caf::actor_system_config config;
  caf::actor_system system(config);
  auto head = std::make_shared<Slot<ReplyActor>>();
  auto outcome = std::make_shared<Slot<int>>();
  LinkOptions options = options_of();
  if (argc == 4) {
    options.dev = options.unix_sockets = false;
    options.tls = std::make_shared<LinkTls>(argv[3], options.cluster, "far");
    options.places = {"near", [](const std::string&, uint32_t) { return true; }};
  }
  options.limits.lease_ms = static_cast<uint32_t>(std::atoi(argv[2]));
  std::optional<Links> links;
  std::mutex made;  // up() may run before emplace() has returned
  std::unique_lock making(made);
  links.emplace(system, options, identity("far", Role::STAGE, 1, static_cast<uint64_t>(getpid())),
                Links::Events{.up =
                                  [&](const PeerIdentity& peer) {
                                    const std::lock_guard lock(made);
                                    head->set(links->remote<ReplyActor>(peer, Role::PIPELINE, 0));
                                  },
                              .down = [&](const PeerIdentity&, const std::string&) { outcome->set(0); },
                              .refused = [&](const std::string&, const std::string&) { outcome->set(3); }});
  making.unlock();
  const auto stage = system.spawn(echo, [head] { return head->wait().value(); });
  links->publish(Role::STAGE, 1, caf::actor_cast<caf::actor>(stage));
  links->connect("127.0.0.1", static_cast<uint16_t>(std::atoi(argv[1])), patience_ms);
  const auto code = outcome->wait(std::chrono::minutes(10));
  links.reset();
  caf::anon_send_exit(stage, caf::exit_reason::user_shutdown);
  return code.value_or(4);
}
