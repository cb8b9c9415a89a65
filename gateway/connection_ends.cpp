// How a connection begins, if it is to be TLS, and how it ends: so that nobody takes a broken answer for a
// whole one.

#include <linux/sockios.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/ioctl.h>

#include <array>

#include "gateway/connection.hpp"

namespace convoy::gateway {

using boost::system::error_code;
using namespace std::chrono_literals;

namespace {

constexpr auto linger_timeout = 1s;                 // after our last byte, until the client closes
constexpr uint64_t linger_bytes_max = 64ull << 20;  // thrown away meanwhile
constexpr auto reset_delivery_timeout = 500ms;      // until the last bytes before a reset are acknowledged

}  // namespace

asio::awaitable<std::optional<std::string>> Connection::secure() {
  if (!tls_) co_return std::nullopt;
  error_code ec;
  waiting_for_request_ = true;
  arm(options_.header_timeout_ms);
  co_await stream_.encrypt(*tls_).async_handshake(asio::ssl::stream_base::server,
                                                  asio::redirect_error(asio::use_awaitable, ec));
  disarm();
  waiting_for_request_ = false;
  secured_ = !ec;
  if (secured_) co_return std::nullopt;
  if (expired_) {
    drop();
    co_return "it took longer than gateway.header_timeout_ms";
  }
  const bool is_http = ec.category() == asio::error::get_ssl_category() &&
                       ERR_GET_REASON(static_cast<unsigned long>(ec.value())) == SSL_R_HTTP_REQUEST;
  if (is_http)
    send_last_words(socket().native_handle(),
                    last_words(bad_request("here is HTTPS: ask https://", {}, "https_required")));
  co_return is_http ? "plain HTTP" : ec.message();
}

void send_last_words(int socket, std::string_view words) {
  // They fit a fresh socket's buffer; a client that is gone already misses nothing. What it sent is read, as
  // far as it is there: closing on it would reset the connection.
  (void)::send(socket, words.data(), words.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  ::shutdown(socket, SHUT_WR);
  std::array<char, 16 << 10> thrown_away;
  for (uint64_t bytes = 0; bytes < linger_bytes_max;) {
    const ssize_t got = ::recv(socket, thrown_away.data(), thrown_away.size(), MSG_DONTWAIT);
    if (got <= 0) return;
    bytes += static_cast<uint64_t>(got);
  }
}

asio::awaitable<void> Connection::close() {
  co_await stop_watching();
  error_code ec;
  arm(static_cast<uint32_t>(std::chrono::milliseconds(linger_timeout).count()));
  co_await say_end();
  socket().shutdown(tcp::socket::shutdown_send, ec);
  std::array<char, 16 << 10> thrown_away;
  uint64_t bytes = 0;
  while (!ec && !expired_ && bytes < linger_bytes_max)
    bytes += co_await stream_.plain().async_read_some(asio::buffer(thrown_away),
                                                      asio::redirect_error(asio::use_awaitable, ec));
  disarm();
  socket().close(ec);
}

asio::awaitable<void> Connection::leave() {
  error_code ignored;
  arm(static_cast<uint32_t>(std::chrono::milliseconds(linger_timeout).count()));
  co_await say_end();
  disarm();
  socket().close(ignored);
}

/// TLS's own end, of our side alone: Asio would wait for the client's.
asio::awaitable<void> Connection::say_end() {
  if (!secured_) co_return;
  error_code ignored;  // whoever does not hear it takes the end for a broken one
  SSL_set_shutdown(stream_.tls()->native_handle(), SSL_RECEIVED_SHUTDOWN);
  co_await stream_.tls()->async_shutdown(asio::redirect_error(asio::use_awaitable, ignored));
}

asio::awaitable<void> Connection::reset() {
  co_await stop_watching();
  // A reset throws away what is not yet acknowledged: let the error event arrive first, within reason.
  const auto give_up = std::chrono::steady_clock::now() + reset_delivery_timeout;
  int unacknowledged = 0;
  while (::ioctl(socket().native_handle(), SIOCOUTQ, &unacknowledged) == 0 && unacknowledged > 0 &&
         std::chrono::steady_clock::now() < give_up) {
    error_code ignored;
    settled_.expires_after(2ms);
    co_await settled_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }
  drop();
}

void Connection::drop(std::string_view last_words) {
  on_gone_ = nullptr;
  error_code ec;
  const bool may_speak = !last_words.empty() && !answering_;
  if (may_speak && !tls_)
    send_last_words(socket().native_handle(), last_words);
  else if (may_speak && secured_ && send_encrypted(last_words))
    send_last_words(socket().native_handle(), {});
  else
    socket().set_option(asio::socket_base::linger(true, 0), ec);
  socket().close(ec);
}

/// All of the words and TLS's end, as far as the system takes them at once; else the connection is broken.
bool Connection::send_encrypted(std::string_view words) {
  error_code ec;
  socket().non_blocking(true, ec);
  if (!ec) asio::write(*stream_.tls(), asio::buffer(words), ec);
  if (ec) return false;
  SSL_set_shutdown(stream_.tls()->native_handle(), SSL_RECEIVED_SHUTDOWN);
  stream_.tls()->shutdown(ec);
  return !ec;
}

}  // namespace convoy::gateway
