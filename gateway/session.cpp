#include "gateway/session.hpp"

#include <cstdlib>

#include "actors/process/log.hpp"
#include "actors/process/wall_clock.hpp"
#include "gateway/openai_response.hpp"

namespace convoy::gateway {

namespace {

const ApiError keys_unknown{503, "the head has not said yet which API keys count", {}, "not_ready", 1000};

HttpResponse not_found(std::string_view method, const std::string& path) {
  return error_response({404, "there is nothing at " + std::string(method) + " " + path, {}, "not_found"});
}

HttpResponse wrong_method(std::string_view method, const std::string& path, const Route& route) {
  const std::string allowed(route.methods);
  HttpResponse response =
      error_response({405,
                      "not allowed to " + std::string(method) + " on " + path + "; use " + allowed,
                      {},
                      "method_not_allowed"});
  response.set(http::field::allow, allowed);
  return response;
}

}  // namespace

Session::Session(tcp::socket socket, Edge& edge)
    : connection_(std::make_shared<Connection>(std::move(socket), edge.options, edge.tls())), edge_(edge) {}

void Session::drain() {
  asio::post(connection_->executor(), [self = shared_from_this()] { self->connection_->interrupt(); });
}

void Session::stop() {
  asio::post(connection_->executor(), [self = shared_from_this()] {
    self->connection_->interrupt();
    if (self->completion_) self->completion_->stop();
  });
}

void Session::drop(std::string_view last_words) {
  asio::post(connection_->executor(),
             [self = shared_from_this(), last_words] { self->connection_->drop(last_words); });
}

asio::awaitable<void> Session::run() {
  const Connection::Admit admit = [this](const HttpHeader& header) { return this->admit(header); };
  if (const auto failed = co_await connection_->secure()) {
    edge_.metrics.handshakes_failed.Increment();
    log::warn_limited("gateway.handshake_failed", {{"peer", connection_->peer()}, {"reason", *failed}});
    co_return co_await connection_->close();
  }
  for (;;) {
    asked_ = {};
    auto next = co_await connection_->read_request(admit);
    if (auto* error = std::get_if<ApiError>(&next)) {
      if (asked_.refused)
        edge_.metrics.answered(label(), error->status, error->reason());  // admit() logged it
      else
        answered("none", error->status, error->reason());
      co_await connection_->write(error_response(*error));
      break;
    }
    auto* request = std::get_if<HttpRequest>(&next);
    if (!request) co_return co_await connection_->leave();
    if (!co_await serve(*request)) co_return co_await connection_->reset();
    if (!connection_->keeps_alive()) break;
  }
  co_await connection_->close();
}

std::optional<ApiError> Session::admit(const HttpHeader& header) {
  asked_.path = path_of({header.target().data(), header.target().size()});
  asked_.to = find_route(asked_.path);
  if (!edge_.asks_for_keys()) return std::nullopt;
  const Access access = asked_.to.route ? asked_.to.route->access : Access::users;
  const auto keys = edge_.keys_now();
  if (!keys && access == Access::open) return std::nullopt;
  if (!keys) return keys_unknown;
  Admission admission = gateway::admit(*keys, header, access, actors::unix_s());
  asked_.caller = std::move(admission.caller);
  asked_.refused = admission.refused.has_value();
  if (asked_.refused)
    log::warn_limited("gateway.key_refused", {{"request", connection_->request_id()},
                                              {"peer", connection_->peer()},
                                              {"endpoint", label()},
                                              {"key", asked_.caller.key_id},
                                              {"reason", admission.refused->reason()}});
  return std::move(admission.refused);
}

/// False: the connection must be reset.
asio::awaitable<bool> Session::serve(HttpRequest& request) {
  using Action = Route::Action;
  const std::string_view method(request.method_string().data(), request.method_string().size());
  const Destination& to = asked_.to;
  const bool allowed = to.route && to.route->allows(method);
  if (allowed && to.route->action == Action::chat) co_return co_await complete(request, Endpoint::chat);
  if (allowed && to.route->action == Action::completions)
    co_return co_await complete(request, Endpoint::completions);
  HttpResponse response = allowed    ? answer()
                          : to.route ? wrong_method(method, asked_.path, *to.route)
                                     : not_found(method, asked_.path);
  const unsigned status = response.result_int();
  answered(label(), status, status < 400 ? "ok" : status == 503 ? "not_ready" : "invalid_request");
  co_return co_await connection_->write(std::move(response));
}

asio::awaitable<bool> Session::complete(HttpRequest& request, Endpoint endpoint) {
  Completion completion(edge_, *connection_, request, endpoint, asked_.caller);
  completion_ = &completion;
  const auto after = co_await completion.run();
  completion_ = nullptr;
  edge_.metrics.answered(label(), completion.status(), completion.reason());  // it logs itself
  co_return after == Completion::After::next_request;
}

/// What is asked all the time and goes well is not worth a line.
void Session::answered(const std::string& endpoint, unsigned status, const std::string& reason) const {
  edge_.metrics.answered(endpoint, status, reason);
  const bool routine = status < 400 || endpoint == "readyz";
  (routine ? log::debug : log::info)("request.end", {{"request", connection_->request_id()},
                                                     {"peer", connection_->peer()},
                                                     {"endpoint", endpoint},
                                                     {"status", status},
                                                     {"reason", reason}});
}

/// Everything but the completions: answered at once.
HttpResponse Session::answer() const {
  const Destination& to = asked_.to;
  switch (to.route->action) {
    case Route::Action::livez:
      return json_response(200, "{\"live\":true}");
    case Route::Action::readyz: {
      const std::string why_not = edge_.readiness->why_not(Readiness::Clock::now());
      return json_response(why_not.empty() ? 200 : 503, ready_body(why_not));
    }
    case Route::Action::metrics: {
      HttpResponse response = json_response(200, edge_.metrics.text(*edge_.readiness));
      response.set(http::field::content_type, "text/plain; version=0.0.4; charset=utf-8");
      return response;
    }
    case Route::Action::models:
      return json_response(200, models_body(edge_.models));
    case Route::Action::model:
      if (const ServedModel* model = edge_.models.find(to.id))
        return json_response(200, model_body(*model, to.id));
      return error_response(
          {404, "the model '" + std::string(to.id) + "' does not exist", "model", "model_not_found"});
    case Route::Action::chat:
    case Route::Action::completions:
      break;  // complete()
  }
  std::abort();
}

const ApiError too_many_connections{503, "too many connections", {}, "too_many_connections", 1000};

asio::awaitable<void> refuse(tcp::socket socket, const Edge& edge) {
  auto connection = std::make_shared<Connection>(std::move(socket), edge.options, edge.tls());
  log::warn_limited("gateway.connection_refused", {{"peer", connection->peer()}});
  if (!co_await connection->secure()) co_await connection->write(error_response(too_many_connections));
  co_await connection->close();
}

}  // namespace convoy::gateway
