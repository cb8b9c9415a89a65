#include "actors/link/link_port.hpp"

#include <cassert>

#include "actors/link/remote_handle.hpp"

namespace convoy::actors {

namespace {

// One gathered write: enough to make system calls cheap, small enough that a link's end wastes little.
constexpr size_t batch_frames_max = 32;
constexpr uint64_t batch_bytes_max = 4ull << 20;

Outgoing credit_frame(uint64_t bytes) {
  schema::FrameBuilder<schema::Credit> credit(8);
  credit->setBytes(bytes);
  return {.type = schema::FrameTraits<schema::Credit>::type_id, .bytes = std::move(credit).finish().bytes()};
}

Outgoing watch_frame(schema::Role role, uint32_t instance) {
  schema::FrameBuilder<schema::Watch> watch(8);
  watch->setOn(true);
  return {.type = schema::FrameTraits<schema::Watch>::type_id,
          .role = role,
          .instance = instance,
          .bytes = std::move(watch).finish().bytes()};
}

}  // namespace

LinkPort::LinkPort(caf::actor_system& system, PeerIdentity peer, const LinkLimits& limits, Requests requests)
    : system_(system), peer_(std::move(peer)), limits_(limits), requests_(std::move(requests)) {}

caf::actor LinkPort::handle(schema::Role role, uint32_t instance) {
  std::unique_lock lock(mutex_);
  if (!open_) {
    const auto reason = why_closed_;
    lock.unlock();
    auto dead = make_remote_handle(system_, nullptr, role, instance);
    take_down(dead, caf::exit_reason::remote_link_unreachable, reason);
    return dead;
  }
  Held& held = hold_locked(role, instance);
  if (!std::exchange(held.watched, true)) put_locked(schema::Lane::control, watch_frame(role, instance));
  return held.handle;
}

caf::strong_actor_ptr LinkPort::sender() {
  const std::lock_guard lock(mutex_);
  return caf::actor_cast<caf::strong_actor_ptr>(hold_locked(peer_.role, peer_.instance).handle);
}

LinkPort::Held& LinkPort::hold_locked(schema::Role role, uint32_t instance) {
  Held& held = handles_[{role, instance}];
  if (!held.handle) held.handle = make_remote_handle(system_, shared_from_this(), role, instance);
  return held;
}

void LinkPort::put(schema::Lane lane, Outgoing frame) {
  const std::lock_guard lock(mutex_);
  put_locked(lane, std::move(frame));
}

void LinkPort::put_locked(schema::Lane lane, Outgoing frame) {
  if (!open_) return;
  const uint64_t bytes = frame.bytes->size();
  const uint64_t bytes_max =
      lane == schema::Lane::control ? limits_.control_frame_bytes_max : limits_.bulk_frame_bytes_max;
  std::string reason;
  if (bytes > bytes_max)
    reason = "a frame of type " + std::to_string(frame.type) + " and " + std::to_string(bytes) +
             " bytes to send, the limit is " + std::to_string(bytes_max);
  else if (waiting_bytes_ + bytes > limits_.queue_bytes_max)
    reason = "more than queue_bytes_max = " + std::to_string(limits_.queue_bytes_max) +
             " bytes wait to be written";
  if (!reason.empty()) {
    open_ = false;  // nothing overtakes the frame that could not go
    why_closed_ = reason;
    return requests_.end(reason);
  }
  if (send_directly(lane, frame)) return;
  waiting_bytes_ += bytes;
  queue(lane).frames.push_back(std::move(frame));
  wake_locked(lane);
}

/// True if the whole frame went out. What was cut short goes on in the queue, before anything else.
bool LinkPort::send_directly(schema::Lane lane, Outgoing& frame) {
  const Queue& waiting = queue(lane);
  const uint64_t bytes = frame.bytes->size();
  if (!requests_.send_now || !waiting.writer_waits || !waiting.frames.empty() || bytes > direct_bytes_max)
    return false;
  if (lane == schema::Lane::bulk && !window_takes(bytes)) return false;
  frame.sent = requests_.send_now(lane, frame);
  if (frame.sent < wire::header_bytes + bytes) return false;
  if (lane == schema::Lane::bulk) outstanding_bytes_ += bytes;
  return true;
}

/// Credits come in eighths of the window, so a frame larger than what is left goes when only such a rest is
/// outstanding.
bool LinkPort::window_takes(uint64_t bytes) const {
  return outstanding_bytes_ <= limits_.bulk_window_bytes / credit_parts ||
         outstanding_bytes_ + bytes <= limits_.bulk_window_bytes;
}

void LinkPort::wake_locked(schema::Lane lane) {
  if (!queue(lane).writer_waits) return;
  queue(lane).writer_waits = false;
  requests_.write(lane);
}

void LinkPort::release(uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  if (!open_) return;
  released_bytes_ += bytes;
  // A credit for each small frame would wake two threads for every token.
  if (released_bytes_ > limits_.bulk_window_bytes / credit_parts) wake_locked(schema::Lane::control);
}

void LinkPort::end(const std::string& reason) {
  const std::lock_guard lock(mutex_);
  if (!open_) return;
  open_ = false;
  why_closed_ = reason;
  requests_.end(reason);
}

std::vector<Outgoing> LinkPort::take(schema::Lane lane) {
  std::vector<Outgoing> batch;
  const std::lock_guard lock(mutex_);
  if (!open_) return batch;
  auto& frames = queue(lane).frames;
  for (uint64_t taken = 0; !frames.empty() && batch.size() < batch_frames_max && taken < batch_bytes_max;) {
    const uint64_t bytes = frames.front().bytes->size();
    if (lane == schema::Lane::bulk) {
      if (!window_takes(bytes)) break;
      outstanding_bytes_ += bytes;
    }
    taken += bytes;
    waiting_bytes_ -= bytes;
    batch.push_back(std::move(frames.front()));
    frames.pop_front();
  }
  // Behind the others: the first may be a frame of which a part went out already.
  if (lane == schema::Lane::control && released_bytes_ > 0)
    batch.push_back(credit_frame(std::exchange(released_bytes_, 0)));
  queue(lane).writer_waits = batch.empty();
  return batch;
}

bool LinkPort::credited(uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  if (bytes > outstanding_bytes_) return false;
  outstanding_bytes_ -= bytes;
  if (open_ && !bulk_.frames.empty()) wake_locked(schema::Lane::bulk);
  return true;
}

void LinkPort::actor_down(schema::Role role, uint32_t instance, const std::string& reason) {
  caf::actor gone;
  {
    const std::lock_guard lock(mutex_);
    const auto found = handles_.find({role, instance});
    if (found == handles_.end()) return;
    gone = std::move(found->second.handle);
    handles_.erase(found);
  }
  take_down(gone, caf::exit_reason::unknown, reason);
}

void LinkPort::close(const std::string& reason) {
  std::map<Address, Held> handles;
  std::deque<Outgoing> control,
      bulk;  // destroyed without the lock: a forwarded frame may release() into this port
  {
    const std::lock_guard lock(mutex_);
    open_ = false;
    why_closed_ = reason;
    handles.swap(handles_);
    control.swap(control_.frames);
    bulk.swap(bulk_.frames);
    waiting_bytes_ = 0;
  }
  for (const auto& [address, held] : handles)
    take_down(held.handle, caf::exit_reason::remote_link_unreachable, reason);
}

bool LinkPort::nothing_waits() const {
  const std::lock_guard lock(mutex_);
  return !open_ ||
         (control_.frames.empty() && control_.writer_waits && bulk_.frames.empty() && bulk_.writer_waits);
}

}  // namespace convoy::actors
