#include "schema/frame.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace convoy::schema {

FrameBuffer::FrameBuffer(size_t bytes) : size_(bytes) {
  const size_t rounded = (std::max<size_t>(bytes, 1) + 63) / 64 * 64;
  data_ = static_cast<std::byte*>(std::aligned_alloc(64, rounded));
  if (!data_) throw std::bad_alloc{};
}

FrameBuffer::~FrameBuffer() { std::free(data_); }

std::optional<std::string> refuse_frame(std::span<const std::byte> bytes) {
  if (bytes.size() < 16)
    return "a frame of " + std::to_string(bytes.size()) + " bytes is shorter than the smallest message";
  if (bytes.size() % sizeof(capnp::word) != 0)
    return "a frame's size must be a multiple of 8 bytes, not " + std::to_string(bytes.size());
  uint32_t table[2];  // segment count - 1, words of segment 0; little endian, as Cap'n Proto has it
  std::memcpy(table, bytes.data(), sizeof table);
  if (table[0] != 0) return "a frame must have one segment, not " + std::to_string(uint64_t{table[0]} + 1);
  const uint64_t words = bytes.size() / sizeof(capnp::word) - 1;
  if (table[1] != words)
    return "a frame's segment claims " + std::to_string(table[1]) + " words, but " + std::to_string(words) +
           " follow";
  return std::nullopt;
}

capnp::ReaderOptions reader_options(size_t bytes) {
  capnp::ReaderOptions options;
  options.traversalLimitInWords = std::max<uint64_t>(2 * (bytes / sizeof(capnp::word)), 1024);
  options.nestingLimit = 16;
  return options;
}

FrameBytes freeze(capnp::MessageBuilder& message) {
  const auto segments = message.getSegmentsForOutput();
  if (segments.size() == 1) {
    const auto words = segments[0].asBytes();
    auto buffer = std::make_shared<FrameBuffer>(8 + words.size());
    const uint32_t table[2] = {0, static_cast<uint32_t>(segments[0].size())};
    std::memcpy(buffer->data(), table, sizeof table);
    std::memcpy(buffer->data() + sizeof table, words.begin(), words.size());
    return buffer;
  }
  // A builder whose hint was too small grew into several segments: copy the message into one.
  const auto root = message.getRoot<capnp::AnyPointer>().asReader();
  capnp::MallocMessageBuilder whole(static_cast<unsigned>(root.targetSize().wordCount + 1));
  whole.setRoot(root);
  return freeze(whole);
}

}  // namespace convoy::schema
