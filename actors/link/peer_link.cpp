#include "actors/link/peer_link.hpp"

#include <kj/exception.h>

#include "actors/link/link_roles.hpp"
#include "actors/link/remote_handle.hpp"
#include "actors/process/log.hpp"

namespace convoy::actors {

using schema::FrameTraits;
using schema::Lane;
using schema::Role;
using std::chrono::milliseconds;

namespace {

const char* name_of(Role role) {
  switch (role) {
    case Role::NONE:
      return "none";
    case Role::GATEWAY:
      return "gateway";
    case Role::ROUTER:
      return "router";
    case Role::CACHE:
      return "cache";
    case Role::PIPELINE:
      return "pipeline";
    case Role::STAGE:
      return "stage";
    case Role::NODE:
      return "node";
    case Role::CLIENT:
      return "client";
    case Role::WEIGHTS:
      return "weights";
  }
  return "unknown";
}

constexpr milliseconds last_words{100};
constexpr milliseconds renewal_pause{30'000};  // of one peer, so that it cannot fill the authority's disk

Outgoing lease_frame(uint64_t sequence) {
  schema::FrameBuilder<schema::Lease> lease(8);
  lease->setSequence(sequence);
  return {.type = FrameTraits<schema::Lease>::type_id, .bytes = std::move(lease).finish().bytes()};
}

}  // namespace

std::string describe(const PeerIdentity& peer) {
  return std::string(name_of(peer.role)) + " " + std::to_string(peer.instance) + " on " + peer.node +
         " (pid " + std::to_string(peer.pid) + ")";
}

PeerLink::PeerLink(Owner& owner, asio::io_context& io, const LinkLimits& limits, bool of_heads_node,
                   LinkConnection control, LinkConnection bulk)
    : owner_(owner),
      limits_(limits),
      io_(io),
      control_{std::move(control), asio::steady_timer(io)},
      bulk_{std::move(bulk), asio::steady_timer(io)},
      lease_out_(io),
      lease_in_(io),
      peer_serial_(control_.connection.encrypted() ? control_.connection.peer_serial() : ""),
      of_heads_node_(of_heads_node) {}

std::shared_ptr<PeerLink> PeerLink::create(Owner& owner, asio::io_context& io, caf::actor_system& system,
                                           const LinkLimits& limits, PeerIdentity peer, bool of_heads_node,
                                           LinkConnection control, LinkConnection bulk) {
  std::shared_ptr<PeerLink> link(
      new PeerLink(owner, io, limits, of_heads_node, std::move(control), std::move(bulk)));
  const std::weak_ptr<PeerLink> weak = link;
  LinkPort::Requests requests{.write =
                                  [weak, &io](Lane lane) {
                                    asio::post(io, [weak, lane] {
                                      if (auto self = weak.lock()) self->io(lane).wake.cancel();
                                    });
                                  },
                              .end =
                                  [weak, &io](const std::string& reason) {
                                    asio::post(io, [weak, reason] {
                                      if (auto self = weak.lock()) self->end(reason);
                                    });
                                  }};
  // The sockets are open as long as the port is: end() closes the port first, under the lock that send_now
  // runs in.
  if (!link->control_.connection.encrypted())
    requests.send_now = [control = link->control_.connection.socket().native_handle(),
                         bulk = link->bulk_.connection.socket().native_handle()](Lane lane,
                                                                                 const Outgoing& frame) {
      return send_now(lane == Lane::control ? control : bulk, frame);
    };
  link->port_ = std::make_shared<LinkPort>(system, std::move(peer), limits, std::move(requests));
  return link;
}

template <class Coroutine>
void PeerLink::run(Coroutine coroutine) {
  asio::co_spawn(io_, std::move(coroutine), [self = shared_from_this()](std::exception_ptr failure) {
    if (!failure) return;
    try {
      std::rethrow_exception(failure);
    } catch (const std::exception& e) {
      self->end(e.what());
    }
  });
}

void PeerLink::start() {
  last_heard_ = Clock::now();
  sender_ = port_->sender();
  for (const Lane lane : {Lane::control, Lane::bulk}) {
    run([self = shared_from_this(), lane] { return self->read(lane); });
    run([self = shared_from_this(), lane] { return self->write(lane); });
  }
  run([self = shared_from_this()] { return self->send_leases(); });
  run([self = shared_from_this()] { return self->watch_lease(); });
}

void PeerLink::say_revocations(const std::string& list) {
  schema::FrameBuilder<schema::Revocations> frame(list.size() / sizeof(capnp::word) + 8);
  frame->setList({reinterpret_cast<const kj::byte*>(list.data()), list.size()});
  port_->put(Lane::control,
             {.type = FrameTraits<schema::Revocations>::type_id, .bytes = std::move(frame).finish().bytes()});
}

void PeerLink::end(const std::string& reason) {
  if (over_) return;
  over_ = true;
  sender_ = nullptr;
  port_->close(reason);
  for (auto* lane : {&control_, &bulk_}) {
    lane->connection.close();
    lane->wake.cancel();
  }
  lease_out_.cancel();
  lease_in_.cancel();
  owner_.ended(*this, reason);
}

asio::awaitable<void> PeerLink::read(Lane lane) {
  const uint64_t bytes_max =
      lane == Lane::control ? limits_.control_frame_bytes_max : limits_.bulk_frame_bytes_max;
  while (!over_) {
    auto in = co_await read_frame(io(lane).connection, bytes_max);
    if (over_) co_return;
    if (in.closed && lane == Lane::bulk) co_await hear_last_words();
    if (!in.refused.empty()) co_return end(in.refused);
    if (lane == Lane::control) last_heard_ = Clock::now();
    receive(lane, std::move(in));
  }
}

asio::awaitable<void> PeerLink::write(Lane lane) {
  while (!over_) {
    const auto batch = port_->take(lane);
    if (batch.empty()) {
      io(lane).wake.expires_at(Clock::time_point::max());
      co_await io(lane).wake.async_wait(asio::as_tuple(asio::use_awaitable));
      continue;
    }
    const auto error = co_await write_frames(io(lane).connection, batch);
    if (!error) continue;
    if (!over_) co_await hear_last_words();
    co_return end("writing failed: " + error.message());
  }
}

// A peer that closes its link closes both connections. What it said on control before is read first: reading
// ends there with the close. Only if control stays open is the other connection's end the link's end.
asio::awaitable<void> PeerLink::hear_last_words() {
  asio::steady_timer time(io_, last_words);
  co_await time.async_wait(asio::as_tuple(asio::use_awaitable));
}

asio::awaitable<void> PeerLink::send_leases() {
  for (uint64_t sequence = 0; !over_; ++sequence) {
    port_->put(Lane::control, lease_frame(sequence));
    lease_out_.expires_after(milliseconds(std::max(1u, limits_.lease_ms / 4)));
    co_await lease_out_.async_wait(asio::as_tuple(asio::use_awaitable));
  }
}

asio::awaitable<void> PeerLink::watch_lease() {
  const milliseconds lease(limits_.lease_ms), grace(std::max(1u, limits_.lease_ms / 4));
  bool forgiven = false;
  while (!over_) {
    const auto due = std::max(last_heard_ + lease, lease_in_.expiry());
    lease_in_.expires_at(due);
    co_await lease_in_.async_wait(asio::as_tuple(asio::use_awaitable));
    const auto now = Clock::now();
    if (over_) co_return;
    if (now < last_heard_ + lease) {
      forgiven = false;
    } else if (now > due + grace && !forgiven) {
      // This process itself stood still. What the peer sent meanwhile has not been read yet: read it, then
      // judge.
      forgiven = true;
      lease_in_.expires_at(now + grace);
    } else {
      end("lease ended: nothing received for " +
          std::to_string(std::chrono::duration_cast<milliseconds>(now - last_heard_).count()) + " ms");
    }
  }
}

// A bulk frame's bytes are credited to the peer when the last actor lets go of them: the window bounds what
// lies in mailboxes here, not only what is on the wire. Control frames have no window, so that leases never
// wait: a peer that says more than actors can take loses its link.
schema::FrameBytes PeerLink::own(Lane lane, std::unique_ptr<schema::FrameBuffer> buffer) {
  if (lane == Lane::control) {
    inbox_bytes_->fetch_add(buffer->size(), std::memory_order_relaxed);
    return schema::FrameBytes(buffer.release(), [inbox = inbox_bytes_](const schema::FrameBuffer* released) {
      inbox->fetch_sub(released->size(), std::memory_order_relaxed);
      delete released;
    });
  }
  return schema::FrameBytes(buffer.release(), [port = port_](const schema::FrameBuffer* released) {
    const uint64_t bytes = released->size();
    delete released;
    port->release(bytes);
  });
}

void PeerLink::receive(Lane lane, Incoming in) {
  const auto& header = in.header;
  if (header.type <= wire::link_type_max) {
    if (lane != Lane::control)
      return end("a link frame of type " + std::to_string(header.type) + " on the bulk connection");
    try {
      receive_link_frame(header, own(lane, std::move(in.buffer)));
    } catch (const kj::Exception& e) {
      end("malformed link frame of type " + std::to_string(header.type) + ": " + e.getDescription().cStr());
    }
    return;
  }
  const auto bytes = own(lane, std::move(in.buffer));
  if (inbox_bytes_->load(std::memory_order_relaxed) > limits_.inbox_bytes_max)
    return end("more than inbox_bytes_max = " + std::to_string(limits_.inbox_bytes_max) +
               " bytes of its control frames wait in mailboxes");
  const auto* type = frame_type(header.type);
  if (!type) {
    // A newer peer may know more types than we do; schema evolution rests on dropping them.
    owner_.metrics().unknown_type.Increment();
    if (unknown_types_.insert(header.type).second)
      log::warn_limited("link.unknown_type", {{"type", header.type}, {"peer", describe(peer())}});
    return;
  }
  if (type->lane != lane) return end(std::string(type->name) + " came on the wrong connection");
  const auto to = owner_.published(header.role, header.instance);
  if (!to) {
    owner_.metrics().to_nobody.Increment();
    log::warn_limited("link.mail_to_nobody", {{"type", type->name},
                                              {"role", name_of(header.role)},
                                              {"instance", header.instance},
                                              {"peer", describe(peer())}});
    return;
  }
  if (!may_send(peer().role, header.type, header.role, of_heads_node_)) {
    owner_.metrics().not_allowed.Increment();
    log::warn_limited("link.not_allowed",
                      {{"type", type->name}, {"to", name_of(header.role)}, {"peer", describe(peer())}});
    return;
  }
  if (const auto refused = type->refuse(bytes))
    return end("malformed " + std::string(type->name) + ": " + *refused);
  if (const auto refused = refuse_reply_to(peer(), header.type, bytes)) {
    owner_.metrics().not_allowed.Increment();
    return log::warn_limited("link.not_allowed",
                             {{"type", type->name}, {"reason", *refused}, {"peer", describe(peer())}});
  }
  owner_.deliver(*type, to->actor(), sender_, bytes);
}

void PeerLink::receive_link_frame(const wire::Header& header, schema::FrameBytes bytes) {
  switch (header.type) {
    case FrameTraits<schema::Lease>::type_id:
      return;  // hearing from the peer is what counts
    case FrameTraits<schema::Credit>::type_id: {
      const schema::Frame<schema::Credit> frame(bytes);
      const schema::Reading credit(frame);
      if (!port_->credited(credit->getBytes())) end("a credit for more bytes than were sent");
      return;
    }
    case FrameTraits<schema::Watch>::type_id: {
      const schema::Frame<schema::Watch> frame(bytes);
      const schema::Reading request(frame);
      if (!request->getOn()) return;  // nobody here stops watching; a later version may
      if (const auto published = owner_.published(header.role, header.instance))
        published->watch(port_);
      else
        send_down(*port_, header.role, header.instance, "no such actor is published there");
      return;
    }
    case FrameTraits<schema::Down>::type_id: {
      const schema::Frame<schema::Down> frame(bytes);
      const schema::Reading down(frame);
      port_->actor_down(down->getRole(), down->getInstance(), down->getReason());
      sender_ = port_->sender();  // another one, if it was the sender that ended
      return;
    }
    case FrameTraits<schema::Revocations>::type_id: {
      if (peer_serial_.empty()) return end("a list of certificates from a peer that has none");
      const schema::Frame<schema::Revocations> frame(bytes);
      const auto list = schema::Reading(frame)->getList().asChars();
      return owner_.revocations({list.begin(), list.size()});
    }
    case FrameTraits<schema::Renew>::type_id: {
      if (peer().role != Role::NODE || Clock::now() < renew_after_) return;
      renew_after_ = Clock::now() + renewal_pause;
      const schema::Frame<schema::Renew> frame(bytes);
      const auto request = schema::Reading(frame)->getRequest().asChars();
      return owner_.renew(*this, {request.begin(), request.size()});
    }
    case FrameTraits<schema::Renewed>::type_id: {
      if (peer().role != Role::NODE || !of_heads_node_) return;
      const schema::Frame<schema::Renewed> frame(bytes);
      const auto certificate = schema::Reading(frame)->getCertificate().asChars();
      return owner_.renewed(*this, {certificate.begin(), certificate.size()});
    }
    default:
      end("an unexpected link frame of type " + std::to_string(header.type));
  }
}

}  // namespace convoy::actors
