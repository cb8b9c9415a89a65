#pragma once
// Connection: one client's TCP connection, with TLS over it or not, as messages of HTTP/1.1 and 1.0. Every
// wait has its limit; a client that leaves while its answer is made is noticed. All members run on the
// socket's strand.

#include <boost/asio.hpp>
#include <boost/beast.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "gateway/api_error.hpp"
#include "gateway/either_stream.hpp"
#include "gateway/gateway.hpp"
#include "gateway/http_rules.hpp"
#include "gateway/random_id.hpp"

namespace convoy::gateway {

namespace asio = boost::asio;
namespace beast = boost::beast;
using tcp = asio::ip::tcp;

using HttpRequest = http::request<http::string_body>;
using HttpResponse = http::response<http::string_body>;

HttpResponse json_response(unsigned status, std::string body);
HttpResponse error_response(const ApiError& error);
/// A whole answer as bytes, for a connection that is closed behind it.
std::string last_words(const ApiError& error);
/// Writes them, as far as the system takes them at once, and ends our side. Takes no memory.
void send_last_words(int socket, std::string_view words);

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  asio::any_io_executor executor() { return stream_.get_executor(); }

  const std::string& peer() const { return peer_; }  // address:port

  struct Closed {};  // by the client, or idle for too long: there is nobody to tell

  /// options must outlive it. tls: null for plain HTTP.
  Connection(tcp::socket socket, const GatewayOptions& options, std::shared_ptr<asio::ssl::context> tls);

  /// First of all: TLS, if it is to be. Why there is none, or nothing; if there is none, the connection is to
  /// be closed.
  asio::awaitable<std::optional<std::string>> secure();

  /// Why a request whose header this is gets no further, or nothing.
  using Admit = std::function<std::optional<ApiError>(const HttpHeader&)>;

  /// The next request; or what to tell the client before the connection is closed (400, 408, 413, 431, 501,
  /// or what `admit` says before the body is read).
  asio::awaitable<std::variant<HttpRequest, ApiError, Closed>> read_request(const Admit& admit);
  /// No request after the one under way: ends a read_request() that waits for one's header, as if the client
  /// had closed.
  void interrupt();

  /// Of the request under way: the client's own x-request-id, or one of ours. Its answers name it.
  const std::string& request_id() const { return request_id_; }
  /// Whether another request may follow this one's answer.
  bool keeps_alive() const { return keep_alive_ && !interrupted_; }

  /// All writes: in the terms of the request's version and method. False if the client is gone, or took
  /// nothing of it for write_timeout_ms.
  asio::awaitable<bool> write(HttpResponse response);
  asio::awaitable<bool> begin_stream(http::response<http::empty_body> header);
  asio::awaitable<bool> write_chunk(std::string_view data);
  asio::awaitable<bool> end_stream();

  /// When the header of the request under way was read to its end.
  std::chrono::steady_clock::time_point header_read_at() const { return header_read_at_; }

  /// From here to stop_watching(), `gone` is called once if the client leaves. What it sends meanwhile
  /// (pipelined requests) is kept, up to the buffer's limit; beyond that it is no longer watched.
  void watch(std::function<void()> gone);
  asio::awaitable<void> stop_watching();

  /// An orderly end: the client can read the last answer although it may still be sending. TLS says the end,
  /// too.
  asio::awaitable<void> close();
  /// The same where the client expects nothing more: without waiting for it.
  asio::awaitable<void> leave();
  /// An end that nobody takes for a whole answer: what was written is delivered, then the connection is
  /// reset.
  asio::awaitable<void> reset();
  /// The same at once: the session failed. What is left to say goes out if no answer had begun.
  void drop(std::string_view last_words = {});

 private:
  void arm(uint32_t limit_ms);
  void disarm();
  void arm_write();
  void expire();
  tcp::socket& socket() { return stream_.next(); }
  uint64_t bytes_taken();
  asio::awaitable<void> say_end();
  bool send_encrypted(std::string_view words);
  asio::awaitable<boost::system::error_code> await_next_request();
  void make_room();
  template <class Message>
  void mark(Message& response);
  void read_more();
  std::variant<HttpRequest, ApiError, Closed> explain(const boost::system::error_code& ec,
                                                      bool said_something) const;
  template <class Buffers>
  asio::awaitable<bool> write_buffers(Buffers buffers);
  template <class Body>
  asio::awaitable<bool> write_message(const http::response<Body>& response, bool header_only);

  EitherStream<tcp::socket> stream_;
  const std::shared_ptr<asio::ssl::context> tls_;
  const GatewayOptions& options_;
  std::string peer_;
  beast::flat_buffer buffer_;
  asio::steady_timer limit_;  // of the operation that runs
  uint64_t turn_ = 0;         // which operation that is: a late timer must not end the next one
  bool expired_ = false;
  uint64_t taken_ = 0;      // bytes that were seen to be acknowledged
  unsigned version_ = 11;   // of the request under way
  bool head_only_ = false;  // it wants no body
  std::chrono::steady_clock::time_point header_read_at_;
  bool keep_alive_ = false;
  bool answering_ = false;  // the request under way
  bool secured_ = false;    // TLS, and its handshake is over
  bool first_ = true, chunked_ = false;
  std::string request_id_ = random_id("req-");
  bool waiting_for_request_ = false, interrupted_ = false;
  std::function<void()> on_gone_;
  bool reading_ = false;        // the watch's read is under way
  asio::steady_timer settled_;  // woken when it is not
};

}  // namespace convoy::gateway
