#pragma once
// Reading and writing frames on a byte stream. Called by coroutines of a link's I/O thread. The stream is a
// template parameter: links have connections of two kinds (link_connection.hpp), tests have sockets.

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <boost/asio.hpp>
#include <boost/asio/ssl/error.hpp>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "actors/link/link_wire.hpp"

namespace convoy::actors {

namespace asio = boost::asio;

/// What links need of a connection.
template <class S>
concept LinkStream = requires(S& stream, asio::mutable_buffer in, asio::const_buffer out) {
  stream.async_read_some(in, asio::use_awaitable);
  stream.async_write_some(out, asio::use_awaitable);
  stream.lowest_layer().close();
};
/// TCP, or Unix-domain between processes of one machine: links treat both alike once they are connected.
using LinkProtocol = asio::generic::stream_protocol;
using LinkSocket = LinkProtocol::socket;
using LinkEndpoint = LinkProtocol::endpoint;
using LinkAcceptor = asio::basic_socket_acceptor<LinkProtocol>;
static_assert(LinkStream<LinkSocket>);

/// Whether the peer closed the connection. Over TLS a close is no more than that either: nothing but a whole
/// frame counts.
inline bool is_end(const boost::system::error_code& error) {
  return error == asio::error::eof || error == asio::ssl::error::stream_truncated;
}

/// One frame on its way out.
struct Outgoing {
  uint16_t type = 0;
  schema::Role role = schema::Role::NONE;
  uint32_t instance = 0;
  schema::FrameBytes bytes;
  size_t sent = 0;  // bytes of header and frame that went out already (LinkPort's direct write)
};

template <class T>
Outgoing outgoing(const schema::Frame<T>& frame) {
  return {.type = schema::FrameTraits<T>::type_id, .bytes = frame.bytes()};
}

/// A frame as it came, its segment table checked; or why the connection is of no further use.
struct Incoming {
  wire::Header header;
  std::unique_ptr<schema::FrameBuffer> buffer;
  std::string refused;  // empty: header and buffer are good
  bool closed = false;  // refused, because the connection ended
};

/// Reads one frame of at most payload_bytes_max. Memory is taken after the header was checked.
template <LinkStream S>
asio::awaitable<Incoming> read_frame(S& stream, uint64_t payload_bytes_max) {
  Incoming in;
  wire::HeaderBytes head;
  auto [error, got] =
      co_await asio::async_read(stream, asio::buffer(head), asio::as_tuple(asio::use_awaitable));
  if (error) {
    in.closed = true;
    in.refused = got != 0 ? "truncated header: " + std::to_string(got) + " bytes, then " + error.message()
                 : is_end(error) ? "closed by the peer"
                                 : error.message();
    co_return in;
  }
  if (auto refused = wire::refuse_header(head, payload_bytes_max, in.header)) {
    in.refused = *refused;
    co_return in;
  }
  in.buffer = std::make_unique<schema::FrameBuffer>(in.header.payload_bytes);
  auto [body_error, body_got] = co_await asio::async_read(
      stream, asio::buffer(in.buffer->data(), in.buffer->size()), asio::as_tuple(asio::use_awaitable));
  in.closed = static_cast<bool>(body_error);
  if (body_error)
    in.refused = "truncated frame: " + std::to_string(body_got) + " of " + std::to_string(in.buffer->size()) +
                 " bytes, then " + body_error.message();
  else if (auto refused = schema::refuse_frame({in.buffer->data(), in.buffer->size()}))
    in.refused = *refused;
  co_return in;
}

/// Sends as much of a frame as the socket takes at once, from any thread; never blocks. Returns how many
/// bytes of header and frame went out; 0 also on an error, which the next write of the I/O thread meets
/// again.
inline size_t send_now(int socket, const Outgoing& frame) {
  const auto head = wire::encode(wire::Header{frame.type, frame.role, frame.instance, frame.bytes->size()});
  iovec parts[] = {{const_cast<void*>(static_cast<const void*>(head.data())), head.size()},
                   {const_cast<std::byte*>(frame.bytes->data()), frame.bytes->size()}};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  const ssize_t sent = ::sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  return sent < 0 ? 0 : static_cast<size_t>(sent);
}

/// Writes frames one after the other, gathered: headers and frames are not copied. Returns the error, if any.
template <LinkStream S>
asio::awaitable<boost::system::error_code> write_frames(S& stream, std::span<const Outgoing> frames) {
  std::vector<wire::HeaderBytes> heads;
  heads.reserve(frames.size());  // the buffers below point into it
  std::vector<asio::const_buffer> parts;
  parts.reserve(2 * frames.size());
  for (const auto& frame : frames) {
    heads.push_back(wire::encode(wire::Header{frame.type, frame.role, frame.instance, frame.bytes->size()}));
    const size_t of_head = std::min(frame.sent, heads.back().size());
    parts.push_back(asio::buffer(heads.back()) + of_head);
    parts.push_back(asio::buffer(frame.bytes->data(), frame.bytes->size()) + (frame.sent - of_head));
  }
  auto [error, written] = co_await asio::async_write(stream, parts, asio::as_tuple(asio::use_awaitable));
  co_return error;
}

}  // namespace convoy::actors
