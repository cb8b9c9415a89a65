#include "actors/cache/redis_client.hpp"

#include <hiredis/hiredis.h>
#include <sys/un.h>

#include <array>
#include <boost/asio.hpp>
#include <cassert>
#include <charconv>
#include <deque>
#include <new>
#include <vector>

#include "model/error.hpp"

namespace convoy::actors {
namespace {

namespace asio = boost::asio;
using Socket = asio::generic::stream_protocol::socket;
using Status = RedisReply::Status;
constexpr size_t read_bytes = 64 << 10;

// hiredis builds our RedisReply directly. No command of ours has an array as its reply, so a server that
// sends one is refused before hiredis allocates what its header claims.
void* create_string(const redisReadTask* task, char* text, size_t bytes) {
  const Status status = task->type == REDIS_REPLY_ERROR ? Status::refused : Status::value;
  return new RedisReply{status, std::string(text, bytes)};
}
void* create_array(const redisReadTask*, int) { return nullptr; }
void* create_integer(const redisReadTask*, long long value) {
  return new RedisReply{Status::value, std::to_string(value)};
}
void* create_nil(const redisReadTask*) { return new RedisReply{Status::nil, {}}; }
void free_reply(void* reply) { delete static_cast<RedisReply*>(reply); }
redisReplyObjectFunctions reply_functions{create_string, create_array, create_integer, create_nil,
                                          free_reply};

std::string encode(std::initializer_list<std::string_view> arguments) {
  std::vector<const char*> texts;
  std::vector<size_t> sizes;
  for (const auto argument : arguments) {
    texts.push_back(argument.data());
    sizes.push_back(argument.size());
  }
  char* command = nullptr;
  const int bytes =
      redisFormatCommandArgv(&command, static_cast<int>(texts.size()), texts.data(), sizes.data());
  if (bytes < 0) throw std::bad_alloc();
  std::string out(command, static_cast<size_t>(bytes));
  redisFreeCommand(command);
  return out;
}

}  // namespace

/// One connection, from connect to its first failure. Handlers keep it alive; after a failure they do
/// nothing.
class RedisClient::Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(const asio::any_io_executor& executor, const Limits& limits)
      : limits_(limits),
        socket_(executor),
        timer_(executor),
        reader_(redisReaderCreateWithFunctions(&reply_functions), &redisReaderFree) {
    if (!reader_) throw std::bad_alloc();
  }

  void connect(const RedisAddress& address) {
    socket_.async_connect(
        address.endpoint, [self = shared_from_this(), local = address.endpoint.protocol().family() ==
                                                              AF_UNIX](boost::system::error_code error) {
          if (self->failed_) return;
          if (error) return self->fail(Status::lost, "cannot connect: " + error.message());
          if (!local)
            self->socket_.set_option(asio::ip::tcp::no_delay(true), error);  // only slower without it
          self->connected_ = true;
          self->read();
          self->write();
        });
  }

  bool failed() const { return failed_; }

  void command(std::initializer_list<std::string_view> arguments, Clock::time_point deadline, Done done) {
    size_t bytes = 0;
    for (const auto argument : arguments) bytes += argument.size();
    if (waiting_.size() >= limits_.in_flight_max ||
        writing_.size() + queued_.size() + bytes > limits_.queue_bytes_max)
      return done({Status::busy, "too many commands are under way"});
    queued_ += encode(arguments);
    waiting_.push_back({deadline, std::move(done)});
    if (deadline < timer_.expiry() || waiting_.size() == 1) watch(deadline);
    write();
  }

  /// Ends the connection and every command that waits on it. reason: of those whose deadline has not passed.
  void fail(Status reason, const std::string& why) {
    if (failed_) return;
    failed_ = true;
    boost::system::error_code ignored;  // a socket that cannot be closed well is closed nevertheless
    socket_.close(ignored);
    timer_.cancel();
    auto waiting = std::move(waiting_);
    for (auto& command : waiting) command.done({reason, why});
  }

 private:
  struct Waiting {
    Clock::time_point deadline;
    Done done;
  };

  void watch(Clock::time_point deadline) {
    timer_.expires_at(deadline);
    timer_.async_wait([self = shared_from_this()](boost::system::error_code error) {
      if (error || self->failed_ || self->waiting_.empty()) return;
      auto first = Clock::time_point::max();
      for (const auto& command : self->waiting_) first = std::min(first, command.deadline);
      // Whoever waits behind a command that is late would be late too: all of them end now.
      if (first <= Clock::now()) return self->fail(Status::timeout, "no reply in time");
      self->watch(first);
    });
  }

  void write() {
    if (!connected_ || !writing_.empty() || queued_.empty()) return;
    writing_.swap(queued_);
    asio::async_write(socket_, asio::buffer(writing_),
                      [self = shared_from_this()](boost::system::error_code error, size_t) {
                        if (self->failed_) return;
                        if (error) return self->fail(Status::lost, error.message());
                        self->writing_.clear();
                        self->write();
                      });
  }

