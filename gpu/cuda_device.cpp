#include "gpu/cuda_device.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <cassert>
#include <string>
#include <vector>

#include "gpu/device_error.hpp"
#include "gpu/kv_types.hpp"
#include "gpu/sampler.hpp"
#include "model/error.hpp"

namespace convoy::gpu {
namespace {

constexpr const char* library_name = "libconvoy_cuda.so";
static_assert(cuda::top_max == top_logprobs_max);

/// Throws what a status says.
void check(const cuda::Status& status) {
  switch (status.code) {
    case cuda::Code::ok:
      return;
    case cuda::Code::refused:
    case cuda::Code::out_of_memory:
      throw InputError(status.what, status.where, status.mend);
    case cuda::Code::fault:
      break;
  }
  throw DeviceError(std::string(status.where) + ": " + status.what + (*status.mend ? "; " : "") +
                    status.mend);
}

cuda::Sampling plain(const model::Sampling& s) {
  return {.temperature = s.temperature,
          .top_p = s.top_p,
          .min_p = s.min_p,
          .presence_penalty = s.presence_penalty,
          .frequency_penalty = s.frequency_penalty,
          .repetition_penalty = s.repetition_penalty,
          .top_k = s.top_k,
          .top_logprobs = s.top_logprobs,
          .min_tokens = s.min_tokens,
          .logprobs = s.logprobs,
          .seed = s.seed,
          .end_tokens = s.end_tokens.data(),
          .end_token_count = s.end_tokens.size()};
}

class CudaDevice final : public Device {
 public:
  CudaDevice(std::shared_ptr<const CudaLibrary> library, const cuda::OpenOptions& options,
             const StageShape& shape)
      : library_(std::move(library)),
        table_(library_->table()),
        shape_(shape),
        activations_(options.activations) {
    cuda::Status status;
    table_.open(&options, &shape, &handle_, &status);
    check(status);
    table_.facts(handle_, &facts_);
  }
  ~CudaDevice() override { table_.close(handle_); }

  DeviceFacts facts() const override {
    // Attention on tensor cores reads no other cache than bf16.
    const bool narrow = activations_ == cuda::Activations::bf16;
    return {.variant = facts_.variant,
            .depth = facts_.depth,
            .feeds_back = facts_.feeds_back,
            .kv_type = narrow ? cuda_kv_type : model::DType::f32,
            .reads_ahead = true,
            .hidden_form = narrow ? HiddenForm::bf16 : HiddenForm::f32,
            .edges = facts_.edges,
            .card = facts_.card,
            .moves_blocks = true};
  }
  DeviceNeeds needs(const DeviceLimits& limits) const override {
    cuda::Needs needs{};
    table_.needs(handle_, &limits, &needs);
    return {needs.weight_bytes, needs.kv_block_bytes, needs.buffer_bytes, needs.scratch_bytes};
  }
  uint64_t memory_bytes() const override {
    uint64_t bytes = 0;
    cuda::Status status;
    table_.memory(handle_, &bytes, &status);
    check(status);
    return bytes;
  }
  void load(int64_t layer, std::span<const WeightRef> parts) override {
    cuda::Status status;
    table_.load(handle_, layer, parts.data(), parts.size(), &status);
    check(status);
  }
  void open(const DeviceLimits& limits, const Rotations& rotations) override {
    cuda::Status status;
    table_.prepare(handle_, &limits, &rotations, &status);
    check(status);
  }
  void submit(const DeviceStep& step) override;
  const DeviceDone* next_done(std::chrono::microseconds wait) override;
  void release(uint64_t number) override {
    cuda::Status status;
    table_.release(handle_, number, &status);
    check(status);
  }
  void reset() override {
    cuda::Status status;
    table_.reset(handle_, &status);
    check(status);
  }
  void save_block(uint32_t block, std::span<std::byte> to) override {
    cuda::Status status;
    table_.save_block(handle_, block, to.data(), &status);
    check(status);
  }
  void load_block(uint32_t block, std::span<const std::byte> from) override {
    cuda::Status status;
    table_.load_block(handle_, block, from.data(), &status);
    check(status);
  }
  void page_lock(std::span<std::byte> memory) override {
    cuda::Status status;
    table_.page_lock(handle_, memory.data(), memory.size(), &status);
    check(status);
  }
  EdgeKey offer_edge() override {
    EdgeKey key;
    cuda::Status status;
    table_.offer_edge(handle_, &key, &status);
    check(status);
    return key;
  }
  void join_edge(const EdgeKey& key) override {
    cuda::Status status;
    table_.join_edge(handle_, &key, &status);
    check(status);
  }
  EdgeStatus edge_status(EdgeEnd end) override {
    EdgeStatus edge;
    char reason[512] = {};
    cuda::Status status;
    table_.edge_status(handle_, end, &edge.state, reason, sizeof reason, &status);
    check(status);
    edge.reason = reason;
    return edge;
  }
  void end_edge(EdgeEnd end) override {
    cuda::Status status;
    table_.end_edge(handle_, end, &status);
    check(status);
  }

