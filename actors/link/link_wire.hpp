#pragma once
// What a link's bytes mean: the fixed header in front of every frame, and the checks of headers and Hellos.
// Pure functions without sockets or actors; called by a link's I/O thread and by tests.

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "actors/link/peer_identity.hpp"
#include "schema/frame.hpp"

namespace convoy::actors::wire {

inline constexpr uint32_t magic = 0x59564e43;  // "CNVY" in memory
inline constexpr uint16_t header_version = 1;  // of the 32 bytes below
inline constexpr size_t header_bytes = 32;
inline constexpr uint64_t hello_bytes_max = 4096;   // before the handshake nothing larger is read
inline constexpr size_t text_bytes_max = 256;       // of each text in a Hello
inline constexpr uint16_t link_type_max = 15;       // types up to here belong to the link itself
inline constexpr uint16_t message_type_max = 1023;  // and up to here to actors; above is garbage

/// The frame's address and size. On the wire, little endian:
///   u32 magic, u16 header version, u16 type, u16 role, u16 zero, u32 instance, u64 payload bytes, u64 zero
struct Header {
  uint16_t type = 0;                       // FrameTraits<T>::type_id
  schema::Role role = schema::Role::NONE;  // whom it is for; none: the link itself
  uint32_t instance = 0;
  uint64_t payload_bytes = 0;
};
using HeaderBytes = std::array<std::byte, header_bytes>;

HeaderBytes encode(const Header& header);

/// Why these bytes cannot be a header whose payload may be read, or nothing; then `header` is filled in. The
/// size is checked here, before anyone takes memory for it.
std::optional<std::string> refuse_header(const HeaderBytes& bytes, uint64_t payload_bytes_max,
                                         Header& header);

/// Versions of the messages' meaning, both inclusive. Two processes use the highest that both speak.
struct Versions {
  uint16_t lowest = 0, newest = 0;
};
inline constexpr Versions our_versions{5, 5};
std::optional<uint16_t> common_version(Versions ours, Versions theirs);

/// What both ends of a link must know of each other: of each the smaller one counts on both.
struct Terms {
  uint64_t control_frame_bytes_max = 0, bulk_frame_bytes_max = 0, bulk_window_bytes = 0;
  uint32_t lease_ms = 0;
};

/// What a Hello says.
struct Greeting {
  Versions versions = our_versions;
  std::string cluster;
  PeerIdentity peer;  // the sender
  Terms terms;
  bool bulk = false;
  uint64_t link_id = 0;
};

schema::Frame<schema::Hello> encode(const Greeting& greeting);

/// Reads a Hello. Throws kj::Exception if the bytes are malformed.
Greeting read_greeting(const schema::Frame<schema::Hello>& frame);

/// Why we don't link with whoever sent this, naming both sides' values; or nothing.
struct GreetingRefused {
  std::string reason;
  bool retry = false;  // it may be accepted later
};
std::optional<GreetingRefused> refuse_greeting(const Greeting& theirs, const Greeting& ours);

}  // namespace convoy::actors::wire
