#include "gateway/connection.hpp"

#include <netinet/tcp.h>

#include <algorithm>
#include <cstddef>
#include <ctime>
#include <sstream>
#include <utility>

#include "gateway/openai_response.hpp"

namespace convoy::gateway {

using boost::system::error_code;

namespace {

constexpr size_t read_ahead_bytes = 64 << 10;  // beside the header: body and pipelined requests
constexpr size_t first_bytes_max = 512;        // that Beast reads at a time, at least

/// HTTP's form of the time, such as "Sun, 06 Nov 1994 08:49:37 GMT".
std::string http_date() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  char text[32];
  return {text, std::strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &parts)};
}

/// What every response says, in the terms of the request's version.
template <class Message>
void mark_response(Message& response, unsigned version, bool keep_alive, const std::string& request_id) {
  response.version(version);
  response.keep_alive(keep_alive);
  response.set(http::field::server, "convoy");
  response.set(http::field::date, http_date());
  response.set("x-request-id", request_id);
}

/// The system tells us of a client whose machine is gone: while we write, by what it does not acknowledge;
/// while it waits, by probes.
void notice_lost_peer(tcp::socket& socket, uint32_t write_timeout_ms) {
  const int timeout_ms = static_cast<int>(write_timeout_ms);
  const int probe_after_s = std::max(1, timeout_ms / 2000), probe_every_s = std::max(1, timeout_ms / 6000);
  const int handle = socket.native_handle(), on = 1;
  // What fails here is a socket that is gone already; it says so at the first read.
  ::setsockopt(handle, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  ::setsockopt(handle, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  ::setsockopt(handle, IPPROTO_TCP, TCP_KEEPIDLE, &probe_after_s, sizeof probe_after_s);
  ::setsockopt(handle, IPPROTO_TCP, TCP_KEEPINTVL, &probe_every_s, sizeof probe_every_s);
  ::setsockopt(handle, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof timeout_ms);
}

}  // namespace

HttpResponse json_response(unsigned status, std::string body) {
  HttpResponse response{http::int_to_status(status), 11};
  response.set(http::field::content_type, "application/json");
  response.body() = std::move(body);
  return response;
}

HttpResponse error_response(const ApiError& error) {
  HttpResponse response = json_response(error.status, error_body(error));
  if (error.status == 401) response.set(http::field::www_authenticate, "Bearer");
  if (error.retry_after_ms) {
    response.set(http::field::retry_after, std::to_string((uint64_t{error.retry_after_ms} + 999) / 1000));
    response.set("retry-after-ms", std::to_string(error.retry_after_ms));
  }
  return response;
}

std::string last_words(const ApiError& error) {
  HttpResponse response = error_response(error);
  mark_response(response, 11, false, random_id("req-"));
  response.prepare_payload();
  std::ostringstream bytes;
  bytes << response;
  return std::move(bytes).str();
}

Connection::Connection(tcp::socket socket, const GatewayOptions& options,
                       std::shared_ptr<asio::ssl::context> tls)
    : stream_(std::move(socket)),
      tls_(std::move(tls)),
      options_(options),
      buffer_(options.header_bytes_max + read_ahead_bytes),
      limit_(stream_.get_executor()),
      settled_(stream_.get_executor()) {
  notice_lost_peer(this->socket(), options.write_timeout_ms);
  error_code ignored;  // a socket that is gone already says so at the first read
  std::ostringstream peer;
  peer << this->socket().remote_endpoint(ignored);
  peer_ = peer.str();
}

template <class Message>
void Connection::mark(Message& response) {
  mark_response(response, version_, keeps_alive(), request_id_);
}

void Connection::arm(uint32_t limit_ms) {
  expired_ = false;
  limit_.expires_after(std::chrono::milliseconds(limit_ms));
  limit_.async_wait([self = shared_from_this(), turn = ++turn_](error_code ec) {
    if (!ec && turn == self->turn_) self->expire();
  });
}

/// A client that reads slowly but steadily is served: the limit is for one that takes nothing.
void Connection::arm_write() {
  expired_ = false;
  limit_.expires_after(std::chrono::milliseconds(options_.write_timeout_ms));
  limit_.async_wait([self = shared_from_this(), turn = ++turn_](error_code ec) {
    if (ec || turn != self->turn_) return;
    const uint64_t before = std::exchange(self->taken_, self->bytes_taken());
    if (self->taken_ > before) return self->arm_write();
    self->expire();
  });
}

void Connection::expire() {
  expired_ = true;
  error_code ignored;
  socket().cancel(ignored);
}

/// Of what went out: acknowledged by the client's system, which takes no more than the client reads and its
/// buffer holds.
uint64_t Connection::bytes_taken() {
  // What the kernel says behind that (linux/tcp.h, which cannot stand beside netinet/tcp.h).
  struct {
    tcp_info known;
    uint64_t pacing_rate, pacing_rate_max, bytes_acknowledged;
  } info{};
  static_assert(offsetof(decltype(info), bytes_acknowledged) == 120);
  socklen_t size = sizeof info;
  ::getsockopt(socket().native_handle(), IPPROTO_TCP, TCP_INFO, &info, &size);  // a socket that is gone: 0
  return info.bytes_acknowledged;
}

void Connection::disarm() {
  ++turn_;
  limit_.cancel();
}

void Connection::interrupt() {
  interrupted_ = true;
  error_code ignored;
  if (waiting_for_request_) socket().cancel(ignored);
}

std::variant<HttpRequest, ApiError, Connection::Closed> Connection::explain(const error_code& ec,
                                                                            bool said_something) const {
  if (expired_ && said_something)
    return ApiError{408, "the request took too long to arrive", {}, "request_timeout"};
  if (ec == http::error::header_limit || ec == http::error::buffer_overflow)
    return ApiError{431,
                    "the header is larger than " + std::to_string(options_.header_bytes_max) + " bytes",
                    {},
                    "header_too_large"};
  if (ec == http::error::body_limit)
    return ApiError{413,
                    "the body is larger than " + std::to_string(options_.body_bytes_max) + " bytes",
                    {},
                    "body_too_large"};
  const bool cut = ec == http::error::end_of_stream || ec == http::error::partial_message;
  if (!cut && ec.category() == make_error_code(http::error::bad_method).category())
    return bad_request("this is not HTTP/1.1: " + ec.message(), {}, "invalid_http");
  return Closed{};
}

/// Between requests a connection may rest for longer than a header may take.
asio::awaitable<error_code> Connection::await_next_request() {
  error_code ec;
  if (std::exchange(first_, false) || buffer_.size() > 0) co_return ec;
  make_room();
  arm(options_.keepalive_timeout_ms);
  buffer_.commit(co_await stream_.async_read_some(buffer_.prepare(first_bytes_max),
                                                  asio::redirect_error(asio::use_awaitable, ec)));
  disarm();
  co_return ec;
}

/// For as much as Beast reads at least. If there is no memory for it, that ends this coroutine with an error:
/// what Beast throws inside of its own operation nobody catches, and whoever waits for it waits for ever.
void Connection::make_room() {
  buffer_.reserve(std::min(buffer_.size() + first_bytes_max, buffer_.max_size()));
}

asio::awaitable<std::variant<HttpRequest, ApiError, Connection::Closed>> Connection::read_request(
    const Admit& admit) {
  http::request_parser<http::string_body> parser;
  parser.header_limit(static_cast<uint32_t>(options_.header_bytes_max));
  parser.body_limit(options_.body_bytes_max);
  keep_alive_ = false;  // until the request is known to be whole
  answering_ = false;
  request_id_ = random_id("req-");
  version_ = 11;
  head_only_ = false;
  if (interrupted_) co_return Closed{};

  waiting_for_request_ = true;
  error_code ec = co_await await_next_request();
  if (ec) co_return Closed{};
  arm(options_.header_timeout_ms);
  while (!ec && !parser.is_header_done()) {
    make_room();
    co_await http::async_read_some(stream_, buffer_, parser, asio::redirect_error(asio::use_awaitable, ec));
  }
  disarm();
  waiting_for_request_ = false;
  header_read_at_ = std::chrono::steady_clock::now();
  if (ec) co_return explain(ec, parser.got_some());

  const HttpHeader& header = parser.get().base();
  version_ = header.version();
  head_only_ = parser.get().method() == http::verb::head;
  if (const auto given = given_request_id(header); !given.empty()) request_id_ = given;
  if (auto error = framing_error(header)) co_return *error;
  if (auto error = audience_error(header, options_.allowed_hosts)) co_return *error;
  if (auto error = admit(header)) co_return *error;
  if (version_ >= 11 && beast::iequals(header[http::field::expect], "100-continue") && !parser.is_done()) {
    static constexpr std::string_view go_on = "HTTP/1.1 100 Continue\r\n\r\n";
    if (!co_await write_buffers(asio::buffer(go_on))) co_return Closed{};
  }
  arm(options_.body_timeout_ms);
  buffer_.reserve(buffer_.max_size());  // Beast reads as much at a time as there is room: else 512 bytes
  if (const auto bytes = parser.content_length()) parser.get().body().reserve(*bytes);  // see make_room()
  co_await http::async_read(stream_, buffer_, parser, asio::redirect_error(asio::use_awaitable, ec));
  buffer_.shrink_to_fit();  // a connection that rests keeps none of it
  disarm();
  if (ec) co_return explain(ec, true);
  keep_alive_ = parser.keep_alive();
  co_return parser.release();
}

template <class Buffers>
asio::awaitable<bool> Connection::write_buffers(Buffers buffers) {
  beast::buffers_suffix<Buffers> rest(buffers);
  for (error_code ec; asio::buffer_size(rest) > 0;) {
    arm_write();
    const size_t written =
        co_await stream_.async_write_some(rest, asio::redirect_error(asio::use_awaitable, ec));
    disarm();
    if (ec) co_return false;
    rest.consume(written);
  }
  co_return true;
}

template <class Body>
asio::awaitable<bool> Connection::write_message(const http::response<Body>& response, bool header_only) {
  http::response_serializer<Body> serializer{response};
  serializer.split(header_only);
  answering_ = true;
  for (error_code ec; header_only ? !serializer.is_header_done() : !serializer.is_done();) {
    arm_write();
    co_await http::async_write_some(stream_, serializer, asio::redirect_error(asio::use_awaitable, ec));
    disarm();
    if (ec) co_return false;
  }
  co_return true;
}

asio::awaitable<bool> Connection::write(HttpResponse response) {
  mark(response);
  response.prepare_payload();
  co_return co_await write_message(response, head_only_);
}

/// HTTP/1.0 knows no chunks: there the connection's end is the stream's.
asio::awaitable<bool> Connection::begin_stream(http::response<http::empty_body> header) {
  chunked_ = version_ >= 11;
  if (!chunked_) keep_alive_ = false;
  mark(header);
  header.set("x-accel-buffering", "no");  // or nginx would gather the events
  if (chunked_) header.chunked(true);
  co_return co_await write_message(header, true);
}

asio::awaitable<bool> Connection::write_chunk(std::string_view data) {
  const asio::const_buffer bytes(data.data(), data.size());
  if (!chunked_) co_return co_await write_buffers(bytes);
  // In one piece: TLS would make three records of it.
  const std::string chunk = beast::buffers_to_string(http::make_chunk(bytes));
  co_return co_await write_buffers(asio::buffer(chunk));
}

asio::awaitable<bool> Connection::end_stream() {
  if (!chunked_) co_return true;
  co_return co_await write_buffers(http::make_chunk_last());
}

void Connection::watch(std::function<void()> gone) {
  on_gone_ = std::move(gone);
  read_more();
}

void Connection::read_more() {
  const size_t room = buffer_.max_size() - buffer_.size();
  if (!on_gone_ || reading_ || room == 0) return;
  reading_ = true;
  stream_.async_read_some(buffer_.prepare(std::min<size_t>(room, 4096)),
                          [self = shared_from_this()](error_code ec, size_t bytes) {
                            self->reading_ = false;
                            self->buffer_.commit(bytes);
                            self->settled_.cancel();
                            if (!self->on_gone_) return;
                            if (!ec) return self->read_more();
                            std::exchange(self->on_gone_, nullptr)();
                          });
}

asio::awaitable<void> Connection::stop_watching() {
  on_gone_ = nullptr;
  error_code ignored;
  if (reading_) socket().cancel(ignored);
  while (reading_) {
    settled_.expires_at(asio::steady_timer::time_point::max());
    co_await settled_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }
}

}  // namespace convoy::gateway
