#pragma once
// What the targets of frames share: bytes as a link takes them from a connection.

#include <algorithm>

#include "schema/frame_walk.hpp"
#include "test/fuzz/target.hpp"

namespace convoy::fuzz {

/// Null if a link refuses them. What is behind the last whole word is left out.
inline schema::FrameBytes frame_of(std::span<const uint8_t> data) {
  constexpr size_t word = sizeof(capnp::word);
  auto bytes = std::make_shared<schema::FrameBuffer>(data.size() / word * word);
  std::copy_n(reinterpret_cast<const std::byte*>(data.data()), bytes->size(), bytes->data());
  if (schema::refuse_frame({bytes->data(), bytes->size()})) return nullptr;
  return bytes;
}

/// The same, of a frame that is handed to an actor as this message.
template <class Message>
schema::FrameBytes frame_of_message(const uint8_t* data, size_t size) {
  const auto bytes = frame_of({data, size});
  return bytes && !schema::refuse_message<Message>(bytes) ? bytes : nullptr;
}

}  // namespace convoy::fuzz
