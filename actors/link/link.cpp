#include "actors/link/link.hpp"

#include <pthread.h>

#include <cassert>
#include <thread>

#include "actors/link/links_impl.hpp"
#include "actors/link/remote_handle.hpp"
#include "actors/process/io_thread.hpp"
#include "model/error.hpp"

namespace convoy::actors {

namespace {

std::shared_ptr<Listener> make_listener(asio::io_context& io, const LinkEndpoint& at, bool over_unix,
                                        const std::string& where) {
  return std::make_shared<Listener>(Listener{listen_at(io, at, where), over_unix, ""});
}

}  // namespace

wire::Terms terms_of(const LinkLimits& limits) {
  return {limits.control_frame_bytes_max, limits.bulk_frame_bytes_max, limits.bulk_window_bytes,
          limits.lease_ms};
}

LinkLimits agreed(const LinkLimits& ours, const wire::Terms& theirs) {
  LinkLimits both = ours;
  both.control_frame_bytes_max = std::min(ours.control_frame_bytes_max, theirs.control_frame_bytes_max);
  both.bulk_frame_bytes_max = std::min(ours.bulk_frame_bytes_max, theirs.bulk_frame_bytes_max);
  both.bulk_window_bytes = std::min(ours.bulk_window_bytes, theirs.bulk_window_bytes);
  both.lease_ms = std::min(ours.lease_ms, theirs.lease_ms);
  return both;
}

Links::Impl::Impl(caf::actor_system& system, LinkOptions options, PeerIdentity self, Events events)
    : system(system),
      options(std::move(options)),
      key(link_key(this->options.secret)),
      self(std::move(self)),
      events(std::move(events)),
      registry(this->options.metrics ? this->options.metrics : std::make_shared<prometheus::Registry>()),
      delivery(system) {
  if (!this->options.dev && !this->options.tls)
    throw InputError("links that are not plaintext need certificates", "LinkOptions.tls",
                     "name their folder");
  if (!this->options.dev && !this->options.places.has_stage)
    throw InputError("links that are not plaintext need to know whose the stages are", "LinkOptions.places",
                     "say it");
  if (this->options.limits.lease_ms < 4) throw InputError("shorter than 4 ms", "lease_ms", "use 800");
  if (this->options.enrol || this->options.renew) desk.emplace(1);
  thread = std::thread([this] {
    pthread_setname_np(pthread_self(), "convoy.links");
    if (this->options.tls) spawn(watch_certificates());
    run_io(io, "links");
  });
}

Links::Impl::~Impl() { close(); }

void Links::Impl::close() {
  if (!thread.joinable()) return;
  asio::post(io, [this] { asio::co_spawn(io, stop(), asio::detached); });
  thread.join();
  assert(links.empty() && live.empty());
}

asio::awaitable<void> Links::Impl::stop() {
  stopping = true;
  for (const auto& listener : listeners) listener->acceptor.close();
  for (auto* nap : naps) nap->cancel();
  for (const auto& handshake : std::set(live)) give_up(*handshake);
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(options.limits.farewell_ms);
  const auto waits = [this] {
    return std::any_of(links.begin(), links.end(),
                       [](const auto& link) { return !link->port()->nothing_waits(); });
  };
  while (waits() && std::chrono::steady_clock::now() < until) {
    farewell.expires_after(std::chrono::milliseconds(1));
    co_await farewell.async_wait(asio::as_tuple(asio::use_awaitable));
  }
  while (!links.empty()) (*links.begin())->end("this process closes its links");
  keep_running.reset();  // the thread ends when the coroutines have
}

std::shared_ptr<PublishedActor> Links::Impl::published(schema::Role role, uint32_t instance) {
  const std::lock_guard lock(mutex);
  const auto found = actors.find({role, instance});
  return found == actors.end() ? nullptr : found->second;
}

std::shared_ptr<LinkPort> Links::Impl::port(const PeerIdentity& peer) {
  const std::lock_guard lock(mutex);
  const auto found = ports.find(key_of(peer));
  return found == ports.end() ? nullptr : found->second;
}

Links::Links(caf::actor_system& system, LinkOptions options, PeerIdentity self, Events events)
    : impl_(std::make_unique<Impl>(system, std::move(options), std::move(self), std::move(events))) {}

Links::~Links() = default;

void Links::close() { impl_->close(); }

uint16_t Links::listen(const std::string& host, uint16_t port) {
  const std::string where = host + ":" + std::to_string(port);
  const auto endpoint = impl_->endpoint(host, port);
  if (!endpoint && impl_->options.dev)
    throw InputError("not a loopback address, and links are plaintext under dev = true", where,
                     "listen on 127.0.0.1");
  if (!endpoint || endpoint->address().is_unspecified())
    throw InputError("not an address that peers can connect to", where,
                     "name one of this machine, in numbers");
  std::vector listeners{make_listener(impl_->io, *endpoint, false, where)};
  const auto bound = tcp_endpoint(listeners.front()->acceptor.local_endpoint());
  if (impl_->options.unix_sockets)
    listeners.push_back(make_listener(impl_->io, unix_beside(bound), true,
                                      host + ":" + std::to_string(bound.port()) + " (Unix-domain)"));
  for (const auto& listener : listeners) listener->address = text_of(bound);
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->self.listen_host = host;
    impl_->self.listen_port = bound.port();
  }
  asio::post(impl_->io, [impl = impl_.get(), listeners = std::move(listeners)] {
    for (const auto& listener : listeners) {
      impl->listeners.push_back(listener);
      impl->spawn(impl->accept(listener));
    }
  });
  return bound.port();
}

void Links::connect(const std::string& host, uint16_t port, uint32_t give_up_ms) {
  asio::post(impl_->io, [impl = impl_.get(), host, port, give_up_ms] {
    if (!impl->stopping) impl->spawn(impl->connect(host, port, give_up_ms));
  });
}

void Links::publish(schema::Role role, uint32_t instance, caf::actor actor) {
  auto published = PublishedActor::create(role, instance, std::move(actor));
  const std::lock_guard lock(impl_->mutex);
  impl_->actors[{role, instance}].swap(published);  // a predecessor is destroyed after the lock
}

caf::actor Links::remote_handle(const PeerIdentity& peer, schema::Role role, uint32_t instance) {
  if (const auto port = impl_->port(peer)) return port->handle(role, instance);
  auto dead = make_remote_handle(impl_->system, nullptr, role, instance);
  take_down(dead, caf::exit_reason::remote_link_unreachable, "no link to " + describe(peer));
  return dead;
}

void Links::set_model(const std::string& pipeline, const std::string& digest) {
  const std::lock_guard lock(impl_->mutex);
  impl_->models[pipeline] = digest;
}

void Links::drop(const PeerIdentity& peer, const std::string& reason) {
  if (const auto port = impl_->port(peer)) port->end(reason);
}

const PeerIdentity& Links::self() const { return impl_->self; }
pthread_t Links::io_thread() const { return impl_->thread.native_handle(); }

}  // namespace convoy::actors
