#include "gateway/connection.hpp"

#include <linux/sockios.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <sstream>

#include "gateway/openai_response.hpp"

namespace convoy::gateway {

using boost::system::error_code;
using namespace std::chrono_literals;

namespace {

constexpr size_t read_ahead_bytes = 64 << 10;       // beside the header: body and pipelined requests
constexpr auto linger_timeout = 1s;                 // after our last byte, until the client closes
constexpr uint64_t linger_bytes_max = 64ull << 20;  // thrown away meanwhile
constexpr auto reset_delivery_timeout = 500ms;      // until the last bytes before a reset are acknowledged

template <class Body>
void add_common_headers(http::response<Body>& response) {
  response.set(http::field::server, "convoy");
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
  if (error.retry_after_s) {
    response.set(http::field::retry_after, std::to_string(error.retry_after_s));
    response.set("retry-after-ms", std::to_string(uint64_t{1000} * error.retry_after_s));
  }
  return response;
}

Connection::Connection(tcp::socket socket, const GatewayOptions& options)
    : socket_(std::move(socket)),
      options_(options),
      buffer_(options.header_bytes_max + read_ahead_bytes),
      limit_(socket_.get_executor()),
      settled_(socket_.get_executor()) {
  error_code ignored;  // a socket that is gone already says so at the first read
  socket_.set_option(tcp::no_delay(true), ignored);
  std::ostringstream peer;
  peer << socket_.remote_endpoint(ignored);
  peer_ = peer.str();
}

void Connection::arm(uint32_t limit_ms) {
  expired_ = false;
  limit_.expires_after(std::chrono::milliseconds(limit_ms));
  limit_.async_wait([self = shared_from_this(), turn = ++turn_](error_code ec) {
    if (ec || turn != self->turn_) return;
    self->expired_ = true;
    error_code ignored;
    self->socket_.cancel(ignored);
  });
}

void Connection::disarm() {
  ++turn_;
  limit_.cancel();
}

void Connection::interrupt() {
  interrupted_ = true;
  error_code ignored;
  if (waiting_for_request_) socket_.cancel(ignored);
}

std::variant<HttpRequest, ApiError, Connection::Closed> Connection::explain(const error_code& ec,
                                                                            bool said_something) const {
  if (expired_ && said_something)
    return ApiError{408, "the request took too long to arrive", {}, "request_timeout"};
  if (ec == http::error::header_limit || ec == http::error::buffer_overflow)
    return ApiError{431, "the header is larger than " + std::to_string(options_.header_bytes_max) + " bytes"};
  if (ec == http::error::body_limit)
    return ApiError{413, "the body is larger than " + std::to_string(options_.body_bytes_max) + " bytes"};
  const bool cut = ec == http::error::end_of_stream || ec == http::error::partial_message;
  if (!cut && ec.category() == make_error_code(http::error::bad_method).category())
    return ApiError{400, "this is not HTTP/1.1: " + ec.message()};
  return Closed{};
}

asio::awaitable<std::variant<HttpRequest, ApiError, Connection::Closed>> Connection::read_request() {
  http::request_parser<http::string_body> parser;
  parser.header_limit(static_cast<uint32_t>(options_.header_bytes_max));
  parser.body_limit(options_.body_bytes_max);
  if (interrupted_) co_return Closed{};

  error_code ec;
  waiting_for_request_ = true;
  arm(options_.header_timeout_ms);
  co_await http::async_read_header(socket_, buffer_, parser, asio::redirect_error(asio::use_awaitable, ec));
  disarm();
  waiting_for_request_ = false;
  if (ec) co_return explain(ec, parser.got_some());

  if (beast::iequals(parser.get()[http::field::expect], "100-continue") && !parser.is_done()) {
    if (!co_await write(HttpResponse{http::status::continue_, 11})) co_return Closed{};
  }
  arm(options_.body_timeout_ms);
  co_await http::async_read(socket_, buffer_, parser, asio::redirect_error(asio::use_awaitable, ec));
  disarm();
  if (ec) co_return explain(ec, true);
  co_return parser.release();
}

template <class Operation>
asio::awaitable<bool> Connection::limited_write(Operation operation) {
  error_code ec;
  arm(options_.write_timeout_ms);
  co_await operation(asio::redirect_error(asio::use_awaitable, ec));
  disarm();
  co_return !ec;
}

asio::awaitable<bool> Connection::write(HttpResponse response, bool head_only) {
  add_common_headers(response);
  if (response.result_int() >= 200) response.prepare_payload();  // 100 Continue has no length
  http::response_serializer<http::string_body> serializer{response};
  if (head_only)
    co_return co_await limited_write(
        [&](auto token) { return http::async_write_header(socket_, serializer, token); });
  co_return co_await limited_write([&](auto token) { return http::async_write(socket_, serializer, token); });
}

asio::awaitable<bool> Connection::begin_stream(http::response<http::empty_body> header) {
  add_common_headers(header);
  header.chunked(true);
  http::response_serializer<http::empty_body> serializer{header};
  co_return co_await limited_write(
      [&](auto token) { return http::async_write_header(socket_, serializer, token); });
}

asio::awaitable<bool> Connection::write_chunk(std::string_view data) {
  const asio::const_buffer bytes(data.data(), data.size());
  co_return co_await limited_write(
      [&](auto token) { return asio::async_write(socket_, http::make_chunk(bytes), token); });
}

asio::awaitable<bool> Connection::end_stream() {
  co_return co_await limited_write(
      [&](auto token) { return asio::async_write(socket_, http::make_chunk_last(), token); });
}

void Connection::watch(std::function<void()> gone) {
  on_gone_ = std::move(gone);
  read_more();
}

void Connection::read_more() {
  const size_t room = buffer_.max_size() - buffer_.size();
  if (!on_gone_ || reading_ || room == 0) return;
  reading_ = true;
  socket_.async_read_some(buffer_.prepare(std::min<size_t>(room, 4096)),
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
  if (reading_) socket_.cancel(ignored);
  while (reading_) {
    settled_.expires_at(asio::steady_timer::time_point::max());
    co_await settled_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }
}

asio::awaitable<void> Connection::close() {
  co_await stop_watching();
  error_code ec;
  socket_.shutdown(tcp::socket::shutdown_send, ec);
  std::array<char, 16 << 10> thrown_away;
  uint64_t bytes = 0;
  arm(static_cast<uint32_t>(std::chrono::milliseconds(linger_timeout).count()));
  while (!ec && !expired_ && bytes < linger_bytes_max)
    bytes += co_await socket_.async_read_some(asio::buffer(thrown_away),
                                              asio::redirect_error(asio::use_awaitable, ec));
  disarm();
  socket_.close(ec);
}

asio::awaitable<void> Connection::reset() {
  co_await stop_watching();
  // A reset throws away what is not yet acknowledged: let the error event arrive first, within reason.
  const auto give_up = std::chrono::steady_clock::now() + reset_delivery_timeout;
  int unacknowledged = 0;
  while (::ioctl(socket_.native_handle(), SIOCOUTQ, &unacknowledged) == 0 && unacknowledged > 0 &&
         std::chrono::steady_clock::now() < give_up) {
    error_code ignored;
    settled_.expires_after(2ms);
    co_await settled_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }
  drop();
}

void Connection::drop() {
  on_gone_ = nullptr;
  error_code ec;
  socket_.set_option(asio::socket_base::linger(true, 0), ec);
  socket_.close(ec);
}

}  // namespace convoy::gateway
