#include <kj/exception.h>

#include <algorithm>

#include "actors/link/certificates.hpp"
#include "actors/link/link_address.hpp"
#include "actors/link/links_impl.hpp"
#include "actors/process/log.hpp"

namespace convoy::actors {

using schema::FrameTraits;
using std::chrono::milliseconds;

namespace {

constexpr milliseconds accept_pause{100};

Outgoing refusal_frame(const std::string& reason, bool retry, bool linked) {
  schema::FrameBuilder<schema::HelloRefused> refused;
  refused->setReason(reason);
  refused->setRetry(retry);
  refused->setLinked(linked);
  return outgoing(std::move(refused).finish());
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

Links::Impl::Connection Links::Impl::handshake(LinkSocket socket, Handshake::From from, LinkProof::End us,
                                               const std::string& address, milliseconds timeout) {
  auto connection = std::make_shared<Handshake>(Handshake{
      LinkConnection(std::move(socket)), asio::steady_timer(io), from, us, LinkProof(key, us, address)});
  live.insert(connection);
  close_after(connection, timeout);
  return connection;
}

void Links::Impl::close_after(const Connection& connection, milliseconds timeout) {
  connection->deadline.expires_after(timeout);
  connection->deadline.async_wait([this, weak = std::weak_ptr(connection)](boost::system::error_code error) {
    const auto connection = weak.lock();
    if (error || !connection) return;
    connection->late = true;
    give_up(*connection);
  });
}

void Links::Impl::give_up(Handshake& connection) {
  connection.connection.close();
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

wire::Greeting Links::Impl::greeting(bool bulk, uint64_t link_id, const PeerIdentity* to) {
  const std::lock_guard lock(mutex);
  wire::Greeting greeting{.cluster = options.cluster,
                          .peer = self,
                          .terms = terms_of(options.limits),
                          .bulk = bulk,
                          .link_id = link_id};
  if (!to || to->role != schema::Role::STAGE) return greeting;
  if (const auto model = models.find(to->pipeline); model != models.end())
    greeting.peer.model = model->second;
  return greeting;
}

/// A stage that this head has no use for.
std::optional<std::string> Links::Impl::refuse_pipeline(const PeerIdentity& peer) {
  const std::lock_guard lock(mutex);
  if (peer.role != schema::Role::STAGE || models.empty() || models.contains(peer.pipeline)) return {};
  return "there is no pipeline \"" + peer.pipeline +
         "\" here: cluster.conf was changed or differs between machines; give all machines the same, end the "
         "cluster and start it again";
}

// ---- what is said and heard before a link is up ----

/// From then on it is the connection's own key that both ends show each other: that they both are what their
/// certificates say, TLS has shown.
asio::awaitable<std::string> Links::Impl::encrypt(Handshake& connection) {
  if (!options.tls || unix_peer(connection.connection.socket())) co_return std::string();
  const bool first = connection.us == LinkProof::End::connector;
  auto failed = co_await connection.connection.encrypt(
      options.tls->context(), first ? asio::ssl::stream_base::client : asio::ssl::stream_base::server,
      !first && options.enrol ? LinkConnection::Strangers::allowed : LinkConnection::Strangers::refused);
  if (connection.late) failed = "no TLS within handshake_timeout_ms";
  if (failed.empty()) connection.proof.emplace(connection.connection.shared_key(), connection.us, "");
  co_return failed;
}

asio::awaitable<Links::Impl::Heard> Links::Impl::hear_frame(Handshake& connection) {
  auto in = co_await read_frame(connection.connection, wire::hello_bytes_max);
  if (connection.late) in.refused = "nothing more within handshake_timeout_ms";
  co_return Heard{in.header.type, schema::FrameBytes(std::move(in.buffer)), in.refused};
}

asio::awaitable<Links::Impl::Heard> Links::Impl::hear_challenge(Handshake& connection) {
  auto heard = co_await hear_frame(connection);
  if (!heard.refused.empty()) co_return heard;
  if (heard.type != FrameTraits<schema::Challenge>::type_id) {
    heard.refused = "a frame of type " + std::to_string(heard.type) + " in place of a challenge";
    heard.stranger = true;
    co_return heard;
  }
  try {
    heard.refused =
        connection.proof->refuse_challenge(schema::Frame<schema::Challenge>(heard.bytes)).value_or("");
  } catch (const kj::Exception& e) {
    heard.refused = std::string("malformed challenge: ") + e.getDescription().cStr();
  }
  heard.stranger = !heard.refused.empty();
  co_return heard;
}

asio::awaitable<Links::Impl::Heard> Links::Impl::hear(Handshake& connection) {
  auto heard = co_await hear_frame(connection);
  if (!heard.refused.empty()) co_return heard;
  const auto proof = co_await hear_frame(connection);
  heard.refused = proof.refused;
  if (heard.refused.empty() && proof.type != FrameTraits<schema::Proof>::type_id)
    heard.refused = "a frame of type " + std::to_string(proof.type) + " in place of a proof";
  if (!heard.refused.empty()) co_return heard;
  try {
    heard.refused =
        connection.proof->refuse(heard.type, heard.bytes, schema::Frame<schema::Proof>(proof.bytes))
            .value_or("");
  } catch (const kj::Exception& e) {
    heard.refused = std::string("malformed proof: ") + e.getDescription().cStr();
  }
  co_return heard;
}

asio::awaitable<std::string> Links::Impl::say_challenge(Handshake& connection) {
  const Outgoing frame = outgoing(connection.proof->challenge());
  if (const auto error = co_await write_frames(connection.connection, std::span(&frame, 1)))
    co_return "the challenge could not be written: " + error.message();
  co_return std::string();
}

asio::awaitable<std::string> Links::Impl::say(Handshake& connection, Outgoing what) {
  const Outgoing frames[] = {what, outgoing(connection.proof->prove(what.type, what.bytes))};
  if (const auto error = co_await write_frames(connection.connection, frames))
    co_return "the Hello could not be written: " + error.message();
  co_return std::string();
}

asio::awaitable<std::string> Links::Impl::say_hello(Handshake& connection, bool bulk, uint64_t link_id,
                                                    const PeerIdentity* to) {
  return say(connection, outgoing(wire::encode(greeting(bulk, link_id, to))));
}

/// Processes of this machine are one user's and know one secret: they are what they say.
std::optional<std::string> Links::Impl::refuse_claim(const Handshake& connection, const PeerIdentity& peer) {
  if (!connection.connection.encrypted()) return std::nullopt;
  const auto refused = refuse_place(peer, self.role, options.places);
  return refused ? std::optional(describe(peer) + ": " + *refused) : std::nullopt;
}

asio::awaitable<Links::Impl::Answer> Links::Impl::read_answer(Handshake& connection) {
  Answer answer;
  const auto heard = co_await hear(connection);
  if (!heard.refused.empty()) {
    answer.refusal = {.reason = heard.refused, .silent = true};
    co_return answer;
  }
  try {
    if (heard.type == FrameTraits<schema::Hello>::type_id) {
      answer.greeting = wire::read_greeting(schema::Frame<schema::Hello>(heard.bytes));
      const std::string& node = answer.greeting.peer.node;
      const PeerIdentity& peer = answer.greeting.peer;
      const auto refused = wire::refuse_greeting(answer.greeting, greeting(false, 0, &peer));
      const auto no_pipeline = refuse_pipeline(peer);
      if (no_pipeline && (!refused || refused->retry))  // of none there will be no digest
        answer.refusal = {*no_pipeline, false};
      else if (refused)
        answer.refusal = {refused->reason, refused->retry};
      else if (connection.connection.encrypted() &&
               connection.connection.peer_name() != certificate_name(options.cluster, node))
        answer.refusal = {"says it is of node " + node + ", with another node's certificate", false};
      else if (auto misplaced = refuse_claim(connection, answer.greeting.peer))
        answer.refusal = {.reason = *misplaced, .retry = false, .silent = true};
    } else if (heard.type == FrameTraits<schema::HelloRefused>::type_id) {
      const schema::Frame<schema::HelloRefused> frame(heard.bytes);
      const schema::Reading refused(frame);
      answer.refusal = {"refused by the peer: " + std::string(refused->getReason().cStr()),
                        refused->getRetry(), refused->getLinked()};
    } else {
      answer.refusal = {"a frame of type " + std::to_string(heard.type) + " before the Hello", false};
    }
  } catch (const kj::Exception& e) {
    answer.refusal = {std::string("malformed Hello: ") + e.getDescription().cStr(), false};
  }
  co_return answer;
}

// ---- accepting ----

/// Why nobody can be listened to on that connection, or nothing.
std::string Links::Impl::refuse_connection(LinkSocket& socket, Handshake::From from) const {
  if (of_another_user(socket)) return "a process of another user";
  const auto waiting = std::count_if(live.begin(), live.end(),
                                     [from](const auto& connection) { return connection->from == from; });
  if (static_cast<uint64_t>(waiting) >= options.limits.handshakes_max)
    return "handshakes_max = " + std::to_string(options.limits.handshakes_max) +
           " connections have not said who they are";
  return {};
}

asio::awaitable<void> Links::Impl::accept(std::shared_ptr<Listener> listener) {
  const auto from = listener->over_unix ? Handshake::From::unix_socket : Handshake::From::tcp;
  while (!stopping) {
    auto [error, socket] = co_await listener->acceptor.async_accept(asio::as_tuple(asio::use_awaitable));
    if (stopping) co_return;
    if (error) {  // out of descriptors, most likely: others will be closed
      log::warn_limited("link.accept_failed", {{"reason", error.message()}});
      co_await nap(accept_pause);
      continue;
    }
    not_for_children(socket.native_handle());
    if (const auto reason = refuse_connection(socket, from); !reason.empty()) {
      log::warn_limited("link.refused", {{"address", address_of(socket)}, {"reason", reason}});
      continue;
    }
    spawn(greet(handshake(std::move(socket), from, LinkProof::End::acceptor, listener->address,
                          milliseconds(options.limits.handshake_timeout_ms))));
  }
}

asio::awaitable<void> Links::Impl::greet(Connection connection) {
  const auto address = address_of(connection->connection.socket());
  Refusal refusal{.silent = true};
  refusal.reason = co_await encrypt(*connection);
  const bool is_link = !connection->connection.encrypted() || connection->connection.certified();
  if (refusal.reason.empty() && is_link)
    refusal = co_await greet_link(connection);
  else if (refusal.reason.empty())
    refusal = co_await enrol(connection);
  if (refusal.reason.empty()) co_return;
  if (!stopping) log::warn_limited("link.refused", {{"address", address}, {"reason", refusal.reason}});
  // Best effort, and only to one that knows the secret: a stranger is told nothing.
  if (connection->connection.is_open() && !refusal.silent)
    co_await say(*connection, refusal_frame(refusal.reason, refusal.retry, refusal.linked));
  give_up(*connection);
}

asio::awaitable<Links::Impl::Refusal> Links::Impl::greet_link(Connection connection) {
  const Heard challenge = co_await hear_challenge(*connection);
  if (!challenge.refused.empty()) co_return Refusal{.reason = challenge.refused, .silent = true};
  if (auto failed = co_await say_challenge(*connection); !failed.empty())
    co_return Refusal{.reason = failed, .silent = true};
  auto answer = co_await read_answer(*connection);
  if (!answer.refusal.reason.empty()) co_return answer.refusal;
  if (answer.greeting.bulk) co_return co_await greet_bulk(connection, answer.greeting);
  co_return co_await greet_control(connection, answer.greeting);
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
  if (auto failed = co_await say_hello(*connection, false, theirs.link_id, &peer); !failed.empty())
    co_return Refusal{failed, true};
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
  if (auto failed = co_await say_hello(*connection, true, theirs.link_id, &peer); !failed.empty())
    co_return Refusal{failed, true};
  if (!forming.contains(theirs.link_id)) co_return Refusal{"the control connection ended", true};
  auto control_connection = std::move(control->connection);
  auto bulk_connection = std::move(connection->connection);
  give_up(*control);
  give_up(*connection);
  co_return go_up(theirs, std::move(control_connection), std::move(bulk_connection));
}

}  // namespace convoy::actors
