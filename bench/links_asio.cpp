// Plain Asio: two connections, a header of 16 bytes, one thread, memory that is used again. What links cannot
// be faster than by much: they add actors, checks, leases and credits.

#include <boost/asio.hpp>
#include <deque>
#include <stdexcept>

#include "actors/link/link_address.hpp"
#include "bench/links.hpp"

namespace convoy::bench {

namespace {

namespace asio = boost::asio;
using actors::LinkAcceptor, actors::LinkSocket;
using schema::Lane;

struct Head {
  uint64_t ask = 0, bytes = 0;
};

/// Control and bulk of one process.
class Ends {
 public:
  using Heard = std::function<void(const Message&)>;
  Ends(asio::io_context& io, Heard heard) : io_(io), heard_(std::move(heard)), ends_{End(io), End(io)} {}

  LinkSocket& socket(Lane lane) { return end(lane).socket; }
  /// Once both are connected.
  void start() {
    for (const Lane lane : {Lane::control, Lane::bulk}) run(read(lane));
  }
  void send(const Message& message) {
    auto& waiting = end(message.lane).waiting;
    waiting.push_back(message);
    if (waiting.size() == 1) run(write(message.lane));
  }

 private:
  struct End {
    explicit End(asio::io_context& io) : socket(io) {}
    LinkSocket socket;
    std::deque<Message> waiting;  // the first one is being written
  };
  End& end(Lane lane) { return ends_[lane == Lane::control ? 0 : 1]; }

  void run(asio::awaitable<void> coroutine) {
    asio::co_spawn(io_, std::move(coroutine), [](std::exception_ptr failure) {
      if (failure) std::rethrow_exception(failure);  // out of the io_context's run
    });
  }

  asio::awaitable<void> read(Lane lane) {
    auto& socket = end(lane).socket;
    for (std::shared_ptr<schema::FrameBuffer> bytes;;) {
      Head head;
      const auto [error, got] = co_await asio::async_read(socket, asio::buffer(&head, sizeof head),
                                                          asio::as_tuple(asio::use_awaitable));
      if (error == asio::error::eof && got == 0) co_return;
      if (error) throw boost::system::system_error(error);
      if (!bytes || bytes->size() != head.bytes || bytes.use_count() > 1)
        bytes = std::make_shared<schema::FrameBuffer>(head.bytes);
      co_await asio::async_read(socket, asio::buffer(bytes->data(), bytes->size()), asio::use_awaitable);
      heard_({lane, Ask{head.ask}, bytes});
    }
  }

  asio::awaitable<void> write(Lane lane) {
    auto& [socket, waiting] = end(lane);
    for (; !waiting.empty(); waiting.pop_front()) {
      const auto& bytes = waiting.front().bytes;
      const Head head{static_cast<uint64_t>(waiting.front().ask), bytes->size()};
      const std::array parts{asio::buffer(&head, sizeof head), asio::buffer(bytes->data(), bytes->size())};
      co_await asio::async_write(socket, parts, asio::use_awaitable);
    }
  }

  asio::io_context& io_;
  const Heard heard_;
  End ends_[2];
};

asio::ip::tcp::endpoint loopback(uint16_t port) { return {asio::ip::address_v4::loopback(), port}; }

template <bool over_unix>
void serve(const std::function<void(uint16_t)>& listening) {
  asio::io_context io{1};
  LinkAcceptor acceptor = actors::listen_at(io, loopback(0), "a port");
  const auto address = actors::tcp_endpoint(acceptor.local_endpoint());
  if (over_unix) acceptor = actors::listen_at(io, actors::unix_beside(address), "the socket beside it");
  std::thread thread([&] {
    const Message small = small_message(Ask::take);
    Ends ends(io, [&](const Message& heard) { ends.send(heard.ask == Ask::take ? small : heard); });
    for (const Lane lane : {Lane::control, Lane::bulk}) {
      acceptor.accept(ends.socket(lane));
      if (!over_unix) ends.socket(lane).set_option(asio::ip::tcp::no_delay(true));
    }
    ends.start();
    io.run();
  });
  listening(address.port());
  thread.join();
}

class AsioCarrier final : public Carrier {
 public:
  AsioCarrier(uint16_t port, bool over_unix) {
    for (const Lane lane : {Lane::control, Lane::bulk}) {
      auto& socket = ends_.socket(lane);
      if (!over_unix) {
        socket.connect(loopback(port));
        socket.set_option(asio::ip::tcp::no_delay(true));
      } else if (!actors::connect_beside(socket, loopback(port))) {
        throw std::runtime_error("nobody listens on the Unix-domain socket");
      }
    }
    ends_.start();
  }
  void run(Exchange& exchange) override {
    exchange_ = &exchange;
    exchange.begin(*this);
    while (!exchange.has_ended())
      if (io_.run_one_for(exchange_timeout) == 0) throw std::runtime_error("no answer came");
  }
  void send(const Message& message) override { ends_.send(message); }
  void wake_after(std::chrono::microseconds pause) override {
    timer_.expires_after(pause);
    timer_.async_wait([this](const auto& error) {
      if (!error) exchange_->woken(*this);
    });
  }

 private:
  asio::io_context io_{1};
  Exchange* exchange_ = nullptr;
  asio::steady_timer timer_{io_};
  Ends ends_{io_,
             [this](const Message& heard) { exchange_->answered(*this, heard.ask, heard.bytes->size()); }};
};

template <bool over_unix>
std::unique_ptr<Carrier> connect(uint16_t port) {
  return std::make_unique<AsioCarrier>(port, over_unix);
}

}  // namespace

const Way asio_way{"asio", &serve<false>, &connect<false>};
const Way asio_unix_way{"asio_unix", &serve<true>, &connect<true>};

}  // namespace convoy::bench
