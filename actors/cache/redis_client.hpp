#pragma once
// RedisClient: pipelined commands over one connection to Redis, made when it is needed. It owns the socket,
// the parser of replies and the commands that wait for theirs; a command that waits too long ends its
// connection, so that no late reply can meet a later command. Used by the answer cache; all of it runs on the
// one thread of the given executor.

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>

namespace convoy::actors {

/// Where a Redis is, as configured.
struct RedisUrl {
  std::string text;
  std::string path;        // of a Unix socket; empty: host and port
  std::string host, port;  // the port is a number
};

/// The address as it may be shown: user and password, which do not belong there but may stand there, are ***.
std::string masked_redis_url(const std::string& url);

/// redis://HOST[:PORT] or unix:///PATH. Pure. Throws InputError.
RedisUrl parse_redis_url(const std::string& url);

struct RedisAddress {
  std::string text;  // as configured, for logs and status
  boost::asio::generic::stream_protocol::endpoint endpoint;
};

/// A host's name is looked up here, once (this may block). Throws InputError.
RedisAddress resolve(const RedisUrl& url);

/// The URL of a Unix socket. Throws InputError if the path is longer than such sockets allow.
std::string unix_redis_url(const std::string& path);

struct RedisReply {
  enum class Status {
    value,    // text is the value, or the status line
    nil,      // no such key
    refused,  // Redis answered with an error, in text
    timeout,  // no answer before the deadline
    lost,     // no connection, or it ended; why in text
    busy      // the client's own limits are reached: nothing was sent
  };
  Status status;
  std::string text;
};

class RedisClient {
 public:
  struct Limits {
    size_t in_flight_max = 256;                      // commands that wait for replies
    size_t queue_bytes_max = 16 << 20;               // commands that wait to be written
    size_t reply_bytes_max = (1 << 20) + (4 << 10);  // a longer reply ends the connection
  };
  using Clock = std::chrono::steady_clock;
  using Done = std::function<void(RedisReply)>;

  RedisClient(boost::asio::any_io_executor executor, RedisAddress address, Limits limits);
  ~RedisClient();  // commands that wait end as lost
  RedisClient(const RedisClient&) = delete;
  RedisClient& operator=(const RedisClient&) = delete;

  /// Sends one command whose reply is no array; connects first if need be. done is called exactly once, at
  /// the deadline at the latest, and may be called before this returns (busy). It may send further commands.
  void command(std::initializer_list<std::string_view> arguments, Clock::time_point deadline, Done done);

  const RedisAddress& address() const { return address_; }

 private:
  class Connection;
  boost::asio::any_io_executor executor_;
  const RedisAddress address_;
  const Limits limits_;
  std::shared_ptr<Connection> connection_;
};

}  // namespace convoy::actors
