#pragma once
// Frame<T>: one Cap'n Proto message in one contiguous, immutable, shared buffer. Actors mail frames to each
// other without copying; a link writes the same bytes. Any thread may read a frame; only its builder writes
// it.

#include <capnp/message.h>
#include <capnp/serialize.h>

#include <algorithm>
#include <cassert>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "schema/convoy.capnp.h"

namespace convoy::schema {

/// Which connection of a link carries a message (design: control stays small, so that tokens never wait for
/// tensors).
enum class Lane : uint8_t { control, bulk };

/// Identifies T on the wire. Numbers are never reused.
template <class T>
struct FrameTraits;

#define CONVOY_FRAME(Type, number, lane_)       \
  template <>                                   \
  struct FrameTraits<Type> {                    \
    static constexpr uint16_t type_id = number; \
    static constexpr Lane lane = Lane::lane_;   \
    static constexpr const char* name = #Type;  \
  };
CONVOY_FRAME(Hello, 1, control)
CONVOY_FRAME(HelloRefused, 2, control)
CONVOY_FRAME(Lease, 3, control)
CONVOY_FRAME(Credit, 4, control)
CONVOY_FRAME(Watch, 5, control)
CONVOY_FRAME(Down, 6, control)
CONVOY_FRAME(Challenge, 7, control)
CONVOY_FRAME(Proof, 8, control)
CONVOY_FRAME(Revocations, 9, control)
CONVOY_FRAME(Enrol, 10, control)
CONVOY_FRAME(Enrolled, 11, control)
CONVOY_FRAME(EnrolRefused, 12, control)
CONVOY_FRAME(Renew, 13, control)
CONVOY_FRAME(Renewed, 14, control)
CONVOY_FRAME(Generate, 16, bulk)  // prompts may be longer than a control frame
CONVOY_FRAME(Accepted, 17, control)
CONVOY_FRAME(Rejected, 18, control)
CONVOY_FRAME(Tokens, 19, control)
CONVOY_FRAME(Finished, 20, control)
CONVOY_FRAME(Cancel, 21, control)
CONVOY_FRAME(Store, 22, bulk)
CONVOY_FRAME(PipelineState, 23, control)
CONVOY_FRAME(StepTokens, 24, control)
CONVOY_FRAME(StepPlan, 32, control)
CONVOY_FRAME(Activations, 33, bulk)
CONVOY_FRAME(StepResult, 34, control)
CONVOY_FRAME(Assign, 48, control)
CONVOY_FRAME(StageReport, 49, control)
CONVOY_FRAME(EdgeOffer, 55, control)
CONVOY_FRAME(EdgeReply, 56, control)
CONVOY_FRAME(ReplaceStage, 50, control)
CONVOY_FRAME(StatusQuery, 52, control)
CONVOY_FRAME(Status, 53, control)
CONVOY_FRAME(Shutdown, 54, control)
CONVOY_FRAME(KeepStages, 57, control)
CONVOY_FRAME(MemberCommand, 58, control)
CONVOY_FRAME(MemberReply, 59, control)
CONVOY_FRAME(NodeProblem, 60, control)
CONVOY_FRAME(OutlineQuery, 61, control)
CONVOY_FRAME(ModelOutline, 62, bulk)
CONVOY_FRAME(TensorQuery, 63, control)
CONVOY_FRAME(TensorPart, 65, bulk)
CONVOY_FRAME(Prepare, 66, control)
CONVOY_FRAME(GatewayTerms, 67, bulk)
CONVOY_FRAME(GatewayKeys, 68, bulk)
CONVOY_FRAME(GatewayState, 69, control)
CONVOY_FRAME(Answer, 64, control)  // never on a link: the value in Redis
#undef CONVOY_FRAME

/// Owns aligned memory of one frame. Data starts at a 64-byte boundary.
class FrameBuffer {
 public:
  explicit FrameBuffer(size_t bytes);
  ~FrameBuffer();
  FrameBuffer(const FrameBuffer&) = delete;
  FrameBuffer& operator=(const FrameBuffer&) = delete;
  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  /// Gives up what is behind so many bytes; the memory stays.
  void shorten(size_t bytes) { size_ = std::min(size_, bytes); }

 private:
  std::byte* data_;
  size_t size_;
};

// For ThreadSanitizer alone. CAF's library is not built with it, so the order that a mailbox makes between
// the thread that sends a frame and the one that gets it is invisible to it; these say it: what was done to
// the buffer before frame_sent() is seen after frame_received().
#ifdef __SANITIZE_THREAD__
extern "C" void __tsan_release(void* address);
extern "C" void __tsan_acquire(void* address);
inline void frame_sent(const FrameBuffer* buffer) { __tsan_release(const_cast<FrameBuffer*>(buffer)); }
inline void frame_received(const FrameBuffer* buffer) { __tsan_acquire(const_cast<FrameBuffer*>(buffer)); }
#else
inline void frame_sent(const FrameBuffer*) {}
inline void frame_received(const FrameBuffer*) {}
#endif

/// The bytes of a frame: what a link writes and reads. Always a whole number of 8-byte words, one segment.
using FrameBytes = std::shared_ptr<const FrameBuffer>;

/// A typed frame: a handle that actors mail to each other. Reading it is done through a Reading.
template <class T>
class Frame {
 public:
  Frame() = default;
  explicit Frame(FrameBytes bytes) : bytes_(std::move(bytes)) { frame_sent(bytes_.get()); }
  const FrameBytes& bytes() const {
    frame_received(bytes_.get());
    return bytes_;
  }
  explicit operator bool() const { return static_cast<bool>(bytes_); }

