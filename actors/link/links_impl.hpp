#pragma once
// What Links is made of: the I/O thread, listening, connecting and the handshake. Fields under `mutex` may be
// touched by any thread, the others by the I/O thread alone.

#include <chrono>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <tuple>
#include <vector>

#include "actors/link/delivery.hpp"
#include "actors/link/enrolment.hpp"
#include "actors/link/link.hpp"
#include "actors/link/link_address.hpp"
#include "actors/link/link_connection.hpp"
#include "actors/link/link_metrics.hpp"
#include "actors/link/link_port.hpp"
#include "actors/link/link_proof.hpp"
#include "actors/link/link_stream.hpp"
#include "actors/link/link_tls.hpp"
#include "actors/link/link_wire.hpp"
#include "actors/link/peer_link.hpp"
#include "actors/link/published_actor.hpp"

namespace convoy::actors {

/// Which process: two identities are the same peer exactly if these are equal.
using PeerKey = std::tuple<std::string, schema::Role, uint32_t, uint64_t>;
inline PeerKey key_of(const PeerIdentity& peer) {
  return {peer.node, peer.role, peer.instance, peer.incarnation};
}

/// Our terms, and what becomes of our limits with a peer that has those.
wire::Terms terms_of(const LinkLimits& limits);
LinkLimits agreed(const LinkLimits& ours, const wire::Terms& theirs);

/// Where links are accepted.
struct Listener {
  LinkAcceptor acceptor;
  bool over_unix = false;
  std::string address;  // of the TCP one, on the Unix-domain one too: what peers connect to
};

/// A connection whose peer is not accepted yet. Its deadline closes it.
struct Handshake {
  /// Who connected, and how: what TCP lets in may not take the room of Unix-domain peers, whose user is
  /// known.
  enum class From : uint8_t { us, tcp, unix_socket };
  LinkConnection connection;
  asio::steady_timer deadline;
  From from;
  LinkProof::End us;
  std::optional<LinkProof> proof;
  bool late = false;
  std::optional<PeerKey> chosen_for;  // the peer, once we mean this connection to become our link to it
};

struct Links::Impl final : PeerLink::Owner {
  Impl(caf::actor_system& system, LinkOptions options, PeerIdentity self, Events events);
  ~Impl() override;

  // PeerLink::Owner
  std::shared_ptr<PublishedActor> published(schema::Role role, uint32_t instance) override;
  void deliver(const FrameType& type, const caf::actor& to, const caf::strong_actor_ptr& sender,
               schema::FrameBytes bytes) override {
    delivery.deliver(type, to, sender, std::move(bytes));
  }
  LinkMetrics& metrics() override { return counted; }
  void revocations(const std::string& list) override;
  void renew(PeerLink& link, const std::string& request) override;
  void renewed(PeerLink& link, const std::string& certificate) override;
  void ended(PeerLink& link, const std::string& reason) override;

  std::shared_ptr<LinkPort> port(const PeerIdentity& peer);  // any thread; null if no such link is up
  void close();
  asio::awaitable<void> stop();

  /// Looks every second whether files of certificates have changed.
  asio::awaitable<void> watch_certificates();
  /// Ends the links of those that count no more, and tells the others.
  void apply_revocations();

  // links_handshake.cpp, on the I/O thread
  struct Refusal {
    std::string reason;  // empty: not refused
    bool retry = true;
    bool linked = false;  // because there is a link to that peer
    bool silent = false;  // by what is not known to be of our cluster: it is told nothing
  };
  struct Answer {
    wire::Greeting greeting;
    Refusal refusal;
  };
  struct Heard {
    uint16_t type = 0;
    schema::FrameBytes bytes;
    std::string refused;    // empty: good
    bool stranger = false;  // refused, and will be
  };
  using Connection = std::shared_ptr<Handshake>;
  asio::awaitable<Heard> hear_frame(Handshake& connection);
  asio::awaitable<Heard> hear_challenge(Handshake& connection);
  /// A frame of one that knows the secret; nothing of another one is read.
  asio::awaitable<Heard> hear(Handshake& connection);
  /// Makes a TCP connection TLS, if links are. Returns why that failed, or nothing.
  asio::awaitable<std::string> encrypt(Handshake& connection);
  // These return why it could not be written, or nothing.
  asio::awaitable<std::string> say_challenge(Handshake& connection);
  asio::awaitable<std::string> say(Handshake& connection, Outgoing what);
  asio::awaitable<std::string> say_hello(Handshake& connection, bool bulk, uint64_t link_id,
                                         const PeerIdentity* to = nullptr);
  std::string refuse_connection(LinkSocket& socket, Handshake::From from) const;
  asio::awaitable<void> accept(std::shared_ptr<Listener> listener);
  asio::awaitable<void> greet(Connection connection);
  asio::awaitable<Refusal> greet_link(Connection connection);
  asio::awaitable<Refusal> greet_control(Connection connection, wire::Greeting theirs);
  asio::awaitable<Refusal> greet_bulk(Connection connection, wire::Greeting theirs);
  void close_after(const Connection& connection, std::chrono::milliseconds timeout);
  Connection handshake(LinkSocket socket, Handshake::From from, LinkProof::End us, const std::string& address,
                       std::chrono::milliseconds timeout);

