#pragma once
// Session: one connection's requests, one after the other: reads, routes, answers. A coroutine on its strand.

#include <memory>
#include <optional>

#include "gateway/admission.hpp"
#include "gateway/completion.hpp"
#include "gateway/connection.hpp"
#include "gateway/edge.hpp"
#include "gateway/routes.hpp"

namespace convoy::gateway {

class Session : public std::enable_shared_from_this<Session> {
 public:
  /// The socket's executor is the session's strand. edge must outlive it.
  Session(tcp::socket socket, Edge& edge);

  /// Until the connection is closed.
  asio::awaitable<void> run();
  /// Any thread: the connection ends once the answer that is being made is whole, or at once if none is.
  void drain();
  /// Any thread: ends the answer that is being made with an error, and the connection.
  void stop();
  /// Any thread: run() threw; its connection must not outlive it. last_words are for a client whose answer
  /// had not begun, and outlive the gateway's threads.
  void drop(std::string_view last_words);

 private:
  std::optional<ApiError> admit(const HttpHeader& header);
  asio::awaitable<bool> serve(HttpRequest& request);
  asio::awaitable<bool> complete(HttpRequest& request, Endpoint endpoint);
  void answered(const std::string& endpoint, unsigned status, const std::string& reason) const;
  HttpResponse answer() const;
  std::string label() const { return std::string(asked_.to.route ? asked_.to.route->label : "other"); }

  /// Of the request under way, once its header is read.
  struct Asked {
    std::string path;
    Destination to;  // its id is a part of the path
    Caller caller;
    bool refused = false;  // for its key
  };
  std::shared_ptr<Connection> connection_;
  Edge& edge_;
  Asked asked_;
  Completion* completion_ = nullptr;  // while one runs
};

/// What a client is told beyond connections_max, or when there is no descriptor for it.
extern const ApiError too_many_connections;

/// Tells a client that there are too many, and closes.
asio::awaitable<void> refuse(tcp::socket socket, const Edge& edge);

}  // namespace convoy::gateway
