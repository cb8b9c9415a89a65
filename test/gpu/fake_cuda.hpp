#pragma once
// FakeCuda: what libconvoy_cuda.so exports, without a GPU. It computes nothing: it keeps what it is given,
// gives out what the test laid down, and fails where the test says. One at a time, as there is one library.

#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gpu/cuda_device.hpp"

/// What a device has of the card; of the fake's it only has to be something.
struct convoy::cuda::Handle {};

namespace convoy::gpu::test {

inline cuda::Status status_of(cuda::Code code, const char* what, const char* where, const char* mend) {
  cuda::Status status{.code = code};
  std::strncpy(status.what, what, sizeof status.what - 1);
  std::strncpy(status.where, where, sizeof status.where - 1);
  std::strncpy(status.mend, mend, sizeof status.mend - 1);
  return status;
}

/// What CUDA says of a card that is gone, as the library reports it.
inline const cuda::Status lost_status =
    status_of(cuda::Code::fault, "a step: unspecified launch failure (cudaErrorLaunchFailure)", "CUDA",
              "look for an Xid in the kernel's log (dmesg)");

class FakeCuda {
 public:
  FakeCuda() { now_ = this; }
  ~FakeCuda() { now_ = nullptr; }
  FakeCuda(const FakeCuda&) = delete;
  FakeCuda& operator=(const FakeCuda&) = delete;

  /// From now on that function of the table fails so.
  void fail(const std::string& function, const cuda::Status& status) {
    const std::lock_guard lock(mutex_);
    failures_[function] = status;
  }
  /// From now on an edge is so far.
  void set_edge(EdgeEnd end, const EdgeStatus& status) {
    const std::lock_guard lock(mutex_);
    edge[static_cast<size_t>(end)] = status;
  }
  size_t calls(const std::string& function) {
    const std::lock_guard lock(mutex_);
    return calls_[function];
  }
  DeviceFactory device(const cuda::OpenOptions& options = {}) const {
    return cuda_device(library(), options);
  }
  static std::shared_ptr<const CudaLibrary> library() { return std::make_shared<const CudaLibrary>(table); }

  // What the device was given last, and what it gives of each step.
  cuda::OpenOptions opened;
  DeviceLimits limits;
  std::vector<std::pair<int64_t, size_t>> loads;  // layer, parts
  std::vector<int32_t> end_tokens, history;
  cuda::Start start{};
  cuda::Step step{};
  uint64_t released = 0, page_locked = 0;
  // Blocks: one that is saved is full of its number.
  static constexpr size_t kv_block_bytes = 2;
  std::pair<uint32_t, std::string> loaded;  // last
  std::vector<cuda::Sampled> sampled;
  std::vector<float> logits;
  bool completes = true;  // steps, when they are asked for
  // The machine's cards, and those of them that cannot be used.
  int32_t cards = 1;
  std::set<int32_t> unusable;
  // Edges: whether there are any, how far they are, and what was done with them.
  bool edges = false;
  EdgeStatus edge[edge_ends];
  EdgeKey offered{}, joined{};
  size_t ended[edge_ends] = {};

 private:
  void say(const char* function, cuda::Status* status) {
    const std::lock_guard lock(mutex_);
    calls_[function]++;
    const auto failure = failures_.find(function);
    *status = failure == failures_.end() ? cuda::Status{} : failure->second;
  }

