#include "test/sim/cluster_network.hpp"

#include <array>
#include <deque>

#include "actors/link/link_roles.hpp"
#include "actors/link/remote_handle.hpp"

namespace sim {

using namespace convoy;
using actors::Outgoing;
using schema::Lane;
using std::chrono::milliseconds;

namespace {

enum Side : size_t { connector, acceptor };
Side other(Side side) { return side == connector ? acceptor : connector; }

Outgoing lease_frame() {
  schema::FrameBuilder<schema::Lease> lease(8);
  return {.type = schema::FrameTraits<schema::Lease>::type_id, .bytes = std::move(lease).finish().bytes()};
}

}  // namespace

/// Two connections between two processes. What takes place at an end takes place in its process.
class SimLink : public std::enable_shared_from_this<SimLink> {
 public:
  SimLink(Network& network, SimLinks& from, SimLinks& to) : network_(network), ends_{End{&from}, End{&to}} {}

  void start() {
    // The one that accepts is up first.
    const auto up_at = network_.timeline_.now() + network_.latency();
    for (Wire& wire : end(acceptor).out) wire.last_at = up_at;
    go_up(acceptor);
    network_.timeline_.at(up_at, [self = shared_from_this()] {
      self->end(connector).links->process_.hear([self] { self->go_up(connector); });
    });
  }

  const std::shared_ptr<actors::LinkPort>& port(const SimLinks& links) { return end(side_of(links)).port; }
  const actors::PeerIdentity& peer(const SimLinks& links) {
    return end(other(side_of(links))).links->process_.self();
  }
  void end(const SimLinks& links, const std::string& reason) { end(side_of(links), reason); }

  /// Its process is gone: what it wrote is read, and then that it closed.
  void die(const SimLinks& links) {
    const Side side = side_of(links);
    if (std::exchange(end(side).state, State::over) == State::up) end(side).port->close("it ended");
    write(side, Lane::control, {});
  }

  /// What is under way in either direction is lost.
  void reset() {
    for (const Side side : {connector, acceptor}) {
      for (Wire& wire : end(side).out) wire.frames.clear(), ++wire.generation;
      end(side).links->process_.hear(
          [self = shared_from_this(), side] { self->end(side, "Connection reset by peer"); });
    }
  }

 private:
  enum class State : uint8_t { forming, up, over };
  struct Sent {
    Outgoing frame;  // without bytes: the sender closed the link
    Timeline::Time at;
  };
  struct Wire {
    std::deque<Sent> frames;
    Timeline::Time last_at{};  // when the latest arrives
    uint64_t generation = 0;   // of what is under way
  };
  struct End {
    SimLinks* links;
    std::shared_ptr<actors::LinkPort> port = nullptr;
    State state = State::forming;
    Timeline::Time heard{};  // on control
    Wire out[2] = {};        // by lane
  };

  End& end(Side side) { return ends_[side]; }
  Side side_of(const SimLinks& links) const {
    return ends_[connector].links == &links ? connector : acceptor;
  }

  void go_up(Side side) {
    End& e = end(side);
    if (e.state != State::forming) return;
    SimLinks& links = *e.links;
    const std::weak_ptr weak = weak_from_this();
    actors::LinkPort::Requests requests;
    Timeline& timeline = network_.timeline_;
    requests.write = [weak, side, &timeline](Lane lane) {
      timeline.at(timeline.now(), [weak, side, lane] {
        if (const auto self = weak.lock()) self->flush(side, lane);
      });
    };
    requests.end = [weak, side, &timeline](const std::string& reason) {
      timeline.at(timeline.now(), [weak, side, reason] {
        if (const auto self = weak.lock()) self->end(side, reason);
      });
    };
    requests.send_now = [weak, side](Lane lane, const Outgoing& frame) {
      if (const auto self = weak.lock()) self->write(side, lane, frame);
      return actors::wire::header_bytes + frame.bytes->size();
    };
    const auto& peer = end(other(side)).links->process_.self();
    e.port = std::make_shared<actors::LinkPort>(links.process_.system(), peer, network_.options_.limits,
                                                std::move(requests));
    e.state = State::up;
    e.heard = timeline.now();
    links.links_.push_back(shared_from_this());
    for (const Lane lane : {Lane::control, Lane::bulk}) flush(side, lane);
    links.events_.up(peer);
    tend(side);
  }

  /// What the port has; it sends directly from then on.
  void flush(Side side, Lane lane) {
    if (end(side).state != State::up) return;
    for (;;) {
      const auto frames = end(side).port->take(lane);
      if (frames.empty()) return;
      for (const Outgoing& frame : frames) write(side, lane, frame);
    }
  }

  void write(Side side, Lane lane, const Outgoing& frame) {
    Wire& wire = end(side).out[static_cast<size_t>(lane)];
    wire.last_at = std::max(wire.last_at, network_.timeline_.now() + network_.latency());
    wire.frames.push_back({frame, network_.timeline_.now()});
    arrive_at(wire.last_at, side, lane, wire.generation);
  }

