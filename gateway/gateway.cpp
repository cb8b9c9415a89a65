#include "gateway/gateway.hpp"

#include <sys/resource.h>

#include <algorithm>
#include <boost/asio.hpp>
#include <cassert>
#include <new>
#include <thread>
#include <unordered_set>

#include "actors/config_check.hpp"
#include "actors/link/link_address.hpp"
#include "actors/process/io_thread.hpp"
#include "actors/process/log.hpp"
#include "gateway/edge.hpp"
#include "gateway/session.hpp"
#include "gateway/spare_descriptor.hpp"
#include "model/error.hpp"
#include "model/scarce.hpp"

namespace convoy::gateway {

using boost::system::error_code;
using namespace std::chrono_literals;

namespace {

constexpr size_t refusals_max = 32;   // clients being told that there are too many; more are just closed
constexpr auto accept_retry = 100ms;  // the system has no memory for a connection, say
constexpr std::string_view default_model = "default";  // what clients name that do not care
constexpr auto shutdown_timeout = 3s;                  // for sessions to say goodbye

tcp::endpoint endpoint_of(const GatewayOptions& options) {
  const auto endpoint = actors::numeric_endpoint(options.host, options.port);
  if (!endpoint || !actors::is_gateway_guarded(options))
    throw InputError(
        "'" + options.host + "' is not a loopback address, or none, and there are no keys or no TLS",
        "gateway.host",
        "give gateway.keys_file, gateway.tls_certificate and gateway.tls_key, or use 127.0.0.1");
  return *endpoint;
}

/// connections_max, or what the system allows beside the descriptors that the rest of the process needs.
size_t connections_allowed(const GatewayOptions& options) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
    return options.connections_max;
  const uint64_t reserved = options.descriptors_reserved;
  const uint64_t allowed = limit.rlim_cur > reserved ? limit.rlim_cur - reserved : 1;
  if (allowed >= options.connections_max) return options.connections_max;
  log::warn("gateway.fewer_connections", {{"connections_max", options.connections_max},
                                          {"allowed", allowed},
                                          {"descriptors", uint64_t{limit.rlim_cur}},
                                          {"mend", "raise the limit of open files (ulimit -n)"}});
  return allowed;
}

uint64_t first_request_number() {
  return static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch() / 1us);
}

}  // namespace

ServedModels::ServedModels(std::vector<ServedModel> list)
    : list_(std::make_shared<const std::vector<ServedModel>>(std::move(list))) {
  assert(!list_->empty());
}

const ServedModel* ServedModels::find(std::string_view name) const {
  for (const ServedModel& model : *list_)
    if (model.id == name || std::ranges::find(model.aliases, name) != model.aliases.end()) return &model;
  return name == default_model ? &list_->front() : nullptr;
}

std::vector<std::string> ServedModels::ids() const {
  std::vector<std::string> ids;
  for (const ServedModel& model : *list_) ids.push_back(model.id);
  return ids;
}

struct Gateway::Impl {
  caf::actor_system& system;
  Edge edge;
  asio::io_context io;
  asio::strand<asio::io_context::executor_type> strand = asio::make_strand(io);  // of everything below
  tcp::acceptor acceptor{strand};
  std::unordered_set<std::shared_ptr<Session>> sessions;
  size_t connections_max = 0;  // set by serve()
  size_t refusals = 0;
  SpareDescriptor spare;
  const std::string no_memory_words = last_words(no_memory);  // made while there is some
  bool draining = false, stopping = false;
  std::promise<void> drained;
  asio::steady_timer give_up{strand};
  uint16_t port = 0;
  std::vector<std::thread> threads;

  Impl(caf::actor_system& system, GatewayOptions options, const ServedModels& models,
       std::shared_ptr<prometheus::Registry> metrics, Line line, std::unique_ptr<KeyRing> keys,
       std::shared_ptr<HeardKeys> heard_keys, std::unique_ptr<HttpsCertificate> certificate)
      : system(system),
        edge{std::move(options),
             models,
             Metrics(std::move(metrics), models.ids()),
             std::move(line.readiness),
             std::move(line.reach),
             std::move(keys),
             std::move(heard_keys),
             std::move(certificate),
             std::move(line.mailroom),
             line.outlives_head,
             {},
             first_request_number()},
        io(static_cast<int>(edge.options.threads)) {}

