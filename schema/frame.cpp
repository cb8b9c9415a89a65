#include "schema/frame.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <new>

namespace convoy::schema {

namespace {

constexpr std::align_val_t frame_alignment{64};

constexpr size_t table_bytes = 8;

void write_table(FrameBuffer& frame, size_t words) {
  const uint32_t table[2] = {0, static_cast<uint32_t>(words)};
  static_assert(sizeof table == table_bytes);
  std::memcpy(frame.data(), table, sizeof table);
}

}  // namespace

FrameBuffer::FrameBuffer(size_t bytes)
    : data_(static_cast<std::byte*>(operator new(std::max<size_t>(bytes, 1), frame_alignment))),
      size_(bytes) {}

FrameBuffer::~FrameBuffer() { operator delete(data_, frame_alignment); }

kj::ArrayPtr<capnp::word> MessageMemory::allocateSegment(unsigned words_min) {
  const size_t words = std::max<size_t>(words_min, words_);
  words_ += words;
  static_assert(sizeof(capnp::word) == sizeof(uint64_t));
  segments_.push_back(std::make_unique<uint64_t[]>(words));  // a message begins as zeros
  return {reinterpret_cast<capnp::word*>(segments_.back().get()), words};
}

std::shared_ptr<FrameBuffer> frame_memory(size_t words, size_t data_bytes) {
  const size_t data_words = (data_bytes + sizeof(capnp::word) - 1) / sizeof(capnp::word);
  const size_t all = words + data_words;
  auto memory = std::make_shared<FrameBuffer>(table_bytes + all * sizeof(capnp::word));
  // A message begins as zeros, but for its data: that lies between these two, wherever it begins.
  const size_t front = std::min(data_begin_bytes_max / sizeof(capnp::word), all),
               back = std::max(front, data_words);
  std::byte* const first = memory->data() + table_bytes;
  std::memset(first, 0, front * sizeof(capnp::word));
  std::memset(first + back * sizeof(capnp::word), 0, (all - back) * sizeof(capnp::word));
  return memory;
}

kj::ArrayPtr<capnp::word> message_words(FrameBuffer& memory) {
  return {reinterpret_cast<capnp::word*>(memory.data() + table_bytes),
          (memory.size() - table_bytes) / sizeof(capnp::word)};
}

FrameBytes seal(std::shared_ptr<FrameBuffer> memory, capnp::MessageBuilder& message) {
  const auto segments = message.getSegmentsForOutput();
  assert(segments.size() == 1 && segments[0].begin() == message_words(*memory).begin());
  write_table(*memory, segments[0].size());
  memory->shorten(table_bytes + segments[0].size() * sizeof(capnp::word));
  return memory;
}

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
    auto buffer = std::make_shared<FrameBuffer>(table_bytes + words.size());
    write_table(*buffer, segments[0].size());
    std::memcpy(buffer->data() + table_bytes, words.begin(), words.size());
    return buffer;
  }
  // A builder whose hint was too small grew into several segments: copy the message into one.
  const auto root = message.getRoot<capnp::AnyPointer>().asReader();
  MessageMemory whole(root.targetSize().wordCount + 1);
  whole.setRoot(root);
  return freeze(whole);
}

}  // namespace convoy::schema
