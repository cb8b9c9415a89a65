#include <algorithm>
#include <random>

#include "actors/link/link_address.hpp"
#include "actors/link/links_impl.hpp"
#include "actors/process/log.hpp"

namespace convoy::actors {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

namespace {

constexpr milliseconds certificates_looked_at{1000};

const char* no_endpoint(bool dev) {
  return dev ? "not a loopback address, and links are plaintext under dev = true" : "not a numeric address";
}

uint64_t draw_link_id() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

}  // namespace

bool Links::Impl::we_choose(const PeerIdentity& peer) {
  const std::lock_guard lock(mutex);
  return key_of(self) < key_of(peer);
}

bool Links::Impl::chosen(const PeerIdentity& peer) const {
  return std::any_of(live.begin(), live.end(),
                     [key = key_of(peer)](const auto& connection) { return connection->chosen_for == key; });
}

std::optional<asio::ip::tcp::endpoint> Links::Impl::endpoint(const std::string& host, uint16_t port) const {
  return options.dev ? loopback_endpoint(host, port) : numeric_endpoint(host, port);
}

bool Links::Impl::linked_to(const asio::ip::tcp::endpoint& address) const {
  return std::any_of(links.begin(), links.end(), [&](const auto& link) {
    const PeerIdentity& peer = link->peer();
    return endpoint(peer.listen_host, peer.listen_port) == address;
  });
}

bool Links::Impl::is_forming(const PeerIdentity& peer) const {
  return std::any_of(forming.begin(), forming.end(), [key = key_of(peer)](const auto& entry) {
    return key_of(entry.second.greeting.peer) == key;
  });
}

Links::Impl::Refusal Links::Impl::no_room_for(const PeerIdentity& peer) {
  if (port(peer)) return {describe(peer) + " is linked already", true, true};
  if (links.size() + forming.size() >= options.limits.links_max)
    return {"links_max = " + std::to_string(options.limits.links_max) + " links are up", true};
  return {};
}

asio::awaitable<void> Links::Impl::connect(std::string host, uint16_t port, uint32_t give_up_ms) {
  const auto address = host + ":" + std::to_string(port);
  const auto until = Clock::now() + milliseconds(give_up_ms);
  const milliseconds retry_first(options.limits.retry_first_ms), retry_max(options.limits.retry_max_ms);
  Refusal refusal{no_endpoint(options.dev), false};
  if (const auto to = endpoint(host, port)) {
    for (auto pause = retry_first;; pause = std::min(2 * pause, std::max(retry_first, retry_max))) {
      const auto left = std::chrono::duration_cast<milliseconds>(until - Clock::now());
      refusal = co_await attempt(
          *to, std::clamp(left, milliseconds(1), milliseconds(options.limits.handshake_timeout_ms)));
      const bool linked = refusal.linked && linked_to(*to);  // they connected to us meanwhile
      if (refusal.reason.empty() || linked || stopping) co_return;
      log::debug("link.attempt_failed", {{"address", address}, {"reason", refusal.reason}});
      if (!refusal.retry || Clock::now() + pause >= until) break;
      co_await nap(pause);
      if (stopping) co_return;
    }
  }
  log::warn_limited("link.refused", {{"address", address}, {"reason", refusal.reason}});
  if (events.refused) events.refused(address, refusal.reason);
}

asio::awaitable<Links::Impl::Refusal> Links::Impl::attempt(asio::ip::tcp::endpoint to, milliseconds timeout) {
  const uint64_t link_id = draw_link_id();
  wire::Greeting theirs, theirs_bulk;
  const auto control =
      handshake(LinkSocket(io), Handshake::From::us, LinkProof::End::connector, text_of(to), timeout);
  auto refusal = co_await open(control, to, false, link_id, theirs);
  if (refusal.reason.empty()) {
    const PeerIdentity& peer = theirs.peer;
    if (port(peer) || (we_choose(peer) && chosen(peer))) {  // they connected to us meanwhile
      give_up(*control);
      co_return Refusal{};
    }
    control->chosen_for = key_of(peer);
    refusal = no_room_for(peer);
  }
  if (refusal.reason.empty()) {
    const auto bulk =
        handshake(LinkSocket(io), Handshake::From::us, LinkProof::End::connector, text_of(to), timeout);
    refusal = co_await open(bulk, to, true, link_id, theirs_bulk);
    if (refusal.reason.empty() && key_of(theirs.peer) != key_of(theirs_bulk.peer))
      refusal = {"two processes answered at one address", true};
    if (refusal.reason.empty() && !stopping && control->connection.is_open()) {
      auto control_connection = std::move(control->connection);
      auto bulk_connection = std::move(bulk->connection);
      refusal = go_up(theirs, std::move(control_connection), std::move(bulk_connection));
    } else if (port(theirs.peer) || is_forming(theirs.peer)) {
      refusal = {};  // they chose their own connection to us
    } else if (refusal.reason.empty()) {
      refusal = {"no bulk connection within handshake_timeout_ms of the control connection", true};
    }
    give_up(*bulk);
  }
  give_up(*control);
  co_return refusal;
}

/// A connection to that address, over the Unix-domain socket if one is there, on which the other side has
/// shown that it knows the secret, or has a certificate of the cluster's authority.
asio::awaitable<Links::Impl::Refusal> Links::Impl::reach(Handshake& connection, asio::ip::tcp::endpoint to) {
  LinkSocket& socket = connection.connection.socket();
  if (!options.unix_sockets || !connect_beside(socket, to)) {
    auto [error] = co_await socket.async_connect(to, asio::as_tuple(asio::use_awaitable));
    if (error)
      co_return Refusal{connection.late ? "no connection within handshake_timeout_ms" : error.message(),
                        true};
  }
  not_for_children(socket.native_handle());
  if (const auto failed = co_await encrypt(connection); !failed.empty()) co_return Refusal{failed, true};
  if (const auto failed = co_await say_challenge(connection); !failed.empty())
    co_return Refusal{failed, true};
  const auto heard = co_await hear_challenge(connection);
  // One that says nothing may have no room now; one that says the wrong thing is a stranger.
  co_return Refusal{heard.refused, !heard.stranger};
}

asio::awaitable<Links::Impl::Refusal> Links::Impl::open(Connection connection, asio::ip::tcp::endpoint to,
                                                        bool bulk, uint64_t link_id, wire::Greeting& theirs) {
  if (stopping) co_return Refusal{"this process closes its links", false};
  if (auto refusal = co_await reach(*connection, to); !refusal.reason.empty()) co_return refusal;
  if (const auto failed = co_await say_hello(*connection, bulk, link_id); !failed.empty())
    co_return Refusal{failed, true};
  auto answer = co_await read_answer(*connection);
  if (answer.refusal.reason.empty() && (answer.greeting.link_id != link_id || answer.greeting.bulk != bulk))
    answer.refusal = {"the peer answered another Hello", false};
  theirs = answer.greeting;
  co_return answer.refusal;
}

// ---- up and down ----

Links::Impl::Refusal Links::Impl::go_up(const wire::Greeting& theirs, LinkConnection control,
                                        LinkConnection bulk) {
  PeerIdentity peer = theirs.peer;
  if (control.encrypted()) peer.certificate_until_s = control.peer_until_s();
  if (stopping) return {"this process closes its links", false};
  if (auto refusal = no_room_for(peer); !refusal.reason.empty()) return refusal;
  const bool over_unix = unix_peer(control.socket()).has_value();
  peer.here = over_unix;
  if (!over_unix)
    for (auto* connection : {&control, &bulk}) connection->socket().set_option(asio::ip::tcp::no_delay(true));
  const bool of_heads_node = !control.encrypted() || peer.node == options.places.head;
  const char* over = over_unix ? "unix" : control.encrypted() ? "tls" : "tcp";
  const auto link = PeerLink::create(*this, io, system, agreed(options.limits, theirs.terms), peer,
                                     of_heads_node, std::move(control), std::move(bulk));
  links.insert(link);
  {
    const std::lock_guard lock(mutex);
    ports[key_of(peer)] = link->port();
  }
  log::info("link.up", {{"peer", describe(peer)},
                        {"over", over},
                        {"protocol", wire::common_version(wire::our_versions, theirs.versions).value_or(0)}});
  if (events.up) events.up(peer);
  link->start();
  if (!link->peer_serial().empty() && !revocations_told.empty()) link->say_revocations(revocations_told);
  return {};
}

asio::awaitable<void> Links::Impl::watch_certificates() {
  while (!stopping) {
    options.tls->context();
    apply_revocations();
    ask_renewal();
    co_await nap(certificates_looked_at);
  }
}

void Links::Impl::apply_revocations() {
  const std::string& list = options.tls->revocations();
  if (list == revocations_told) return;
  revocations_told = list;
  for (const auto& link : std::set(links)) {
    if (link->peer_serial().empty()) continue;
    if (options.tls->revoked(link->peer_serial()))
      link->end("its certificate was revoked");
    else if (!list.empty())
      link->say_revocations(list);
  }
}

/// Lists are small and seldom: written here, on the I/O thread.
void Links::Impl::revocations(const std::string& list) {
  try {
    if (!options.tls->take_revocations(list)) return;
    log::info("link.revocations_taken");
    apply_revocations();
  } catch (const std::exception& e) {
    log::warn_limited("link.revocations_refused", {{"reason", e.what()}});
  }
}

void Links::Impl::ended(PeerLink& link, const std::string& reason) {
  const auto peer = link.peer();
  {
    const std::lock_guard lock(mutex);
    ports.erase(key_of(peer));
  }
  std::erase_if(links, [&](const auto& other) { return other.get() == &link; });
  log::info("link.down", {{"peer", describe(peer)}, {"reason", reason}});
  if (events.down) events.down(peer, reason);
}

}  // namespace convoy::actors