 private:
  const std::shared_ptr<const CudaLibrary> library_;
  const cuda::Table& table_;
  const StageShape shape_;
  const cuda::Activations activations_;
  cuda::Handle* handle_ = nullptr;
  cuda::Facts facts_;
  std::vector<cuda::Start> starts_;  // of the step that is handed over
  // Of the step that was given out last: the caller looks at one at a time.
  std::vector<SampledToken> sampled_;
  DeviceDone done_;
};

void CudaDevice::submit(const DeviceStep& step) {
  starts_.clear();
  for (const SlotStart& start : step.starts) {
    assert(start.sampling);
    starts_.push_back({start.slot, start.prompt_tokens, plain(*start.sampling), start.history.data(),
                       start.history.size()});
  }
  const cuda::Step plain_step{.number = step.number,
                              .starts = starts_.data(),
                              .start_count = starts_.size(),
                              .changes = step.block_changes.data(),
                              .change_count = step.block_changes.size(),
                              .sequences = step.sequences.data(),
                              .sequence_count = step.sequences.size(),
                              .ids = step.ids.data(),
                              .rows = step.ids.size(),
                              .in = step.in.bytes.data(),
                              .out = step.out.bytes.data(),
                              .in_form = step.in.form,
                              .out_form = step.out.form,
                              .keep_logits = step.keep_logits,
                              .routing = step.routing};
  cuda::Status status;
  table_.submit(handle_, &plain_step, &status);
  check(status);
}

const DeviceDone* CudaDevice::next_done(std::chrono::microseconds wait) {
  cuda::Done done{};
  cuda::Status status;
  const bool is_done = table_.next_done(handle_, wait.count(), &done, &status) != 0;
  check(status);
  if (!is_done) return nullptr;
  sampled_.clear();
  for (const cuda::Sampled& s : std::span(done.sampled, done.sampled_count)) {
    SampledToken& token = sampled_.emplace_back(
        SampledToken{.id = s.id, .logprob = s.logprob, .top = {}, .fault = static_cast<RowFault>(s.fault)});
    for (const auto& [id, logprob] : std::span(s.top, s.top_count)) token.top.push_back({id, logprob});
  }
  done_ = {.number = done.number, .sampled = sampled_, .logits = {}, .took_us = done.took_us};
  if (done.logits)
    done_.logits = {done.logits, static_cast<size_t>(done.sampled_count) * static_cast<size_t>(shape_.vocab)};
  return &done_;
}

}  // namespace

std::shared_ptr<const CudaLibrary> CudaLibrary::load(const std::filesystem::path& path) {
  std::vector<std::filesystem::path> places{path};
  if (path.empty()) {
    const std::filesystem::path folder = std::filesystem::read_symlink("/proc/self/exe").parent_path();
    places = {folder / library_name, folder / ".." / "lib" / library_name};
  }
  for (const std::filesystem::path& place : places) {
    if (!std::filesystem::exists(place)) continue;
    void* const handle = dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!handle)
      throw InputError(std::string("cannot be loaded: ") + dlerror(), place,
                       "build it again (gpu/cuda/build)");
    auto* const function = reinterpret_cast<cuda::TableFunction*>(dlsym(handle, cuda::table_symbol));
    const cuda::Table* const table = function ? function() : nullptr;
    if (!table || table->version != cuda::table_version || table->layout != cuda::table_layout()) {
      dlclose(handle);
      throw InputError("is of another build of Convoy", place,
                       "build both from the same source (gpu/cuda/build)");
    }
    auto library = std::make_shared<CudaLibrary>(*table);
    library->handle_ = handle;
    return library;
  }
  throw InputError("there is no " + std::string(library_name), places.front().parent_path(),
                   "build it where nvcc is (gpu/cuda/build), or use a backend \"cpu\"");
}

CudaLibrary::~CudaLibrary() {
  if (handle_) dlclose(handle_);
}

void CudaLibrary::check(int32_t ordinal) const {
  cuda::Status status;
  table_->check(ordinal, &status);
  gpu::check(status);
}

std::vector<int32_t> CudaLibrary::cards() const {
  int32_t count = 0;
  cuda::Status status;
  table_->cards(&count, &status);
  gpu::check(status);
  std::vector<int32_t> cards;
  for (int32_t card = 0; card < count; card++) {
    table_->check(card, &status);
    if (status.code == cuda::Code::ok) cards.push_back(card);
  }
  if (cards.empty()) check(0);
  return cards;
}

DeviceFactory cuda_device(std::shared_ptr<const CudaLibrary> library, const cuda::OpenOptions& options) {
  library->check(options.ordinal);
  return [library = std::move(library), options](const StageShape& shape) {
    return std::make_unique<CudaDevice>(library, options, shape);
  };
}

PlacedDevice place_on_cards(std::shared_ptr<const CudaLibrary> library, cuda::Activations activations,
                            LocalRank rank) {
  assert(rank.size > 0);
  const std::vector<int32_t> cards = library->cards();
  // Neighbours among the ranks hand hidden states to each other: those that share a card do it there.
  const size_t used = std::min<size_t>(cards.size(), rank.size);
  const auto place = [&](uint32_t r) { return r % rank.size * used / rank.size; };
  uint32_t sharers = 0;
  for (uint32_t r = 0; r < rank.size; r++) sharers += place(r) == place(rank.rank);
  const int32_t card = cards[place(rank.rank)];
  return {cuda_device(std::move(library), {.ordinal = card, .activations = activations}), card, sharers};
}

}  // namespace convoy::gpu