 private:
  FrameBytes bytes_;
};

/// One pass over a frame's message, on the stack of whoever reads it:
///   schema::Reading plan(frame); for (auto s : plan->getSequences()) ...
/// Bounds, pointers and the traversal limit are checked on the way, and malformed bytes throw kj::Exception;
/// what a field means is checked where it is used. The frame must outlive its reading.
template <class T>
class Reading {
 public:
  explicit Reading(const Frame<T>& frame);
  const typename T::Reader* operator->() const { return &root_; }
  const typename T::Reader& operator*() const { return root_; }

 private:
  capnp::FlatArrayMessageReader reader_;
  typename T::Reader root_;
};

/// Cap'n Proto's MallocMessageBuilder with memory from `new`, which keeps some back (MemoryReserve).
class MessageMemory final : public capnp::MessageBuilder {
 public:
  /// words: of the first segment; whatever needs more gets as much again.
  explicit MessageMemory(size_t words) : words_(words) {}
  kj::ArrayPtr<capnp::word> allocateSegment(unsigned words_min) override;

 private:
  size_t words_;
  std::vector<std::unique_ptr<uint64_t[]>> segments_;
};

/// Builds one message and freezes it into a Frame.
///   FrameBuilder<Cancel> b; b->initReplyTo().setRequest(7); auto frame = std::move(b).finish();
template <class T>
class FrameBuilder {
 public:
  explicit FrameBuilder(size_t words_hint = 64) : message_(words_hint), root_(message_.initRoot<T>()) {}
  typename T::Builder* operator->() { return &root_; }
  typename T::Builder& operator*() { return root_; }
  Frame<T> finish() &&;

 private:
  MessageMemory message_;
  typename T::Builder root_;
};

// Of DataFrameBuilder: where its data begins at the latest, behind the root and its struct; memory for a
// frame whose message begins with so much data, the part of it that is the message's, and the frame once the
// message is built.
inline constexpr size_t data_begin_bytes_max = 256;
std::shared_ptr<FrameBuffer> frame_memory(size_t words, size_t data_bytes);
kj::ArrayPtr<capnp::word> message_words(FrameBuffer& memory);
FrameBytes seal(std::shared_ptr<FrameBuffer> memory, capnp::MessageBuilder& message);

/// Builds a message that carries a large `data` field, in the memory that will be its frame: the data is
/// written once, where it will be sent from. Before finish(); the other fields as with FrameBuilder.
template <class T>
class DataFrameBuilder {
 public:
  /// words: of everything but the data, at most; a message that needs more throws kj::Exception.
  DataFrameBuilder(size_t words, size_t data_bytes)
      : memory_(frame_memory(words, data_bytes)),
        message_(message_words(*memory_)),
        root_(message_.initRoot<T>()),
        data_(root_.initData(static_cast<unsigned>(data_bytes))) {
    assert(data().data() - memory_->data() <= static_cast<ptrdiff_t>(data_begin_bytes_max));
  }
  typename T::Builder* operator->() { return &root_; }
  typename T::Builder& operator*() { return root_; }
  /// The field's bytes, which are arbitrary until they are written.
  std::span<std::byte> data() { return {reinterpret_cast<std::byte*>(data_.begin()), data_.size()}; }
  Frame<T> finish() && { return Frame<T>{seal(std::move(memory_), message_)}; }

 private:
  std::shared_ptr<FrameBuffer> memory_;
  capnp::FlatMessageBuilder message_;
  typename T::Builder root_;
  capnp::Data::Builder data_;
};

/// Why bytes cannot be a frame: a human-readable reason, or nothing. Checks the segment table only: one
/// segment whose size is exactly the rest of the buffer.
std::optional<std::string> refuse_frame(std::span<const std::byte> bytes);

/// The reader options of every frame of that many bytes: traversal limited to twice its words, nesting to 16.
capnp::ReaderOptions reader_options(size_t bytes);

/// Copies a finished builder's segments into one buffer with a single-segment table.
FrameBytes freeze(capnp::MessageBuilder& message);

template <class T>
Reading<T>::Reading(const Frame<T>& frame)
    : reader_(kj::arrayPtr(reinterpret_cast<const capnp::word*>(frame.bytes()->data()),
                           frame.bytes()->size() / sizeof(capnp::word)),
              reader_options(frame.bytes()->size())),
      root_(reader_.template getRoot<T>()) {}

template <class T>
Frame<T> FrameBuilder<T>::finish() && {
  return Frame<T>{freeze(message_)};
}

}  // namespace convoy::schema
