#include <kj/exception.h>

#include <algorithm>
#include <random>

#include "actors/links_impl.hpp"
#include "actors/log.hpp"

namespace convoy::actors {

using schema::FrameTraits;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

namespace {

constexpr size_t handshakes_max = 64;  // connections that have not said who they are: more are closed at once
constexpr milliseconds retry_first{20}, retry_max{250}, accept_pause{100};

Outgoing hello_frame(const wire::Greeting& greeting) {
  return {.type = FrameTraits<schema::Hello>::type_id, .bytes = wire::encode(greeting).bytes()};
}

Outgoing refusal_frame(const std::string& reason, bool retry, bool linked) {
  schema::FrameBuilder<schema::HelloRefused> refused;
  refused->setReason(reason);
  refused->setRetry(retry);
  refused->setLinked(linked);
  return {.type = FrameTraits<schema::HelloRefused>::type_id, .bytes = std::move(refused).finish().bytes()};
}

uint64_t draw_link_id() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

}  // namespace

void Links::Impl::spawn(asio::awaitable<void> coroutine) {
  asio::co_spawn(io, std::move(coroutine), [](std::exception_ptr failure) {
    if (!failure) return;
    try {
      std::rethrow_exception(failure);
    } catch (const std::exception& e) {
      log::warn_limited("link.handshake_failed", {{"reason", e.what()}});
    }
  });
}

Links::Impl::Connection Links::Impl::handshake(LinkSocket socket, milliseconds timeout) {
  auto connection = std::make_shared<Handshake>(Handshake{std::move(socket), asio::steady_timer(io)});
  live.insert(connection);
  connection->deadline.expires_after(timeout);
  connection->deadline.async_wait([this, weak = std::weak_ptr(connection)](boost::system::error_code error) {
    const auto connection = weak.lock();
    if (error || !connection) return;
    connection->late = true;
    give_up(*connection);
  });
  return connection;
}

void Links::Impl::give_up(Handshake& connection) {
  boost::system::error_code ignored;  // it may be closed already
  connection.socket.lowest_layer().close(ignored);
  connection.deadline.cancel();
  std::erase_if(forming, [&](const auto& entry) { return entry.second.control.get() == &connection; });
  std::erase_if(live, [&](const auto& other) { return other.get() == &connection; });
}

asio::awaitable<void> Links::Impl::nap(milliseconds time) {
  asio::steady_timer timer(io, time);
  naps.insert(&timer);
  co_await timer.async_wait(asio::as_tuple(asio::use_awaitable));
  naps.erase(&timer);
}

wire::Greeting Links::Impl::greeting(bool bulk, uint64_t link_id) {
  const std::lock_guard lock(mutex);
  return {.protocol_version = wire::protocol_version,
          .cluster = options.cluster,
          .peer = self,
          .bulk = bulk,
          .link_id = link_id};
}

// ---- accepting
// --------------------------------------------------------------------------------------------------

asio::awaitable<void> Links::Impl::accept(std::shared_ptr<LinkAcceptor> acceptor) {
  while (!stopping) {
    auto [error, socket] = co_await acceptor->async_accept(asio::as_tuple(asio::use_awaitable));
    if (stopping) co_return;
    if (error) {  // out of descriptors, most likely: others will be closed
      log::error("link.accept_failed", {{"reason", error.message()}});
      co_await nap(accept_pause);
      continue;
    }
    not_for_children(socket.native_handle());
    const bool full = live.size() >= handshakes_max;
    if (full || of_another_user(socket)) {
      log::warn_limited("link.refused", {{"address", address_of(socket)},
                                         {"reason", full ? "too many connections without a Hello"
                                                         : "a process of another user"}});
      continue;
    }
    spawn(greet(handshake(std::move(socket), milliseconds(options.limits.handshake_timeout_ms))));
  }
}

asio::awaitable<Links::Impl::Answer> Links::Impl::read_answer(Handshake& connection) {
  Answer answer;
  auto in = co_await read_frame(connection.socket, wire::hello_bytes_max);
  if (connection.late) in.refused = "no Hello within handshake_timeout_ms";
  if (!in.refused.empty()) {
    answer.refusal.reason = in.refused;
    co_return answer;
  }
  const schema::FrameBytes bytes(std::move(in.buffer));
  try {
    if (in.header.type == FrameTraits<schema::Hello>::type_id) {
      answer.greeting = wire::read_greeting(schema::Frame<schema::Hello>(bytes));
      if (auto refused = wire::refuse_greeting(answer.greeting, options.cluster))
        answer.refusal = {*refused, false};
    } else if (in.header.type == FrameTraits<schema::HelloRefused>::type_id) {
      const schema::Frame<schema::HelloRefused> frame(bytes);
      const schema::Reading refused(frame);
      answer.refusal = {"refused by the peer: " + std::string(refused->getReason().cStr()),
                        refused->getRetry(), refused->getLinked()};
    } else {
      answer.refusal = {"a frame of type " + std::to_string(in.header.type) + " before the Hello", false};
    }
  } catch (const kj::Exception& e) {
    answer.refusal = {std::string("malformed Hello: ") + e.getDescription().cStr(), false};
  }
  co_return answer;
}

asio::awaitable<void> Links::Impl::greet(Connection connection) {
  const auto address = address_of(connection->socket);
  auto answer = co_await read_answer(*connection);
  auto& refusal = answer.refusal;
  if (refusal.reason.empty()) {
    if (answer.greeting.bulk)
      refusal = co_await greet_bulk(connection, answer.greeting);
    else
      refusal = co_await greet_control(connection, answer.greeting);
  }
  if (refusal.reason.empty()) co_return;
  if (!stopping) log::warn_limited("link.refused", {{"address", address}, {"reason", refusal.reason}});
  if (connection->socket.is_open()) {
    const Outgoing frame = refusal_frame(refusal.reason, refusal.retry, refusal.linked);
    // Best effort: whoever sent garbage may not listen.
    co_await write_frames(connection->socket, std::span(&frame, 1));
  }
  give_up(*connection);
}

bool Links::Impl::we_choose(const PeerIdentity& peer) {
  const std::lock_guard lock(mutex);
  return key_of(self) < key_of(peer);
}

bool Links::Impl::chosen(const PeerIdentity& peer) const {
  return std::any_of(live.begin(), live.end(),
                     [key = key_of(peer)](const auto& connection) { return connection->chosen_for == key; });
}

bool Links::Impl::linked_to(const asio::ip::tcp::endpoint& address) const {
  return std::any_of(links.begin(), links.end(), [&](const auto& link) {
    const PeerIdentity& peer = link->peer();
    return loopback_endpoint(peer.listen_host, peer.listen_port) == address;
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

asio::awaitable<Links::Impl::Refusal> Links::Impl::greet_control(Connection connection,
                                                                 wire::Greeting theirs) {
  const PeerIdentity& peer = theirs.peer;
  for (auto it = forming.begin(); it != forming.end();) {  // the peer gave up an earlier attempt
    const auto earlier = it++->second;
    if (key_of(earlier.greeting.peer) == key_of(peer)) give_up(*earlier.control);
  }
  if (auto refusal = no_room_for(peer); !refusal.reason.empty()) co_return refusal;
  if (forming.contains(theirs.link_id)) co_return Refusal{"this link id is taken", true};
  forming.emplace(theirs.link_id, Forming{theirs, connection});
  const Outgoing hello = hello_frame(greeting(false, theirs.link_id));
  if (auto error = co_await write_frames(connection->socket, std::span(&hello, 1)))
    co_return Refusal{"the Hello could not be written: " + error.message(), true};
  co_return Refusal{};  // the bulk connection takes it from here, or the deadline closes it
}

asio::awaitable<Links::Impl::Refusal> Links::Impl::greet_bulk(Connection connection, wire::Greeting theirs) {
  const auto found = forming.find(theirs.link_id);
  const PeerIdentity& peer = theirs.peer;
  if (found == forming.end() || key_of(found->second.greeting.peer) != key_of(peer))
    co_return Refusal{"a bulk connection without its control connection", true};
  if (port(peer)) co_return Refusal{describe(peer) + " is linked already", true, true};
  if (we_choose(peer) && chosen(peer))
    co_return Refusal{describe(peer) + " is being linked by our own connection", true};
  connection->chosen_for = key_of(peer);
  const Connection control = found->second.control;
  const Outgoing hello = hello_frame(greeting(true, theirs.link_id));
  if (auto error = co_await write_frames(connection->socket, std::span(&hello, 1)))
    co_return Refusal{"the Hello could not be written: " + error.message(), true};
  if (!forming.contains(theirs.link_id)) co_return Refusal{"the control connection ended", true};
  auto control_socket = std::move(control->socket);
  auto bulk_socket = std::move(connection->socket);
  give_up(*control);
  give_up(*connection);
  co_return go_up(theirs, std::move(control_socket), std::move(bulk_socket));
}

// ---- connecting
// -------------------------------------------------------------------------------------------------

asio::awaitable<void> Links::Impl::connect(std::string host, uint16_t port, uint32_t give_up_ms) {
  const auto address = host + ":" + std::to_string(port);
  const auto until = Clock::now() + milliseconds(give_up_ms);
  Refusal refusal{"not a loopback address, and links are plaintext under dev = true", false};
  if (const auto endpoint = loopback_endpoint(host, port)) {
    for (auto pause = retry_first;; pause = std::min(2 * pause, retry_max)) {
      const auto left = std::chrono::duration_cast<milliseconds>(until - Clock::now());
      refusal = co_await attempt(
          *endpoint, std::clamp(left, milliseconds(1), milliseconds(options.limits.handshake_timeout_ms)));
      const bool linked = refusal.linked && linked_to(*endpoint);  // they connected to us meanwhile
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
  const auto control = handshake(LinkSocket(io), timeout);
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
    const auto bulk = handshake(LinkSocket(io), timeout);
    refusal = co_await open(bulk, to, true, link_id, theirs_bulk);
    if (refusal.reason.empty() && key_of(theirs.peer) != key_of(theirs_bulk.peer))
      refusal = {"two processes answered at one address", true};
    if (refusal.reason.empty() && !stopping && control->socket.is_open()) {
      auto control_socket = std::move(control->socket);
      auto bulk_socket = std::move(bulk->socket);
      refusal = go_up(theirs, std::move(control_socket), std::move(bulk_socket));
    } else if (port(theirs.peer) || is_forming(theirs.peer)) {
      refusal = {};  // they chose their own connection to us
    }
    give_up(*bulk);
  }
  give_up(*control);
  co_return refusal;
}

asio::awaitable<Links::Impl::Refusal> Links::Impl::open(Connection connection, asio::ip::tcp::endpoint to,
                                                        bool bulk, uint64_t link_id, wire::Greeting& theirs) {
  if (stopping) co_return Refusal{"this process closes its links", false};
  if (!options.unix_sockets || !connect_beside(connection->socket, to)) {
    auto [error] = co_await connection->socket.async_connect(to, asio::as_tuple(asio::use_awaitable));
    if (error)
      co_return Refusal{connection->late ? "no connection within handshake_timeout_ms" : error.message(),
                        true};
  }
  not_for_children(connection->socket.native_handle());
  const Outgoing hello = hello_frame(greeting(bulk, link_id));
  if (auto failed = co_await write_frames(connection->socket, std::span(&hello, 1)))
    co_return Refusal{"the Hello could not be written: " + failed.message(), true};
  auto answer = co_await read_answer(*connection);
  if (answer.refusal.reason.empty() && (answer.greeting.link_id != link_id || answer.greeting.bulk != bulk))
    answer.refusal = {"the peer answered another Hello", false};
  theirs = answer.greeting;
  co_return answer.refusal;
}

// ---- up and down
// ------------------------------------------------------------------------------------------------

Links::Impl::Refusal Links::Impl::go_up(const wire::Greeting& theirs, LinkSocket control, LinkSocket bulk) {
  const PeerIdentity& peer = theirs.peer;
  if (stopping) return {"this process closes its links", false};
  if (auto refusal = no_room_for(peer); !refusal.reason.empty()) return refusal;
  for (auto* socket : {&control, &bulk})
    if (!unix_peer(*socket)) socket->set_option(asio::ip::tcp::no_delay(true));
  const char* over = unix_peer(control) ? "unix" : "tcp";
  const auto link =
      PeerLink::create(*this, io, system, options.limits, peer, std::move(control), std::move(bulk));
  links.insert(link);
  {
    const std::lock_guard lock(mutex);
    ports[key_of(peer)] = link->port();
  }
  log::info("link.up", {{"peer", describe(peer)}, {"over", over}});
  if (events.up) events.up(peer);
  link->start();
  return {};
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