  static void count_cards(int32_t* count, cuda::Status* status) {
    *count = now_->cards;
    now_->say("cards", status);
  }
  static void check(int32_t card, cuda::Status* status) {
    now_->say("check", status);
    if (now_->unusable.contains(card))
      *status = status_of(cuda::Code::refused, "another compute capability", "CUDA", "build it for that");
  }
  static void open(const cuda::OpenOptions* options, const StageShape*, cuda::Handle** handle,
                   cuda::Status* status) {
    now_->opened = *options;
    now_->say("open", status);
    if (status->code == cuda::Code::ok) *handle = &now_->handle_;
  }
  static void facts(const cuda::Handle*, cuda::Facts* facts) {
    *facts = {
        .variant = "fake-cuda", .card = "0000:01:00.0", .depth = 2, .feeds_back = true, .edges = now_->edges};
  }
  static void needs(const cuda::Handle*, const DeviceLimits*, cuda::Needs* needs) {
    *needs = {.weight_bytes = 1, .kv_block_bytes = kv_block_bytes, .buffer_bytes = 3, .scratch_bytes = 4};
  }
  static void memory(const cuda::Handle*, uint64_t* bytes, cuda::Status* status) {
    *bytes = uint64_t{1} << 34;
    now_->say("memory", status);
  }
  static void load(cuda::Handle*, int64_t layer, const WeightRef*, uint64_t count, cuda::Status* status) {
    now_->loads.emplace_back(layer, count);
    now_->say("load", status);
  }
  static void prepare(cuda::Handle*, const DeviceLimits* limits, const Rotations*, cuda::Status* status) {
    now_->limits = *limits;
    now_->say("prepare", status);
  }
  static void submit(cuda::Handle*, const cuda::Step* step, cuda::Status* status) {
    now_->step = *step;
    if (step->start_count > 0) {
      now_->start = step->starts[0];
      const cuda::Sampling& s = step->starts[0].sampling;
      now_->end_tokens.assign(s.end_tokens, s.end_tokens + s.end_token_count);
      now_->history.assign(step->starts[0].history, step->starts[0].history + step->starts[0].history_count);
    }
    now_->say("submit", status);
    if (status->code == cuda::Code::ok) now_->in_flight_.push_back(step->number);
  }
  static int32_t next_done(cuda::Handle*, int64_t, cuda::Done* done, cuda::Status* status) {
    now_->say("next_done", status);
    if (status->code != cuda::Code::ok || !now_->completes || now_->in_flight_.empty()) return 0;
    *done = {.number = now_->in_flight_.front(),
             .sampled = now_->sampled.data(),
             .sampled_count = now_->sampled.size(),
             .logits = now_->logits.empty() ? nullptr : now_->logits.data()};
    now_->in_flight_.erase(now_->in_flight_.begin());
    return 1;
  }
  static void release(cuda::Handle*, uint64_t number, cuda::Status* status) {
    now_->released = number;
    now_->say("release", status);
  }
  static void reset(cuda::Handle*, cuda::Status* status) {
    now_->say("reset", status);
    now_->in_flight_.clear();
    for (const EdgeEnd end : {EdgeEnd::from_before, EdgeEnd::to_next}) now_->set_edge(end, {});
  }
  static void save_block(cuda::Handle*, uint32_t block, void* to, cuda::Status* status) {
    now_->say("save_block", status);
    std::memset(to, static_cast<int>(block), kv_block_bytes);
  }
  static void load_block(cuda::Handle*, uint32_t block, const void* from, cuda::Status* status) {
    now_->say("load_block", status);
    now_->loaded = {block, std::string(static_cast<const char*>(from), kv_block_bytes)};
  }
  static void page_lock(cuda::Handle*, void*, uint64_t bytes, cuda::Status* status) {
    now_->say("page_lock", status);
    now_->page_locked += bytes;
  }
  static void offer_edge(cuda::Handle*, EdgeKey* key, cuda::Status* status) {
    now_->say("offer_edge", status);
    *key = now_->offered;
    now_->set_edge(EdgeEnd::to_next, {EdgeState::forming});
  }
  static void join_edge(cuda::Handle*, const EdgeKey* key, cuda::Status* status) {
    now_->say("join_edge", status);
    now_->joined = *key;
    now_->set_edge(EdgeEnd::from_before, {EdgeState::forming});
  }
  static void edge_status(cuda::Handle*, EdgeEnd end, EdgeState* state, char* reason, uint64_t reason_bytes,
                          cuda::Status* status) {
    now_->say("edge_status", status);
    const std::lock_guard lock(now_->mutex_);
    *state = now_->edge[static_cast<size_t>(end)].state;
    std::strncpy(reason, now_->edge[static_cast<size_t>(end)].reason.c_str(), reason_bytes - 1);
  }
  static void end_edge(cuda::Handle*, EdgeEnd end, cuda::Status* status) {
    now_->say("end_edge", status);
    now_->ended[static_cast<size_t>(end)]++;
    now_->set_edge(end, {});
  }
  static void close(cuda::Handle*) {
    cuda::Status ignored;
    now_->say("close", &ignored);
  }

 public:
  static constexpr cuda::Table table{.version = cuda::table_version,
                                     .layout = cuda::table_layout(),
                                     .cards = count_cards,
                                     .check = check,
                                     .open = open,
                                     .facts = facts,
                                     .needs = needs,
                                     .memory = memory,
                                     .load = load,
                                     .prepare = prepare,
                                     .submit = submit,
                                     .next_done = next_done,
                                     .release = release,
                                     .reset = reset,
                                     .save_block = save_block,
                                     .load_block = load_block,
                                     .page_lock = page_lock,
                                     .offer_edge = offer_edge,
                                     .join_edge = join_edge,
                                     .edge_status = edge_status,
                                     .end_edge = end_edge,
                                     .close = close};

 private:
  static inline FakeCuda* now_ = nullptr;
  cuda::Handle handle_;
  std::mutex mutex_;  // of these; a device's thread and the test's look at them
  std::map<std::string, cuda::Status> failures_;
  std::map<std::string, size_t> calls_;
  std::vector<uint64_t> in_flight_;
};

}  // namespace convoy::gpu::test