  // links_enrol.cpp, as the two functions of renewal above; on the I/O thread
  /// As a node: once our certificate is old.
  void ask_renewal();
  asio::awaitable<void> renew_at_desk(std::shared_ptr<PeerLink> link, std::string request);
  asio::awaitable<Refusal> enrol(Connection connection);

  // links_connect.cpp, but for read_answer; on the I/O thread
  asio::awaitable<void> connect(std::string host, uint16_t port, uint32_t give_up_ms);
  asio::awaitable<Refusal> reach(Handshake& connection, asio::ip::tcp::endpoint to);
  asio::awaitable<Refusal> attempt(asio::ip::tcp::endpoint to, std::chrono::milliseconds timeout);
  asio::awaitable<Refusal> open(Connection connection, asio::ip::tcp::endpoint to, bool bulk,
                                uint64_t link_id, wire::Greeting& theirs);
  asio::awaitable<Answer> read_answer(Handshake& connection);
  std::optional<std::string> refuse_claim(const Handshake& connection, const PeerIdentity& peer);
  Refusal go_up(const wire::Greeting& theirs, LinkConnection control, LinkConnection bulk);
  /// Where links may lead: any address, or a loopback one as long as they are plaintext.
  std::optional<asio::ip::tcp::endpoint> endpoint(const std::string& host, uint16_t port) const;
  Refusal no_room_for(const PeerIdentity& peer);
  // Two processes may connect to each other at the same moment. The one with the smaller key then chooses
  // which of the two connections becomes their link; the other takes what it gets.
  bool we_choose(const PeerIdentity& peer);
  bool chosen(const PeerIdentity& peer) const;  // a connection under way is meant to become our link
  bool linked_to(const asio::ip::tcp::endpoint& address) const;  // to whoever listens there
  bool is_forming(
      const PeerIdentity& peer) const;  // they connected to us, and their bulk connection is yet to come
  // links_handshake.cpp again
  /// to: whoever hears it, if that is known; the models of a head's pipelines differ.
  wire::Greeting greeting(bool bulk, uint64_t link_id, const PeerIdentity* to = nullptr);
  std::optional<std::string> refuse_pipeline(const PeerIdentity& peer);
  void give_up(Handshake& connection);
  asio::awaitable<void> nap(std::chrono::milliseconds time);
  void spawn(asio::awaitable<void> coroutine);

  caf::actor_system& system;
  const LinkOptions options;
  const std::string key;  // of the proofs

  std::mutex mutex;
  PeerIdentity self;
  std::map<std::string, std::string> models;  // a head's, by pipeline: see set_model()
  std::map<std::pair<schema::Role, uint32_t>, std::shared_ptr<PublishedActor>> actors;
  std::map<PeerKey, std::shared_ptr<LinkPort>> ports;

  asio::io_context io{1};
  asio::executor_work_guard<asio::io_context::executor_type> keep_running = asio::make_work_guard(io);
  const Events events;
  const std::shared_ptr<prometheus::Registry> registry;  // ours if nobody else asks for what is counted
  LinkMetrics counted{*registry};
  Delivery delivery;
  bool stopping = false;
  std::vector<std::shared_ptr<Listener>> listeners;
  std::set<Connection> live;  // all handshakes
  struct Forming {
    wire::Greeting greeting;
    Connection control;
  };
  std::map<uint64_t, Forming>
      forming;                      // by link id: accepted control connections that wait for their bulk one
  asio::steady_timer farewell{io};  // made early: where there is no descriptor for timers, nothing starts
  std::set<asio::steady_timer*> naps;
  std::string revocations_told;               // to all links that are up
  std::set<std::shared_ptr<PeerLink>> links;  // up
  EnrolmentPace enrolments;
  std::chrono::steady_clock::time_point ask_renewal_after{};
  std::optional<asio::thread_pool> desk;  // one thread that enrols, if anybody is enrolled
  std::thread thread;                     // the I/O thread
};

}  // namespace convoy::actors