  void read() {
    socket_.async_read_some(asio::buffer(input_),
                            [self = shared_from_this()](boost::system::error_code error, size_t bytes) {
                              if (self->failed_) return;
                              if (error) return self->fail(Status::lost, error.message());
                              self->take(bytes);
                              if (!self->failed_) self->read();
                            });
  }

  void take(size_t bytes) {
    partial_bytes_ += bytes;
    if (redisReaderFeed(reader_.get(), input_.data(), bytes) != REDIS_OK)
      return fail(Status::lost, reader_->errstr);
    while (!failed_) {
      void* object = nullptr;
      if (redisReaderGetReply(reader_.get(), &object) != REDIS_OK) return fail(Status::lost, reader_->errstr);
      if (!object) break;
      const std::unique_ptr<RedisReply> reply(static_cast<RedisReply*>(object));
      partial_bytes_ = reader_->len - reader_->pos;
      if (waiting_.empty()) return fail(Status::lost, "a reply that nobody asked for");
      auto done = std::move(waiting_.front().done);
      waiting_.pop_front();
      done(std::move(*reply));
    }
    if (partial_bytes_ > limits_.reply_bytes_max) fail(Status::lost, "a reply that is too long");
  }

  const Limits limits_;
  Socket socket_;
  asio::steady_timer timer_;
  std::unique_ptr<redisReader, decltype(&redisReaderFree)> reader_;
  std::deque<Waiting> waiting_;  // in the order of their replies
  std::string queued_, writing_;
  std::array<char, read_bytes> input_;
  size_t partial_bytes_ = 0;  // of a reply that is not whole yet
  bool connected_ = false, failed_ = false;
};

RedisClient::RedisClient(asio::any_io_executor executor, RedisAddress address, Limits limits)
    : executor_(std::move(executor)), address_(std::move(address)), limits_(limits) {}

RedisClient::~RedisClient() {
  if (connection_) connection_->fail(Status::lost, "the client ends");
}

void RedisClient::command(std::initializer_list<std::string_view> arguments, Clock::time_point deadline,
                          Done done) {
  if (!connection_ || connection_->failed()) {
    connection_ = std::make_shared<Connection>(executor_, limits_);
    connection_->connect(address_);
  }
  // The caller's reference may be replaced while this command ends.
  const auto connection = connection_;
  connection->command(arguments, deadline, std::move(done));
}

std::string unix_redis_url(const std::string& path) {
  constexpr size_t path_bytes_max = sizeof(sockaddr_un::sun_path) - 1;
  if (path.size() > path_bytes_max)
    throw InputError("the socket's path has " + std::to_string(path.size()) + " bytes, at most " +
                         std::to_string(path_bytes_max) + " are possible",
                     path, "use a shorter run directory");
  return "unix://" + path;
}

std::string masked_redis_url(const std::string& url) {
  const size_t scheme = url.find("://"), begin = scheme == std::string::npos ? 0 : scheme + 3;
  const size_t at = url.rfind('@');
  return at == std::string::npos || at < begin ? url : url.substr(0, begin) + "***" + url.substr(at);
}

RedisUrl parse_redis_url(const std::string& url) {
  constexpr const char* where = "redis.url";
  constexpr const char* mend = "give \"redis://HOST\", \"redis://HOST:PORT\" or \"unix:///PATH\"";
  const std::string shown = "\"" + masked_redis_url(url) + "\"";
  RedisUrl parsed{.text = url};
  if (url.starts_with("unix://")) {
    parsed.path = url.substr(7);
    if (parsed.path.size() < 2 || parsed.path[0] != '/')
      throw InputError(shown + " has no absolute path", where, mend);
    unix_redis_url(parsed.path);
    return parsed;
  }
  if (!url.starts_with("redis://")) throw InputError(shown + " is no address of a Redis", where, mend);
  std::string &host = parsed.host = url.substr(8), &port = parsed.port = "6379";
  if (host.ends_with('/')) host.pop_back();
  if (host.find_first_of("@/?#") != std::string::npos)
    throw InputError(
        shown + " has more than a host and a port; user, password and database are not supported", where,
        mend);
  if (const size_t colon = host.rfind(':'); colon != std::string::npos && !host.ends_with(']')) {
    port = host.substr(colon + 1);
    host.resize(colon);
  }
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  uint16_t number = 0;
  const auto [end, problem] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (host.empty() || problem != std::errc() || end != port.data() + port.size() || number == 0)
    throw InputError(shown + " has no valid host and port", where, mend);
  return parsed;
}

RedisAddress resolve(const RedisUrl& url) {
  if (!url.path.empty()) return {url.text, asio::local::stream_protocol::endpoint(url.path)};
  asio::io_context io;
  boost::system::error_code error;
  const auto found = asio::ip::tcp::resolver(io).resolve(url.host, url.port, error);
  if (error || found.empty())
    throw InputError("\"" + url.host + "\" cannot be resolved (" + error.message() + ")", "redis.url",
                     "give its address, or see to its name");
  return {url.text, found.begin()->endpoint()};
}

}  // namespace convoy::actors