  void bind() {
    const tcp::endpoint endpoint = endpoint_of(edge.options);
    error_code ec;
    acceptor.open(endpoint.protocol(), ec);
    if (!ec) acceptor.set_option(asio::socket_base::reuse_address(true), ec);
    if (!ec) acceptor.bind(endpoint, ec);
    if (!ec) acceptor.listen(asio::socket_base::max_listen_connections, ec);
    if (ec)
      throw InputError("cannot listen on " + edge.options.host + ":" + std::to_string(edge.options.port) +
                           ": " + ec.message(),
                       "gateway.port", mend_of(ec.value(), "choose a free port, or end what uses this one"));
    port = acceptor.local_endpoint().port();
  }

  void open(std::string answer_key, ServeFrom from) {
    connections_max = connections_allowed(edge.options);
    edge.answer_key = std::move(answer_key);
    caf::anon_send(edge.mailroom, std::move(from));
    asio::co_spawn(strand, accept(), [this](std::exception_ptr fault) { report(fault); });
    for (uint32_t i = 0; i < edge.options.threads; ++i)
      threads.emplace_back([this] { actors::run_io(io, "gateway"); });
    log::info("gateway.listening", {{"host", edge.options.host}, {"port", port}});
  }

  static bool out_of_descriptors(const error_code& ec) {
    return ec == asio::error::no_descriptors || ec == boost::system::errc::too_many_files_open_in_system;
  }

  asio::awaitable<void> accept() {
    while (!draining) {
      try {
        co_await accept_one();
      } catch (const std::bad_alloc&) {  // costs that client its connection, not all others theirs
        edge.metrics.connections_refused.Increment();
        log::warn_limited("gateway.accept_failed", {{"why", "no memory"}});
        std::this_thread::sleep_for(accept_retry);  // it takes none
      }
    }
  }

  asio::awaitable<void> accept_one() {
    error_code ec;
    tcp::socket socket =
        co_await acceptor.async_accept(asio::make_strand(io), asio::redirect_error(asio::use_awaitable, ec));
    if (draining) co_return;
    if (ec) {
      log::warn_limited("gateway.accept_failed", {{"why", ec.message()}});
      if (out_of_descriptors(ec) &&
          spare.answer_one(acceptor.native_handle(),
                           edge.certificate ? std::string() : last_words(too_many_connections))) {
        edge.metrics.connections_refused.Increment();
        co_return;
      }
      asio::steady_timer pause(strand, accept_retry);
      co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, ec));
      co_return;
    }
    if (sessions.size() < connections_max)
      start(std::move(socket));
    else
      turn_away(std::move(socket));
  }

  void start(tcp::socket socket) {
    edge.metrics.connections_accepted.Increment();
    edge.metrics.connections.Increment();
    const auto executor = socket.get_executor();
    auto session = std::make_shared<Session>(std::move(socket), edge);
    sessions.insert(session);
    asio::co_spawn(
        executor, session->run(), asio::bind_executor(strand, [this, session](std::exception_ptr fault) {
          edge.metrics.connections.Decrement();
          sessions.erase(session);
          if (draining && sessions.empty()) left();
          if (!fault) return;
          session->drop(out_of_memory(fault) ? std::string_view(no_memory_words) : std::string_view());
          report(fault);
        }));
  }

  void turn_away(tcp::socket socket) {
    edge.metrics.connections_refused.Increment();
    if (refusals == refusals_max) return;  // the socket's destructor closes it
    ++refusals;
    const auto executor = socket.get_executor();
    asio::co_spawn(executor, refuse(std::move(socket), edge),
                   asio::bind_executor(strand, [this](std::exception_ptr fault) {
                     report(fault);
                     --refusals;
                   }));
  }

  static bool out_of_memory(const std::exception_ptr& fault) {
    try {
      std::rethrow_exception(fault);
    } catch (const std::bad_alloc&) {
      return true;
    } catch (...) {
      return false;
    }
  }

  /// One session's fault ends that session: its connection is closed without an end of its answer.
  void report(std::exception_ptr fault) {
    if (!fault) return;
    try {
      std::rethrow_exception(fault);
    } catch (const std::bad_alloc&) {
      log::warn_limited("gateway.no_memory");
    } catch (const std::exception& e) {
      log::error("gateway.session_failed", {{"why", e.what()}});
    }
  }

  void drain() {
    asio::post(strand, [this] {
      close_door();
      for (const auto& session : sessions) session->drain();
      if (sessions.empty()) left();
    });
  }

  void close_door() {
    draining = true;
    error_code ignored;
    acceptor.close(ignored);
  }

  /// The last session has.
  void left() {
    if (stopping)
      give_up.cancel();
    else
      drained.set_value();
  }

  void stop() {
    asio::post(strand, [this] {
      close_door();
      stopping = true;
      for (const auto& session : sessions) session->stop();
      if (sessions.empty()) return;
      give_up.expires_after(shutdown_timeout);
      give_up.async_wait([this](error_code ec) {
        if (ec) return;
        log::warn("gateway.sessions_abandoned", {{"sessions", sessions.size()}});
        io.stop();
      });
    });
  }
};

