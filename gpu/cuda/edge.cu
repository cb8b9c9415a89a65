#include "gpu/cuda/edge.hpp"

#include <dlfcn.h>

#include <chrono>
#include <thread>

namespace convoy::cuda {

namespace nccl {
namespace {

template <class Function>
bool resolve(void* library, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(dlsym(library, name));
  return function != nullptr;
}

const Library* open() {
  static Library l;
  void* const handle = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  const bool whole =
      handle && resolve(handle, "ncclGetUniqueId", l.get_unique_id) &&
      resolve(handle, "ncclCommInitRankConfig", l.init_rank) && resolve(handle, "ncclCommAbort", l.abort) &&
      resolve(handle, "ncclCommGetAsyncError", l.async_error) && resolve(handle, "ncclSend", l.send) &&
      resolve(handle, "ncclRecv", l.receive) && resolve(handle, "ncclGetErrorString", l.error_text);
  return whole ? &l : nullptr;
}

}  // namespace

const Library* find() {
  static const Library* const found = open();
  return found;
}

}  // namespace nccl

namespace {

/// Of one call of NCCL's, which launches a kernel and waits for nobody.
constexpr auto call_max = std::chrono::seconds(2);
/// It takes some 30 us: in a thread of NCCL's, as its communicators that do not block have it.
constexpr auto looking = std::chrono::microseconds(200), pause = std::chrono::microseconds(20);

const nccl::Library& library() {
  if (const nccl::Library* found = nccl::find()) return *found;
  throw refusal("there is no libnccl.so.2", "an edge between two GPUs", "set stage.edges = \"frames\"");
}

/// Ranks in the communicator.
constexpr int sender = 0, receiver = 1;

}  // namespace

Edge::Edge(EdgeEnd end, size_t slot_bytes) : library_(library()), end_(end) {
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  for (Slot& slot : slots_) {
    slot.memory = DeviceMemory(slot_bytes, "an edge");
    check(cudaEventCreateWithFlags(&slot.ready, cudaEventDisableTiming), "cudaEventCreate");
    check(cudaEventCreateWithFlags(&slot.over, cudaEventDisableTiming), "cudaEventCreate");
  }
}

Edge::Edge(size_t bytes_max) : Edge(EdgeEnd::to_next, bytes_max) {
  if (const nccl::Result drawn = library_.get_unique_id(&id_); drawn != nccl::success)
    fail(drawn);
  else
    look_for_other(sender);
}

Edge::Edge(const EdgeKey& key) : Edge(EdgeEnd::from_before, 1) {
  id_ = std::bit_cast<nccl::UniqueId>(key);
  look_for_other(receiver);
}

void Edge::look_for_other(int own_rank) {
  nccl::Config config;
  const nccl::Result result = library_.init_rank(&communicator_, 2, id_, own_rank, &config);
  if (result != nccl::success && result != nccl::in_progress) fail(result);
}

Edge::~Edge() {
  if (communicator_) library_.abort(communicator_);
  // Its kernels end by that.
  if (stream_) cudaStreamSynchronize(stream_), cudaStreamDestroy(stream_);
  for (const Slot& slot : slots_)
    for (cudaEvent_t event : {slot.ready, slot.over})
      if (event) cudaEventDestroy(event);
}

/// What the communicator says of the call under way.
nccl::Result Edge::progress() {
  nccl::Result of_call = nccl::success;
  const nccl::Result asked = library_.async_error(communicator_, &of_call);
  return asked == nccl::success ? of_call : asked;
}

void Edge::fail(nccl::Result result) {
  stage_ = Stage::failed;
  reason_ = std::string("NCCL: ") + library_.error_text(result);
}

void Edge::greet() {
  void* const byte = slots_[0].memory.as<void>();  // nobody looks at it
  const nccl::Result result =
      end_ == EdgeEnd::to_next
          ? library_.send(byte, 1, nccl::type_of_bytes, receiver, communicator_, stream_)
          : library_.receive(byte, 1, nccl::type_of_bytes, sender, communicator_, stream_);
  stage_ = Stage::greeting;
  if (result != nccl::success && result != nccl::in_progress) fail(result);
}

EdgeState Edge::state() {
  if (stage_ == Stage::looking || stage_ == Stage::greeting) {
    const nccl::Result result = progress();
    if (result == nccl::in_progress) return EdgeState::forming;
    if (result != nccl::success)
      fail(result);
    else if (stage_ == Stage::looking)
      greet();
    else if (const cudaError_t sent = cudaStreamQuery(stream_); sent == cudaSuccess)
      stage_ = Stage::up;
    else if (sent != cudaErrorNotReady)
      check(sent, "greeting the other end of an edge");
  }
  return stage_ == Stage::up       ? EdgeState::up
         : stage_ == Stage::failed ? EdgeState::failed
                                   : EdgeState::forming;
}

void Edge::finish(nccl::Result result, const char* what) {
  const auto begin = std::chrono::steady_clock::now();
  while (result == nccl::in_progress) {
    result = progress();
    const auto waited = std::chrono::steady_clock::now() - begin;
    if (result != nccl::in_progress) break;
    if (waited > call_max)
      throw Failure(Code::fault, std::string(what) + " was not launched within 2 s", "NCCL",
                    "see what it says with NCCL_DEBUG=WARN, or set stage.edges = \"frames\"");
    if (waited > looking) std::this_thread::sleep_for(pause);
  }
  if (result != nccl::success)
    throw Failure(Code::fault, std::string(what) + ": " + library_.error_text(result), "NCCL",
                  "see what it says with NCCL_DEBUG=WARN, or set stage.edges = \"frames\"");
}

void* Edge::room(cudaStream_t compute) {
  const Slot& slot = slots_[steps_ % slots_.size()];
  if (steps_ >= slots_.size()) check(cudaStreamWaitEvent(compute, slot.over, 0), "cudaStreamWaitEvent");
  return slot.memory.as<void>();
}

void Edge::send(size_t bytes, cudaStream_t compute) {
  const Slot& slot = slots_[steps_++ % slots_.size()];
  check(cudaEventRecord(slot.ready, compute), "cudaEventRecord");
  check(cudaStreamWaitEvent(stream_, slot.ready, 0), "cudaStreamWaitEvent");
  finish(library_.send(slot.memory.as<void>(), bytes, nccl::type_of_bytes, receiver, communicator_, stream_),
         "sending hidden states");
  check(cudaEventRecord(slot.over, stream_), "cudaEventRecord");
}

void Edge::receive(void* to, size_t bytes, cudaStream_t compute) {
  const Slot& slot = slots_[steps_++ % slots_.size()];
  check(cudaEventRecord(slot.ready, compute), "cudaEventRecord");
  check(cudaStreamWaitEvent(stream_, slot.ready, 0), "cudaStreamWaitEvent");
  finish(library_.receive(to, bytes, nccl::type_of_bytes, sender, communicator_, stream_),
         "receiving hidden states");
  check(cudaEventRecord(slot.over, stream_), "cudaEventRecord");
  check(cudaStreamWaitEvent(compute, slot.over, 0), "cudaStreamWaitEvent");
}

}  // namespace convoy::cuda
