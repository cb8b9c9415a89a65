// What a stranger may send before a link is up: frames, each to the end that hears them. Of the first byte,
// bit 0 says which end; bit 1 that what is said is proved rightly, as by a peer with the secret, so that its
// Hello is read.

#include <kj/exception.h>

#include <cstring>
#include <optional>

#include "actors/link/link_proof.hpp"
#include "actors/link/link_wire.hpp"
#include "test/fuzz/target.hpp"

using namespace convoy;
using namespace convoy::fuzz;
using actors::LinkProof;
namespace wire = actors::wire;

namespace {

struct Message {
  uint16_t type = 0;
  schema::FrameBytes bytes;
};

/// The next frame, as read_frame() takes it from a connection. Nothing if it is refused.
std::optional<Message> next(std::span<const uint8_t>& from) {
  wire::HeaderBytes head;
  wire::Header header;
  if (from.size() < head.size()) return std::nullopt;
  std::memcpy(head.data(), from.data(), head.size());
  from = from.subspan(head.size());
  if (wire::refuse_header(head, wire::hello_bytes_max, header)) return std::nullopt;
  demand(header.payload_bytes <= wire::hello_bytes_max, "no memory is taken beyond the limit");
  if (from.size() < header.payload_bytes) return std::nullopt;
  auto buffer = std::make_shared<schema::FrameBuffer>(header.payload_bytes);
  std::memcpy(buffer->data(), from.data(), buffer->size());
  from = from.subspan(buffer->size());
  if (schema::refuse_frame({buffer->data(), buffer->size()})) return std::nullopt;
  return Message{header.type, buffer};
}

wire::Greeting ours() {
  return {.cluster = "fuzzed", .peer = {.node = "n"}, .terms = {4096, 4096, 4096, 800}};
}

void read_hello(const Message& hello) {
  const auto theirs = wire::read_greeting(schema::Frame<schema::Hello>(hello.bytes));
  if (wire::refuse_greeting(theirs, ours())) return;
  demand(theirs.cluster == "fuzzed" && !theirs.peer.node.empty(), "who is accepted is of our cluster");
  demand(wire::common_version(wire::our_versions, theirs.versions).has_value(), "both speak a version");
  const auto again = wire::read_greeting(wire::encode(theirs));
  demand(again.peer.node == theirs.peer.node && again.link_id == theirs.link_id, "a Hello reads back");
}

/// A conversation in which the bytes are the other end's part.
void hear(std::span<const uint8_t> said, bool as_acceptor, bool proved) {
  const std::string key(32, 'k'), address = "127.0.0.1:7411";
  using End = LinkProof::End;
  LinkProof us(key, as_acceptor ? End::acceptor : End::connector, address);
  if (!as_acceptor) us.challenge();
  const auto challenge = next(said);
  if (!challenge) return;
  const bool refused = us.refuse_challenge(schema::Frame<schema::Challenge>(challenge->bytes)).has_value();
  demand(as_acceptor || refused, "nobody guesses a mac");
  if (refused) return;
  us.challenge();
  const auto hello = next(said);
  if (!hello) return;
  if (proved) return read_hello(*hello);
  if (const auto proof = next(said))
    demand(us.refuse(hello->type, hello->bytes, schema::Frame<schema::Proof>(proof->bytes)).has_value(),
           "nobody guesses a mac");
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  try {
    hear({data + 1, size - 1}, (data[0] & 1) != 0, (data[0] & 2) != 0);
  } catch (const kj::Exception&) {
    // Malformed messages: a link refuses them.
  }
  return 0;
}