  void arrive_at(Timeline::Time at, Side from, Lane lane, uint64_t generation) {
    network_.timeline_.at(
        at, [self = shared_from_this(), from, lane, generation] { self->arrive(from, lane, generation); });
  }

  /// The oldest frame on the way is there.
  void arrive(Side from, Lane lane, uint64_t generation) {
    Wire& wire = end(from).out[static_cast<size_t>(lane)];
    if (wire.generation != generation) return;
    SimLinks& to = *end(other(from)).links;
    const auto held = network_.held_until(end(from).links->process_, to.process_);
    if (held > network_.timeline_.now()) return arrive_at(held, from, lane, generation);
    const Sent sent = std::move(wire.frames.front());
    wire.frames.pop_front();
    to.process_.hear([self = shared_from_this(), from, lane, sent] { self->receive(from, lane, sent); });
  }

  void receive(Side from, Lane lane, const Sent& sent) {
    const Side side = other(from);
    End& e = end(side);
    if (sent.frame.type > actors::wire::link_type_max) count(side, sent);
    if (e.state != State::up) return;
    if (!sent.frame.bytes) return end(side, "closed by the peer");
    if (lane == Lane::control)
      e.heard = network_.timeline_.now();
    else if (end(from).state == State::up)
      end(from).port->credited(sent.frame.bytes->size());
    Outgoing frame = sent.frame;
    if (frame.type <= actors::wire::link_type_max) return receive_link_frame(side, frame);
    const unsigned times =
        network_.inspect ? network_.inspect(end(from).links->process_, e.links->process_, frame) : 1;
    for (unsigned i = 0; i < times; ++i) deliver(side, lane, frame);
  }

  void deliver(Side side, Lane lane, const Outgoing& frame) {
    End& e = end(side);
    const auto& peer = e.port->peer();
    const auto* type = actors::frame_type(frame.type);
    require(type && type->lane == lane && actors::may_send(peer.role, frame.type, frame.role),
            "a frame that no link carries");
    const auto refused = type->refuse(frame.bytes);
    require(!refused, "a malformed ", type->name, ": ", refused.value_or(""));
    const auto to = e.links->published_.find({frame.role, frame.instance});
    if (to == e.links->published_.end()) return;
    type->deliver(to->second->actor(), e.port->sender(), frame.bytes, nullptr);
  }

  void receive_link_frame(Side side, const Outgoing& frame) {
    End& e = end(side);
    if (frame.type == schema::FrameTraits<schema::Watch>::type_id) {
      const auto found = e.links->published_.find({frame.role, frame.instance});
      if (found != e.links->published_.end()) return found->second->watch(e.port);
      return actors::send_down(*e.port, frame.role, frame.instance, "no such actor is published there");
    }
    if (frame.type == schema::FrameTraits<schema::Down>::type_id) {
      const schema::Frame<schema::Down> message(frame.bytes);
      const schema::Reading down(message);
      e.port->actor_down(down->getRole(), down->getInstance(), down->getReason());
    }
  }

  void count(Side side, const Sent& sent) {
    SimLinks& links = *end(side).links;
    network_.reordered_ += sent.at < links.newest_sent_;
    links.newest_sent_ = std::max(links.newest_sent_, sent.at);
    const auto& peer = end(other(side)).links->process_.self();
    network_.stale_ += std::ranges::any_of(links.links_, [&](const auto& link) {
      const auto& now = link->peer(links);
      return now.role == peer.role && now.node == peer.node && now.instance == peer.instance &&
             now.incarnation > peer.incarnation;
    });
  }

  void end(Side side, const std::string& reason) {
    End& e = end(side);
    if (e.state == State::over) return;
    const bool was_up = std::exchange(e.state, State::over) == State::up;
    write(side, Lane::control, {});
    if (!was_up) return;
    const auto peer = e.port->peer();
    const auto self = shared_from_this();  // links_ may hold the last reference
    e.port->close(reason);
    std::erase(e.links->links_, self);
    e.links->events_.down(peer, reason);
  }

  /// Says and looks at leases. A process that stood still judges a quarter of a lease later, when it has read
  /// what came.
  void tend(Side side) {
    End& e = end(side);
    if (e.state != State::up) return;
    const milliseconds lease(network_.options_.limits.lease_ms);
    if (!e.links->process_.frozen()) {
      const auto silent = network_.timeline_.now() - e.heard;
      if (silent >= lease && !std::exchange(stood_still_[side], false))
        return end(side, "lease ended: nothing received for " +
                             std::to_string(std::chrono::duration_cast<milliseconds>(silent).count()) +
                             " ms");
      e.port->put(Lane::control, lease_frame());
    } else {
      stood_still_[side] = true;
    }
    network_.timeline_.after(lease / 4, [self = shared_from_this(), side] { self->tend(side); });
  }

