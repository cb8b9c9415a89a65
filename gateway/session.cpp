#include "gateway/session.hpp"

#include <cctype>

#include "actors/log.hpp"
#include "gateway/openai_response.hpp"

namespace convoy::gateway {

namespace {

constexpr std::string_view models_path = "/v1/models";

/// The target's path with %XX decoded, without its query. A broken escape stays as it is.
std::string path_of(std::string_view target) {
  target = target.substr(0, target.find('?'));
  std::string path;
  for (size_t i = 0; i < target.size(); ++i) {
    const auto hex = [&](size_t at) {
      return at < target.size() && std::isxdigit(static_cast<unsigned char>(target[at]));
    };
    if (target[i] == '%' && hex(i + 1) && hex(i + 2)) {
      path += static_cast<char>(std::stoi(std::string(target.substr(i + 1, 2)), nullptr, 16));
      i += 2;
    } else {
      path += target[i];
    }
  }
  return path;
}

HttpResponse wrong_method(const HttpRequest& request, std::string_view path, const char* allowed) {
  HttpResponse response = error_response({405,
                                          "not allowed to " + std::string(request.method_string()) + " on " +
                                              std::string(path) + "; use " + allowed,
                                          {},
                                          "method_not_allowed"});
  response.set(http::field::allow, allowed);
  return response;
}

}  // namespace

Session::Session(tcp::socket socket, Edge& edge)
    : connection_(std::make_shared<Connection>(std::move(socket), edge.options)), edge_(edge) {}

void Session::stop() {
  asio::post(connection_->executor(), [self = shared_from_this()] {
    self->stopping_ = true;
    self->connection_->interrupt();
    if (self->completion_) self->completion_->stop();
  });
}

void Session::drop() {
  asio::post(connection_->executor(), [self = shared_from_this()] { self->connection_->drop(); });
}

asio::awaitable<void> Session::run() {
  for (;;) {
    auto next = co_await connection_->read_request();
    if (auto* error = std::get_if<ApiError>(&next)) {
      answered("none", error->status, error->reason());
      HttpResponse response = error_response(*error);
      response.keep_alive(false);
      co_await connection_->write(std::move(response));
      break;
    }
    auto* request = std::get_if<HttpRequest>(&next);
    if (!request) co_return;
    if (!co_await serve(*request)) co_return co_await connection_->reset();
    if (!request->keep_alive() || stopping_) break;
  }
  co_await connection_->close();
}

/// False: the connection must be reset.
asio::awaitable<bool> Session::serve(HttpRequest& request) {
  const std::string path = path_of(std::string_view(request.target().data(), request.target().size()));
  if (request.method() == http::verb::post) {
    if (path == "/v1/chat/completions")
      co_return co_await complete(request, Endpoint::chat, "chat_completions");
    if (path == "/v1/completions") co_return co_await complete(request, Endpoint::completions, "completions");
  }
  Answer answer = this->answer(request, path);
  answer.response.keep_alive(request.keep_alive());
  const unsigned status = answer.response.result_int();
  answered(answer.endpoint, status, status < 400 ? "ok" : status == 503 ? "not_ready" : "invalid_request");
  co_return co_await connection_->write(std::move(answer.response), request.method() == http::verb::head);
}

asio::awaitable<bool> Session::complete(HttpRequest& request, Endpoint endpoint, const char* label) {
  Completion completion(edge_, *connection_, request, endpoint);
  completion_ = &completion;
  const auto after = co_await completion.run();
  completion_ = nullptr;
  edge_.metrics.answered(label, completion.status(), completion.reason());  // it logs itself
  co_return after == Completion::After::next_request;
}

/// What is asked all the time and goes well is not worth a line.
void Session::answered(const char* endpoint, unsigned status, const std::string& reason) const {
  edge_.metrics.answered(endpoint, status, reason);
  const bool routine = status < 400 || std::string_view(endpoint) == "readyz";
  (routine ? log::debug : log::info)(
      "request.end",
      {{"peer", connection_->peer()}, {"endpoint", endpoint}, {"status", status}, {"reason", reason}});
}

/// Everything but the completions: answered at once.
Session::Answer Session::answer(const HttpRequest& request, std::string_view path) const {
  if (path == "/v1/chat/completions") return {wrong_method(request, path, "POST"), "chat_completions"};
  if (path == "/v1/completions") return {wrong_method(request, path, "POST"), "completions"};
  const std::string_view model =
      path.starts_with(models_path) && path.substr(models_path.size()).starts_with('/')
          ? path.substr(models_path.size() + 1)
          : std::string_view();
  const char* label = path == "/livez"                        ? "livez"
                      : path == "/readyz"                     ? "readyz"
                      : path == "/metrics"                    ? "metrics"
                      : path == models_path || !model.empty() ? "models"
                                                              : nullptr;
  if (!label)
    return {error_response(
                {404,
                 "there is nothing at " + std::string(request.method_string()) + " " + std::string(path),
                 {},
                 "not_found"}),
            "other"};
  if (request.method() != http::verb::get && request.method() != http::verb::head)
    return {wrong_method(request, path, "GET, HEAD"), label};
  if (path == "/livez") return {json_response(200, "{\"live\":true}"), label};
  if (path == "/readyz") {
    const std::string why_not = edge_.readiness->why_not(Readiness::Clock::now());
    return {json_response(why_not.empty() ? 200 : 503, ready_body(why_not)), label};
  }
  if (path == "/metrics") {
    HttpResponse response = json_response(200, edge_.metrics.text(*edge_.readiness));
    response.set(http::field::content_type, "text/plain; version=0.0.4; charset=utf-8");
    return {std::move(response), label};
  }
  if (model.empty()) return {json_response(200, models_body(edge_.model)), label};
  if (model == edge_.model.id) return {json_response(200, model_body(edge_.model)), label};
  return {error_response(
              {404, "the model '" + std::string(model) + "' does not exist", "model", "model_not_found"}),
          label};
}

asio::awaitable<void> refuse(tcp::socket socket, const GatewayOptions& options) {
  auto connection = std::make_shared<Connection>(std::move(socket), options);
  log::warn_limited("gateway.connection_refused",
                    {{"peer", connection->peer()}, {"connections_max", options.connections_max}});
  HttpResponse response = error_response({503, "too many connections", {}, "too_many_connections", 1});
  response.keep_alive(false);
  co_await connection->write(std::move(response));
  co_await connection->close();
}

}  // namespace convoy::gateway
