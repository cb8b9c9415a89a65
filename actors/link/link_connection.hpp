#pragma once
// One connection of a link: a socket, or TLS over one. Belongs to the links' I/O thread; a link reads and
// writes it by link_stream.hpp either way.

#include <boost/asio/ssl.hpp>
#include <memory>
#include <string>
#include <vector>

#include "actors/link/link_stream.hpp"

namespace convoy::actors {

class LinkConnection {
 public:
  explicit LinkConnection(asio::io_context& io) : LinkConnection(LinkSocket(io)) {}
  explicit LinkConnection(LinkSocket socket) : socket_(std::make_unique<LinkSocket>(std::move(socket))) {}

  // Not of one that was moved from, which is merely closed.
  LinkSocket& socket() { return *socket_; }
  LinkSocket& lowest_layer() { return *socket_; }
  bool is_open() const { return socket_ && socket_->is_open(); }
  void close() {
    boost::system::error_code ignored;  // it may be closed already
    if (socket_) socket_->close(ignored);
  }
  bool encrypted() const { return tls_ != nullptr; }

  /// Everything from here on is encrypted. Returns why that failed, or nothing. Strangers::allowed: as a
  /// server, a peer that shows no certificate too; see certified().
  enum class Strangers : uint8_t { refused, allowed };
  asio::awaitable<std::string> encrypt(asio::ssl::context& context,
                                       asio::ssl::stream_base::handshake_type end,
                                       Strangers strangers = Strangers::refused);
  /// Of an encrypted one: whether the peer showed a certificate.
  bool certified() const;
  /// Of an encrypted one: all certificates that a server showed, its own first, as PEM.
  std::vector<std::string> peer_chain() const;

  /// Of an encrypted one: the common name in the peer's certificate, which its authority vouches for.
  std::string peer_name() const;
  /// Of an encrypted one: the serial number of that certificate (certificates.hpp).
  std::string peer_serial() const;
  /// Of an encrypted one: Unix time at which that certificate ends.
  int64_t peer_until_s() const;
  /// Of an encrypted one: 32 bytes that its two ends have, and nobody else (RFC 5705, RFC 8446 section 7.5).
  std::string shared_key() const;

  template <class Buffers, class Token>
  auto async_read_some(const Buffers& buffers, Token&& token) {
    return tls_ ? tls_->async_read_some(buffers, std::forward<Token>(token))
                : socket_->async_read_some(buffers, std::forward<Token>(token));
  }
  template <class Buffers, class Token>
  auto async_write_some(const Buffers& buffers, Token&& token) {
    return tls_ ? tls_->async_write_some(buffers, std::forward<Token>(token))
                : socket_->async_write_some(buffers, std::forward<Token>(token));
  }
  using executor_type = LinkSocket::executor_type;
  executor_type get_executor() { return socket_->get_executor(); }

 private:
  using Tls = asio::ssl::stream<LinkSocket&>;
  std::unique_ptr<LinkSocket> socket_;  // where tls_ finds it when this moves
  std::unique_ptr<Tls> tls_;
};
static_assert(LinkStream<LinkConnection>);

}  // namespace convoy::actors
