#pragma once
// A peer without manners: blocking sockets that say what a test wants, whole frames or any bytes.

#include <poll.h>
#include <boost/test/unit_test.hpp>

#include "actors/link/link_address.hpp"
#include "actors/link/link_proof.hpp"
#include "link_rig.hpp"

namespace rig {

using convoy::schema::FrameTraits;
using convoy::schema::Lane;

inline asio::ip::tcp::endpoint loopback(uint16_t port) {
  return loopback_endpoint("127.0.0.1", port).value();
}

class RawConnection {
 public:
  explicit RawConnection(const LinkEndpoint& to) { socket_.connect(to); }
  explicit RawConnection(uint16_t port) : RawConnection(LinkEndpoint(loopback(port))) {
    socket_.set_option(asio::ip::tcp::no_delay(true));
    proof_.emplace(link_key(secret), LinkProof::End::connector, text_of(loopback(port)));
  }
  explicit RawConnection(LinkSocket accepted) : socket_(std::move(accepted)) {}
  /// Shows that it knows the secret, unless another key is given, and says that. Returns what is answered;
  /// type 0 if the other side closes, or cannot show the same.
  std::pair<uint16_t, convoy::schema::FrameBytes> say_hello(const Frame<msg::Hello>& hello,
                                                            std::optional<std::string> key = {}) {
    if (key) proof_.emplace(*key, LinkProof::End::connector, text_of(loopback(0)));
    send(proof_->challenge());
    const auto [type, challenge] = receive();
    if (type != FrameTraits<msg::Challenge>::type_id) return {};
    if (proof_->refuse_challenge(Frame<msg::Challenge>(challenge)) && !key) return {};
    send(hello);
    send(proof_->prove(FrameTraits<msg::Hello>::type_id, hello.bytes()));
    const auto answer = receive();
    const auto proof = receive();
    if (proof.first != FrameTraits<msg::Proof>::type_id ||
        proof_->refuse(answer.first, answer.second, Frame<msg::Proof>(proof.second)))
      return {};
    return answer;
  }
  std::pair<uint16_t, convoy::schema::FrameBytes> say_hello(const wire::Greeting& hello) {
    return say_hello(wire::encode(hello));
  }
  /// The accepting side's part: hears a Hello at that port, and says so much later that it agrees.
  bool answer_hello(uint16_t port, std::chrono::milliseconds after) {
    LinkProof proof(link_key(secret), LinkProof::End::acceptor, text_of(loopback(port)));
    const auto [type, challenge] = receive();
    if (type != FrameTraits<msg::Challenge>::type_id ||
        proof.refuse_challenge(Frame<msg::Challenge>(challenge)))
      return false;
    send(proof.challenge());
    const auto hello = receive();
    const auto shown = receive();
    if (hello.first != FrameTraits<msg::Hello>::type_id || shown.first != FrameTraits<msg::Proof>::type_id ||
        proof.refuse(hello.first, hello.second, Frame<msg::Proof>(shown.second)))
      return false;
    std::this_thread::sleep_for(after);
    wire::Greeting ours = wire::read_greeting(Frame<msg::Hello>(hello.second));
    ours.peer = {.node = "raw", .role = Role::NODE, .instance = 9, .incarnation = 99};
    const auto answer = wire::encode(ours);
    return send(answer) && send(proof.prove(FrameTraits<msg::Hello>::type_id, answer.bytes()));
  }
  /// All bytes that came.
  const std::string& heard() const { return heard_; }
  /// False if the other side has closed the connection.
  bool send(const void* bytes, size_t count) {
    boost::system::error_code error;
    asio::write(socket_, asio::buffer(bytes, count), error);
    return !error;
  }
  bool send(uint16_t type, const convoy::schema::FrameBytes& bytes, Role role = Role::NONE,
            uint32_t instance = 0) {
    const auto head = wire::encode(wire::Header{type, role, instance, bytes->size()});
    return send(head.data(), head.size()) && send(bytes->data(), bytes->size());
  }
  template <class T>
  bool send(const Frame<T>& frame, Role role = Role::NONE, uint32_t instance = 0) {
    return send(FrameTraits<T>::type_id, frame.bytes(), role, instance);
  }
  /// The next frame; type 0 if the connection ends, or nothing comes in time.
  std::pair<uint16_t, convoy::schema::FrameBytes> receive(int timeout_ms = patience_ms) {
    wire::HeaderBytes head;
    wire::Header header;
    if (!receive(head.data(), head.size(), timeout_ms) || wire::refuse_header(head, 64 << 20, header))
      return {};
    auto buffer = std::make_shared<convoy::schema::FrameBuffer>(header.payload_bytes);
    if (!receive(buffer->data(), buffer->size(), timeout_ms)) return {};
    return {header.type, buffer};
  }
  /// Reads until the other side closes; false if it does not.
  bool closed(int timeout_ms = patience_ms) {
    for (std::byte byte; receive(&byte, 1, timeout_ms);) {
    }
    return ended_;
  }
  void close() { socket_.close(); }

 private:
  bool receive(std::byte* bytes, size_t count, int timeout_ms) {
    for (size_t got = 0; got < count;) {
      pollfd readable{socket_.native_handle(), POLLIN, 0};
      if (poll(&readable, 1, timeout_ms) <= 0) return false;
      boost::system::error_code error;
      got += socket_.read_some(asio::buffer(bytes + got, count - got), error);
      if (error) {
        ended_ = true;
        return false;
      }
    }
    heard_.append(reinterpret_cast<const char*>(bytes), count);
    return true;
  }

  asio::io_context io_;
  LinkSocket socket_{io_};
  std::optional<LinkProof> proof_;
  std::string heard_;
  bool ended_ = false;
};

inline wire::Greeting raw_greeting(bool bulk, uint64_t incarnation = 99) {
  return {.cluster = "test",
          .peer = {.node = "raw", .role = Role::NODE, .instance = 9, .incarnation = incarnation},
          .terms = {1 << 20, 64 << 20, 128 << 20, 60'000},
          .bulk = bulk,
          .link_id = 4711};
}

/// A link with both handshakes done. It sends no leases.
struct RawPeer {
  explicit RawPeer(uint16_t port, uint64_t incarnation = 99, Role role = Role::NODE)
      : control(port), bulk(port) {
    for (auto* connection : {&control, &bulk}) {
      auto hello = raw_greeting(connection == &bulk, incarnation);
      hello.peer.role = role;
      BOOST_REQUIRE_EQUAL(connection->say_hello(hello).first, FrameTraits<msg::Hello>::type_id);
    }
  }
  RawConnection control, bulk;
};

}  // namespace rig
