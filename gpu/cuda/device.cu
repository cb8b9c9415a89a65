#include "gpu/cuda/device.hpp"

#include <algorithm>
#include <cassert>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <string_view>
#include <thread>

#include "gpu/cuda/elementwise.hpp"
#include "gpu/kv_block.hpp"

namespace convoy::cuda {
namespace {

using std::to_string;

/// Buckets of more rows are launched one by one: their kernels take longer than their launches.
constexpr int graph_rows_max = 256;
/// Left to the driver: graphs, stacks of kernels, pages that allocations are rounded up to.
constexpr uint64_t memory_reserve_bytes = uint64_t{1} << 30;
/// Captured at most; further ones are launched one by one.
constexpr size_t graphs_max = 128;

std::string version(int of_cuda) { return to_string(of_cuda / 1000) + "." + to_string(of_cuda % 1000 / 10); }

/// Machine code of an architecture runs on later cards of its generation, of one with an "a" on none but its
/// own.
bool has_code_for(std::string_view architectures, int major, int minor) {
  while (!architectures.empty()) {
    const size_t end = std::min(architectures.find(' '), architectures.size());
    std::string_view one = architectures.substr(0, end);
    architectures.remove_prefix(std::min(end + 1, architectures.size()));
    if (one.empty()) continue;
    const bool own = one.back() == 'a';
    if (own) one.remove_suffix(1);
    int number = 0;
    std::from_chars(one.data(), one.data() + one.size(), number);
    if (number / 10 == major && (own ? number % 10 == minor : number % 10 <= minor)) return true;
  }
  return false;
}

void refuse_above(const char* what, int64_t value, int64_t max) {
  if (value > max)
    throw refusal(std::string(what) + " of " + to_string(value), "model",
                  "on a CUDA device at most " + to_string(max) + " is supported; run it on a CPU");
}

void check_shape(const StageShape& s) {
  if (s.has_latent) {
    refuse_above("a latent width", s.latent.latent, latent_max);
    refuse_above("a rotated width", s.latent.rope, latent_rope_max);
    refuse_above("a head's width", std::max(s.latent.nope, s.latent.value), head_columns_max);
  } else {
    refuse_above("a head's width", s.head_dim, head_dim_max);
  }
  if (s.has_experts) {
    refuse_above("a number of experts", s.routing.experts, experts_max);
    refuse_above("a number of experts of a token", s.routing.chosen, experts_chosen_max);
  }
}

}  // namespace

int count_cards() {
  int driver = 0, runtime = 0, cards = 0;
  check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  check(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  if (driver == 0) throw refusal("there is no NVIDIA driver", "CUDA", "install one, or use backend \"cpu\"");
  const cudaError_t counted = cudaGetDeviceCount(&cards);
  if (counted == cudaErrorInsufficientDriver)
    throw refusal("the driver knows CUDA " + version(driver) + ", this build needs " + version(runtime),
                  "CUDA", "update the NVIDIA driver");
  if (counted == cudaErrorNoDevice || (counted == cudaSuccess && cards == 0))
    throw refusal("there is no GPU", "CUDA", "see what nvidia-smi says, or use backend \"cpu\"");
  check(counted, "cudaGetDeviceCount");
  return cards;
}

void check_card(int ordinal) {
  const int cards = count_cards();
  if (ordinal < 0 || ordinal >= cards)
    throw refusal("there is no GPU " + to_string(ordinal), "CUDA",
                  "this machine has GPUs 0 to " + to_string(cards - 1) + "; or use backend \"cpu\"");
  int major = 0, minor = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, ordinal), "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, ordinal), "cudaDeviceGetAttribute");
  if (!has_code_for(CONVOY_CUDA_ARCHITECTURES, major, minor))
    throw refusal("GPU " + to_string(ordinal) + " has compute capability " + to_string(major) + "." +
                      to_string(minor) + "; this library was built for " CONVOY_CUDA_ARCHITECTURES,
                  "CUDA", "build it with CONVOY_CUDA_ARCHITECTURES=" + to_string(10 * major + minor));
}

CudaDevice::CudaDevice(const OpenOptions& options, const StageShape& shape)
    : options_(options), shape_((check_shape(shape), shape)), forward_(shape, options) {}

CudaDevice::~CudaDevice() {
  if (!stream_) return;  // nothing was taken of the card, or at most weights
  cudaSetDevice(options_.ordinal);
  for (auto& edge : edges_) edge.reset();  // a step may wait for the stage before
  cudaStreamSynchronize(stream_);
  for (Flight& flight : flights_)
    for (cudaEvent_t event : {flight.begun, flight.done})
      if (event) cudaEventDestroy(event);
  graphs_.clear();
  cudaStreamDestroy(stream_);
  for (void* memory : page_locked_) cudaHostUnregister(memory);
}

void CudaDevice::enter() const { check(cudaSetDevice(options_.ordinal), "cudaSetDevice"); }

Facts CudaDevice::facts() const {
  Facts facts{.depth = depth, .feeds_back = true, .edges = Edge::possible()};
  // Without a name it is only that nobody makes an edge to it.
  if (cudaDeviceGetPCIBusId(facts.card, sizeof facts.card, options_.ordinal) != cudaSuccess)
    cudaGetLastError(), facts.card[0] = 0;
  std::snprintf(facts.variant, sizeof facts.variant, "cuda-%s%s integer-masses",
                options_.activations == Activations::bf16 ? "bf16" : "f32",
                shape_.deterministic ? "-deterministic" : "");
  return facts;
}

Needs CudaDevice::needs(const DeviceLimits& limits) const {
  Needs needs = Forward(shape_, options_).needs(limits);
  needs.weight_bytes = forward_.weight_bytes();
  return needs;
}

uint64_t CudaDevice::memory_bytes() const {
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return free > memory_reserve_bytes ? free - memory_reserve_bytes : 0;
}

void CudaDevice::prepare(const DeviceLimits& limits, const Rotations& rotations) {
  limits_ = limits;
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  forward_.prepare(limits, rotations);
  const StepCapacity capacity{limits.rows, limits.slots, gpu::kv_blocks_for(limits.context_tokens)};
  tables_ = RowTableMemory(limits, capacity, shape_.last);
  writer_.emplace(capacity);
  const auto rows = static_cast<size_t>(limits.rows),
             hidden = rows * static_cast<size_t>(shape_.hidden) * sizeof(float);
  if (shape_.last) results_ = DeviceMemory(rows * sizeof(Sampled), "results");
  if (!(shape_.first && shape_.last)) narrow_ = DeviceMemory(hidden / 2, "hidden states");
  for (Flight& flight : flights_) {
    flight.step = PinnedMemory(static_cast<size_t>(capacity.bytes()));
    if (!shape_.first) flight.in = PinnedMemory(hidden);
    if (shape_.last) {
      flight.results = PinnedMemory(rows * sizeof(Sampled));
      flight.history = PinnedMemory(static_cast<size_t>(limits.context_tokens) * sizeof(int32_t));
    } else {
      flight.out = PinnedMemory(hidden);
    }
    check(cudaEventCreate(&flight.begun), "cudaEventCreate");
    check(cudaEventCreate(&flight.done), "cudaEventCreate");
  }
  warm_up();
  check(cudaDeviceSynchronize(), "loading");
  forward_.end_measuring();
}

/// One step of every size without rows: kernels are loaded, and products of many rows find their algorithms,
/// before anybody waits.
void CudaDevice::warm_up() {
  for (int64_t rows = 0; rows < limits_.rows;) {
    const Bucket bucket = forward_.bucket({.rows = rows + 1, .sampled = shape_.last ? rows + 1 : 0});
    forward_.enqueue(bucket, tables_.view(), results_.as<Sampled>(), stream_);
    rows = bucket.rows;
  }
  if (narrow_.bytes() == 0) return;
  narrow(forward_.hidden(), narrow_.as<void>(), shape_.hidden, stream_);
  widen(narrow_.as<void>(), forward_.hidden(), shape_.hidden, stream_);
}

void CudaDevice::submit(const Step& step) {
  Flight& flight = flights_[begun_ % depth];
  assert(flight.state == Flight::State::free);
  const StepHeader& header = writer_->write(step, shape_.last, flight.step.get());
  flight.number = step.number, flight.rows = header.rows, flight.sampled = header.sampled;
  flight.logits_kept = false;
  flight.routing_to = step.routing.recorded;
  check(cudaMemcpyAsync(tables_.step(), flight.step.get(), static_cast<size_t>(header.bytes),
                        cudaMemcpyHostToDevice, stream_),
        "sending a step");
  if (shape_.last) take_histories(step, flight);
  const int64_t values = header.rows * shape_.hidden;
  if (!shape_.first && values > 0) take_hidden(step, values, flight);
  check(cudaEventRecord(flight.begun, stream_), "cudaEventRecord");
  StepSize size{.rows = header.rows, .sampled = header.sampled};
  for (uint64_t i = 0; i < step.sequence_count; i++) {
    const SlotRows& s = step.sequences[i];
    size.longest = std::max(size.longest, s.first_position + s.rows);
    size.longest_run = std::max(size.longest_run, s.rows);
  }
  const Bucket bucket = last_ = forward_.bucket(size);
  if (step.keep_logits || step.routing.recorded || step.routing.replayed)
    run_watched(bucket, step, flight);
  else
    run(bucket);
  give_hidden(step, shape_.last ? 0 : values, flight);
  if (header.sampled > 0)
    check(cudaMemcpyAsync(flight.results.get(), results_.as<Sampled>(),
                          static_cast<size_t>(header.sampled) * sizeof(Sampled), cudaMemcpyDeviceToHost,
                          stream_),
          "fetching results");
  check(cudaEventRecord(flight.done, stream_), "cudaEventRecord");
  flight.state = Flight::State::running;
  begun_++;
}

/// Ids of cached tokens go where the step's kernels and later ones look for a sequence's tokens. Room for one
/// sequence of the whole context was taken; a step that brings more waits once, for more room.
void CudaDevice::take_histories(const Step& step, Flight& flight) {
  const std::span starts(step.starts, step.start_count);
  uint64_t ids = 0;
  for (const Start& start : starts) ids += start.history_count;
  if (flight.history.bytes() < ids * sizeof(int32_t)) flight.history = PinnedMemory(ids * sizeof(int32_t));
  const RowTables& tables = tables_.view();
  int32_t* next = flight.history.as<int32_t>();
  for (const Start& start : starts) {
    assert(start.history_count <= static_cast<uint64_t>(tables.context));
    if (start.history_count == 0) continue;
    const size_t bytes = start.history_count * sizeof(int32_t);
    std::memcpy(next, start.history, bytes);
    check(cudaMemcpyAsync(tables.history + start.slot * static_cast<int64_t>(tables.context), next, bytes,
                          cudaMemcpyHostToDevice, stream_),
          "sending a sequence's tokens");
    next += start.history_count;
  }
}

void CudaDevice::take_hidden(const Step& step, int64_t values, Flight& flight) {
  if (step.in_form == HiddenForm::edge) {
    const bool narrow = options_.activations == Activations::bf16;
    edge(EdgeEnd::from_before)
        ->receive(narrow ? narrow_.as<void>() : forward_.hidden(), own_bytes(values), stream_);
    if (narrow) widen(narrow_.as<void>(), forward_.hidden(), values, stream_);
    return;
  }
  const bool narrow = step.in_form == HiddenForm::bf16;
  const auto bytes = static_cast<size_t>(values * gpu::value_bytes(step.in_form));
  std::memcpy(flight.in.get(), step.in, bytes);
  check(cudaMemcpyAsync(narrow ? narrow_.as<void>() : forward_.hidden(), flight.in.get(), bytes,
                        cudaMemcpyHostToDevice, stream_),
        "sending hidden states");
  if (narrow) widen(narrow_.as<void>(), forward_.hidden(), values, stream_);
}

void CudaDevice::give_hidden(const Step& step, int64_t values, Flight& flight) {
  const bool narrow = step.out_form == HiddenForm::bf16;
  flight.hidden_to = step.out,
  flight.hidden_bytes = static_cast<size_t>(values * gpu::value_bytes(step.out_form));
  if (values == 0) return;
  if (step.out_form == HiddenForm::edge) {
    Edge& edge = *this->edge(EdgeEnd::to_next);
    void* const room = edge.room(stream_);
    if (options_.activations == Activations::bf16)
      cuda::narrow(forward_.hidden(), room, values, stream_);
    else
      check(cudaMemcpyAsync(room, forward_.hidden(), own_bytes(values), cudaMemcpyDeviceToDevice, stream_),
            "handing hidden states on");
    return edge.send(own_bytes(values), stream_);
  }
  if (narrow) cuda::narrow(forward_.hidden(), narrow_.as<void>(), values, stream_);
  check(cudaMemcpyAsync(flight.out.get(), narrow ? narrow_.as<void>() : forward_.hidden(),
                        flight.hidden_bytes, cudaMemcpyDeviceToHost, stream_),
        "fetching hidden states");
}

void CudaDevice::run(const Bucket& bucket) {
  const bool captured = options_.graphs && bucket.rows <= graph_rows_max &&
                        (graphs_.contains(bucket) || graphs_.size() < graphs_max);
  if (!captured) return forward_.enqueue(bucket, tables_.view(), results_.as<Sampled>(), stream_);
  Graph& graph = graphs_[bucket];
  if (!graph.launches) {
    cudaGraph_t launches = capture(bucket, {});
    const cudaError_t made = cudaGraphInstantiate(&graph.launches, launches, 0);
    cudaGraphDestroy(launches);
    check(made, "cudaGraphInstantiate");
  }
  check(cudaGraphLaunch(graph.launches, stream_), "cudaGraphLaunch");
}

cudaGraph_t CudaDevice::capture(const Bucket& bucket, const StepWatch& watch) {
  cudaGraph_t launches = nullptr;
  check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  try {
    forward_.enqueue(bucket, tables_.view(), results_.as<Sampled>(), stream_, watch);
  } catch (...) {
    cudaStreamEndCapture(stream_, &launches);
    if (launches) cudaGraphDestroy(launches);
    throw;
  }
  check(cudaStreamEndCapture(stream_, &launches), "cudaStreamEndCapture");
  return launches;
}

size_t CudaDevice::routing_bytes(int64_t rows) const {
  return static_cast<size_t>(forward_.layers_with_experts() * rows * shape_.routing.chosen) * sizeof(int32_t);
}

/// For tools, which want more of a step than what it samples.
void CudaDevice::run_watched(const Bucket& bucket, const Step& step, Flight& flight) {
  StepWatch watch;
  const size_t row = static_cast<size_t>(shape_.vocab) * sizeof(float),
               all = static_cast<size_t>(flight.sampled) * row;
  if (step.keep_logits && flight.sampled > 0) {
    if (flight.logits.bytes() < all) flight.logits = PinnedMemory(all);
    flight.logits_kept = true;
    watch.after_logits = [&](int first, int rows, const float* logits) {
      const int64_t count = std::min<int64_t>(rows, flight.sampled - first);
      if (count > 0)
        check(cudaMemcpyAsync(flight.logits.get() + static_cast<size_t>(first) * row, logits,
                              static_cast<size_t>(count) * row, cudaMemcpyDeviceToHost, stream_),
              "fetching logits");
    };
  }
  const bool recorded = step.routing.recorded, replayed = step.routing.replayed;
  const size_t routing = recorded || replayed ? routing_bytes(flight.rows) : 0,
               of_row = static_cast<size_t>(shape_.routing.chosen) * sizeof(int32_t);
  if (flight.routing.bytes() < routing) flight.routing = PinnedMemory(routing);
  if (replayed && routing > 0) {
    if (replayed_.bytes() < routing) {
      replayed_ = DeviceMemory(routing, "a replayed routing");
      check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");  // it is zeroed on another stream
    }
    std::memcpy(flight.routing.get(), step.routing.replayed, routing);
    check(
        cudaMemcpyAsync(replayed_.as<void>(), flight.routing.get(), routing, cudaMemcpyHostToDevice, stream_),
        "sending the experts of rows");
    watch.replayed = replayed_.as<int32_t>(), watch.replayed_pitch = flight.rows * shape_.routing.chosen;
  }
  if (recorded && routing > 0)
    watch.after_routing = [&](int layer, const int32_t* experts, int pitch) {
      const auto rows = static_cast<size_t>(flight.rows);
      check(cudaMemcpy2DAsync(flight.routing.get() + static_cast<size_t>(layer) * rows * of_row, of_row,
                              experts, static_cast<size_t>(pitch) * sizeof(int32_t), of_row, rows,
                              cudaMemcpyDeviceToHost, stream_),
            "fetching the experts of rows");
    };
  forward_.enqueue(bucket, tables_.view(), results_.as<Sampled>(), stream_, watch);
}

bool CudaDevice::next_done(int64_t wait_us, Done& done) {
  if (given_out_ == begun_) return false;
  Flight& flight = flights_[given_out_ % depth];
  // A step takes milliseconds: look often at first, then leave the core to others in between.
  constexpr auto looking = std::chrono::microseconds(200), pause = std::chrono::microseconds(20);
  const auto begin = std::chrono::steady_clock::now();
  for (;;) {
    const cudaError_t state = cudaEventQuery(flight.done);
    if (state == cudaSuccess) break;
    if (state != cudaErrorNotReady) check(state, "a step");
    const auto waited = std::chrono::steady_clock::now() - begin;
    if (waited >= std::chrono::microseconds(wait_us)) return false;
    if (waited > looking) std::this_thread::sleep_for(pause);
  }
  float took_ms = 0;
  check(cudaEventElapsedTime(&took_ms, flight.begun, flight.done), "cudaEventElapsedTime");
  if (flight.hidden_bytes > 0) std::memcpy(flight.hidden_to, flight.out.get(), flight.hidden_bytes);
  if (flight.routing_to) std::memcpy(flight.routing_to, flight.routing.get(), routing_bytes(flight.rows));
  done = {.number = flight.number,
          .sampled = flight.results.as<Sampled>(),
          .sampled_count = static_cast<uint64_t>(flight.sampled),
          .logits = flight.logits_kept ? flight.logits.as<float>() : nullptr,
          .took_us = took_ms * 1000};
  flight.state = Flight::State::given_out;
  given_out_++;
  return true;
}

void CudaDevice::release(uint64_t number) {
  for (Flight& flight : flights_)
    if (flight.state == Flight::State::given_out && flight.number == number)
      flight.state = Flight::State::free;
}

EdgeKey CudaDevice::offer_edge() {
  end_edge(EdgeEnd::to_next);
  auto& edge = edges_[static_cast<size_t>(EdgeEnd::to_next)];
  edge = std::make_unique<Edge>(own_bytes(limits_.rows * shape_.hidden));
  return edge->key();
}

void CudaDevice::join_edge(const EdgeKey& key) {
  end_edge(EdgeEnd::from_before);
  edges_[static_cast<size_t>(EdgeEnd::from_before)] = std::make_unique<Edge>(key);
}

void CudaDevice::save_block(uint32_t block, std::byte* to) {
  forward_.each_stream_of(block, [&](std::byte* stream, size_t bytes) {
    check(cudaMemcpyAsync(to, stream, bytes, cudaMemcpyDeviceToHost, stream_), "saving a KV block");
    to += bytes;
  });
  check(cudaStreamSynchronize(stream_), "saving a KV block");
}

void CudaDevice::load_block(uint32_t block, const std::byte* from) {
  forward_.each_stream_of(block, [&](std::byte* stream, size_t bytes) {
    check(cudaMemcpyAsync(stream, from, bytes, cudaMemcpyHostToDevice, stream_), "loading a KV block");
    from += bytes;
  });
  check(cudaStreamSynchronize(stream_), "loading a KV block");
}

void CudaDevice::page_lock(void* memory, uint64_t bytes) {
  const cudaError_t locked = cudaHostRegister(memory, bytes, cudaHostRegisterDefault);
  if (locked == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw Failure(Code::out_of_memory, mebibytes(bytes) + " for KV blocks cannot be page-locked",
                  "the host's memory", "lower stage.kv_host_bytes, or free memory on the host");
  }
  check(locked, "cudaHostRegister");
  page_locked_.push_back(memory);
}

void CudaDevice::reset() {
  for (auto& edge : edges_) edge.reset();  // a step may wait for a stage that has died
  check(cudaStreamSynchronize(stream_), "ending steps");
  for (Flight& flight : flights_) flight.state = Flight::State::free;
  given_out_ = begun_;
}

}  // namespace convoy::cuda