Gateway::Gateway(caf::actor_system& system, GatewayOptions options, const ServedModels& models,
                 std::shared_ptr<prometheus::Registry> metrics) {
  auto keys = open_keys(options.keys_file);  // these may throw, and no actor is there yet, which would stay
  auto certificate = open_certificate(options.tls_certificate, options.tls_key);
  auto line =
      open_line(system, options.node, std::chrono::milliseconds(options.readiness_period_ms), models.ids());
  impl_ = std::make_unique<Impl>(system, std::move(options), models, std::move(metrics), std::move(line),
                                 std::move(keys), nullptr, std::move(certificate));
}

Gateway::Gateway(caf::actor_system& system, GatewayOptions options, const ServedModels& models,
                 std::shared_ptr<prometheus::Registry> metrics, Line line, std::shared_ptr<HeardKeys> keys) {
  auto certificate = open_certificate(options.tls_certificate, options.tls_key);
  line.readiness->serve(models.ids());
  impl_ = std::make_unique<Impl>(system, std::move(options), models, std::move(metrics), std::move(line),
                                 nullptr, std::move(keys), std::move(certificate));
}

Gateway::~Gateway() {
  if (!impl_->threads.empty()) impl_->stop();
  for (std::thread& thread : impl_->threads) thread.join();
  impl_->edge.encoder.join();
  // The actor posts to the I/O context, and what it posted holds mailboxes of the sessions' strands.
  caf::scoped_actor self{impl_->system};
  self->send(impl_->edge.mailroom, Retire{});
  self->wait_for(impl_->edge.mailroom);
}

actors::GatewayActor Gateway::actor() const { return impl_->edge.mailroom; }

uint16_t Gateway::port() const { return impl_->port; }

void Gateway::look() {
  if (impl_->edge.keys) impl_->edge.keys->look();
  if (impl_->edge.certificate) impl_->edge.certificate->look();
}

std::future<void> Gateway::drain() {
  impl_->drain();
  return impl_->drained.get_future();
}

uint32_t Gateway::connections() const {
  return static_cast<uint32_t>(impl_->edge.metrics.connections.Value());
}

std::string Gateway::why_not_ready() const { return impl_->edge.readiness->why_not(Readiness::Clock::now()); }

std::shared_ptr<const ApiKeys> Gateway::keys() const {
  return impl_->edge.keys ? impl_->edge.keys->get() : nullptr;
}

void Gateway::serve(actors::CacheActor cache, actors::RouterActor router, std::string answer_key) {
  impl_->bind();
  impl_->edge.reach->set(cache, router);
  impl_->open(std::move(answer_key), {impl_->io.get_executor(), std::move(cache), std::move(router)});
}

void Gateway::serve(std::string answer_key) {
  impl_->bind();
  impl_->open(std::move(answer_key), {impl_->io.get_executor(), {}, {}});
}

}  // namespace convoy::gateway