  Network& network_;
  std::array<End, 2> ends_;
  bool stood_still_[2] = {};
};

Network::Network(Timeline& timeline, Random& random, NetworkOptions options)
    : timeline_(timeline), random_(random), options_(std::move(options)) {}

Timeline::Duration Network::latency() {
  return std::chrono::nanoseconds(static_cast<int64_t>(1000 * random_.time(options_.latency_us)));
}

Timeline::Time Network::held_until(const Process& from, const Process& to) const {
  const auto parted = parted_until(from.self().node, to.self().node);
  const auto found = held_.find({from.self().incarnation, to.self().incarnation});
  return found == held_.end() ? parted : std::max(parted, found->second);
}

Timeline::Time Network::parted_until(const std::string& from, const std::string& to) const {
  Timeline::Time until{};
  for (const Parted& parted : parted_)
    if (parted.nodes.contains(from) != parted.nodes.contains(to)) until = std::max(until, parted.until);
  return until;
}

void Network::part(std::set<std::string> nodes, Timeline::Time until) {
  std::erase_if(parted_, [this](const Parted& parted) { return parted.until <= timeline_.now(); });
  parted_.push_back({std::move(nodes), until});
}

void Network::hold(const Process& from, const Process& to, Timeline::Time until) {
  auto& held = held_[{from.self().incarnation, to.self().incarnation}];
  held = std::max(held, until);
}

std::shared_ptr<SimLink> Network::link_between(const Process& a, const Process& b) const {
  const auto host = std::ranges::find(hosts_, &a, [](const SimLinks* links) { return &links->process_; });
  return host == hosts_.end() ? nullptr : (*host)->link_to(b.self());
}

void Network::cut(const Process& a, const Process& b) { link_between(a, b)->reset(); }

SimLinks::SimLinks(Network& network, Process& process, Events events)
    : network_(network), process_(process), events_(std::move(events)) {
  network_.hosts_.push_back(this);
}

void SimLinks::die() {
  std::erase(network_.hosts_, this);
  for (const auto& link : std::exchange(links_, {})) link->die(*this);
  published_.clear();
}

std::shared_ptr<SimLink> SimLinks::link_to(const actors::PeerIdentity& peer) const {
  const auto found = std::ranges::find_if(
      links_, [&](const auto& link) { return link->peer(*this).incarnation == peer.incarnation; });
  return found == links_.end() ? nullptr : *found;
}

void SimLinks::publish(schema::Role role, uint32_t instance, caf::actor actor) {
  published_[{role, instance}] = actors::PublishedActor::create(role, instance, std::move(actor));
}

caf::actor SimLinks::remote_handle(const actors::PeerIdentity& peer, schema::Role role, uint32_t instance) {
  if (const auto link = link_to(peer)) return link->port(*this)->handle(role, instance);
  auto dead = actors::make_remote_handle(process_.system(), nullptr, role, instance);
  actors::take_down(dead, caf::exit_reason::remote_link_unreachable, "no link");
  return dead;
}

void SimLinks::drop(const actors::PeerIdentity& peer, const std::string& reason) {
  if (const auto link = link_to(peer)) link->port(*this)->end(reason);
}

void SimLinks::connect(const std::string& host, uint16_t port, uint32_t give_up_ms) {
  const milliseconds first(network_.options_.limits.retry_first_ms);
  attempt(host + ":" + std::to_string(port), port, network_.timeline_.now() + milliseconds(give_up_ms),
          first);
}

void SimLinks::attempt(const std::string& address, uint16_t port, Timeline::Time give_up,
                       Timeline::Duration pause) {
  const auto answer = [=, this] {
    const auto refused = open(port);
    if (!refused) return;
    if (network_.timeline_.now() + pause >= give_up) return events_.refused(address, *refused);
    const auto longer =
        std::min<Timeline::Duration>(2 * pause, milliseconds(network_.options_.limits.retry_max_ms));
    network_.timeline_.after(pause, [=, this] { attempt(address, port, give_up, longer); });
  };
  network_.timeline_.after(2 * network_.latency(), [=, this] { process_.hear(answer); });
}

/// Why there is no link; nothing: there is one, or will be.
std::optional<std::string> SimLinks::open(uint16_t port) {
  const auto found = std::ranges::find_if(network_.hosts_, [port](const SimLinks* host) {
    return host->listening_ && host->process_.self().listen_port == port;
  });
  if (found == network_.hosts_.end()) return "Connection refused";
  SimLinks& peer = **found;
  if (link_to(peer.process_.self())) return std::nullopt;  // they connected to us meanwhile
  if (peer.link_to(process_.self())) return "linked already";
  const auto now = network_.timeline_.now();
  if (peer.process_.frozen() || network_.held_until(process_, peer.process_) > now ||
      network_.held_until(peer.process_, process_) > now)
    return "nothing more within handshake_timeout_ms";
  std::make_shared<SimLink>(network_, *this, peer)->start();
  return std::nullopt;
}

}  // namespace sim
