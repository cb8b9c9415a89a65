#include "gateway/session.hpp"

#include <cstdlib>

#include "actors/process/log.hpp"
#include "gateway/openai_response.hpp"

namespace convoy::gateway {

namespace {

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
    : connection_(std::make_shared<Connection>(std::move(socket), edge.options)), edge_(edge) {}

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
  for (;;) {
    auto next = co_await connection_->read_request();
    if (auto* error = std::get_if<ApiError>(&next)) {
      answered("none", error->status, error->reason());
      co_await connection_->write(error_response(*error));
      break;
    }
    auto* request = std::get_if<HttpRequest>(&next);
    if (!request) co_return;
    if (!co_await serve(*request)) co_return co_await connection_->reset();
    if (!connection_->keeps_alive()) break;
  }
  co_await connection_->close();
}

/// False: the connection must be reset.
asio::awaitable<bool> Session::serve(HttpRequest& request) {
  using Action = Route::Action;
  const std::string path = path_of({request.target().data(), request.target().size()});
  const std::string_view method(request.method_string().data(), request.method_string().size());
  const Destination to = find_route(path);
  const std::string label(to.route ? to.route->label : "other");
  const bool allowed = to.route && to.route->allows(method);
  if (allowed && to.route->action == Action::chat)
    co_return co_await complete(request, Endpoint::chat, label);
  if (allowed && to.route->action == Action::completions)
    co_return co_await complete(request, Endpoint::completions, label);
  HttpResponse response = allowed    ? answer(to)
                          : to.route ? wrong_method(method, path, *to.route)
                                     : not_found(method, path);
  const unsigned status = response.result_int();
  answered(label, status, status < 400 ? "ok" : status == 503 ? "not_ready" : "invalid_request");
  co_return co_await connection_->write(std::move(response), request.method() == http::verb::head);
}

asio::awaitable<bool> Session::complete(HttpRequest& request, Endpoint endpoint, const std::string& label) {
  Completion completion(edge_, *connection_, request, endpoint);
  completion_ = &completion;
  const auto after = co_await completion.run();
  completion_ = nullptr;
  edge_.metrics.answered(label, completion.status(), completion.reason());  // it logs itself
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
HttpResponse Session::answer(const Destination& to) const {
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
      return json_response(200, models_body(edge_.model));
    case Route::Action::model:
      if (to.id == edge_.model.id) return json_response(200, model_body(edge_.model));
      return error_response(
          {404, "the model '" + std::string(to.id) + "' does not exist", "model", "model_not_found"});
    case Route::Action::chat:
    case Route::Action::completions:
      break;  // complete()
  }
  std::abort();
}

const ApiError too_many_connections{503, "too many connections", {}, "too_many_connections", 1000};

asio::awaitable<void> refuse(tcp::socket socket, const GatewayOptions& options) {
  auto connection = std::make_shared<Connection>(std::move(socket), options);
  log::warn_limited("gateway.connection_refused", {{"peer", connection->peer()}});
  co_await connection->write(error_response(too_many_connections));
  co_await connection->close();
}

}  // namespace convoy::gateway
