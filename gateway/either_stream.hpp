#pragma once
// EitherStream: a connection that is plain, or TLS from encrypt() on. Beast and Asio read and write it either
// way. For the gateway's connections and for clients of it; all members on its executor.
// StaysEnded: what it stands on, a stream of bytes that can be read behind its end.

#include <boost/asio.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/beast/core/bind_handler.hpp>
#include <boost/beast/core/stream_traits.hpp>
#include <memory>
#include <utility>

namespace convoy::gateway {

namespace asio = boost::asio;

/// Behind its end every read says the end again. Of Asio's sockets only the first one does: the next waits
/// for an event, and there is none any more.
template <class Next>
class StaysEnded {
 public:
  using executor_type = typename Next::executor_type;
  using lowest_layer_type = boost::beast::lowest_layer_type<Next>;

  explicit StaysEnded(Next next) : next_(std::move(next)) {}

  executor_type get_executor() { return next_.get_executor(); }
  lowest_layer_type& lowest_layer() { return boost::beast::get_lowest_layer(next_); }
  const lowest_layer_type& lowest_layer() const { return boost::beast::get_lowest_layer(next_); }
  Next& next() { return next_; }
  const Next& next() const { return next_; }

  template <class Buffers, class Token>
  auto async_read_some(const Buffers& buffers, Token&& token) {
    const auto step = [this, buffers, begun = false](auto& self, boost::system::error_code ec = {},
                                                     size_t bytes = 0) mutable {
      if (!std::exchange(begun, true)) {
        if (ended_) return asio::post(boost::beast::bind_front_handler(std::move(self), ended_, size_t{0}));
        const Buffers into = buffers;  // self takes ours along
        return next_.async_read_some(into, std::move(self));
      }
      if (ec && ec != asio::error::operation_aborted) ended_ = ec;
      self.complete(ec, bytes);
    };
    return asio::async_compose<Token, void(boost::system::error_code, size_t)>(step, token, next_);
  }
  template <class Buffers, class Token>
  auto async_write_some(const Buffers& buffers, Token&& token) {
    return next_.async_write_some(buffers, std::forward<Token>(token));
  }
  template <class Buffers>
  size_t read_some(const Buffers& buffers, boost::system::error_code& ec) {
    return next_.read_some(buffers, ec);
  }
  template <class Buffers>
  size_t write_some(const Buffers& buffers, boost::system::error_code& ec) {
    return next_.write_some(buffers, ec);
  }

 private:
  Next next_;
  boost::system::error_code ended_;  // how
};

template <class Next>
class EitherStream {
 public:
  using Tls = asio::ssl::stream<StaysEnded<Next>&>;
  using executor_type = typename Next::executor_type;

  explicit EitherStream(Next next) : plain_(std::move(next)) {}
  EitherStream(const EitherStream&) = delete;  // tls_ knows where plain_ is
  EitherStream& operator=(const EitherStream&) = delete;

  executor_type get_executor() { return plain_.get_executor(); }
  Next& next() { return plain_.next(); }
  const Next& next() const { return plain_.next(); }
  /// What TLS stands on, or all there is.
  StaysEnded<Next>& plain() { return plain_; }

  /// Everything from here on goes through it; the handshake is the first thing.
  Tls& encrypt(asio::ssl::context& context) {
    tls_ = std::make_unique<Tls>(plain_, context);
    return *tls_;
  }
  /// Null: it is plain.
  Tls* tls() { return tls_.get(); }

  template <class Buffers, class Token>
  auto async_read_some(const Buffers& buffers, Token&& token) {
    return tls_ ? tls_->async_read_some(buffers, std::forward<Token>(token))
                : plain_.async_read_some(buffers, std::forward<Token>(token));
  }
  template <class Buffers, class Token>
  auto async_write_some(const Buffers& buffers, Token&& token) {
    return tls_ ? tls_->async_write_some(buffers, std::forward<Token>(token))
                : plain_.async_write_some(buffers, std::forward<Token>(token));
  }

 private:
  StaysEnded<Next> plain_;
  std::unique_ptr<Tls> tls_;
};

}  // namespace convoy::gateway
