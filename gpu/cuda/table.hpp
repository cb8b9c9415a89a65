#pragma once
// What libconvoy_cuda.so exports: functions over plain data, so that it may be built by another compiler, and
// rebuilt where only nvcc is. Nothing throws across it, and nothing in it ends the process: a status says
// what went wrong. One thread calls a handle's functions. gpu/cuda_device.cpp makes a Device of it.

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "gpu/device.hpp"

namespace convoy::cuda {

using gpu::BlockChange;
using gpu::DeviceLimits;
using gpu::EdgeEnd;
using gpu::EdgeKey;
using gpu::EdgeState;
using gpu::HiddenForm;
using gpu::Rotations;
using gpu::RoutingTrace;
using gpu::SlotRows;
using gpu::StageShape;
using gpu::WeightRef;

enum class Code : uint32_t {
  ok,
  refused,        // what was asked for cannot be done: an InputError
  out_of_memory,  // of the device
  fault,          // the device or its driver failed; the handle is of no more use
};

/// What a function says of itself; texts end with a zero byte and are cut to fit.
struct Status {
  Code code = Code::ok;
  char what[512] = {}, where[128] = {}, mend[256] = {};
};

/// What activations are kept in between operations. Sums are float32 either way.
enum class Activations : uint8_t { f32, bf16 };

struct OpenOptions {
  int32_t ordinal = 0;  // which card, as CUDA counts them
  Activations activations = Activations::bf16;
  bool graphs = true;   // steps are captured once and then launched as a whole
  bool poison = false;  // memory begins as NaNs, for tests: what nobody wrote shows
};

struct Facts {
  char variant[128] = {};
  char card[32] = {};  // its place on the bus
  uint32_t depth = 1;
  bool feeds_back = false;
  bool edges = false;
};

/// model::Sampling without its vector.
struct Sampling {
  float temperature, top_p, min_p;
  float presence_penalty, frequency_penalty, repetition_penalty;
  uint32_t top_k, top_logprobs, min_tokens;
  uint32_t logprobs;  // 0 or 1
  uint64_t seed;
  const int32_t* end_tokens;
  uint64_t end_token_count;
};

struct Start {
  uint32_t slot, prompt_tokens;
  Sampling sampling;
  const int32_t* history;  // gpu::SlotStart::history
  uint64_t history_count;
};

struct Step {
  uint64_t number;
  const Start* starts;
  uint64_t start_count;
  const BlockChange* changes;
  uint64_t change_count;
  const SlotRows* sequences;
  uint64_t sequence_count;
  const int32_t* ids;
  uint64_t rows;
  const void* in;
  void* out;
  HiddenForm in_form, out_form;
  uint32_t keep_logits;  // 0 or 1
  RoutingTrace routing;
};

/// The most tokens whose log-probabilities a sampled token may come with (gpu::top_logprobs_max).
inline constexpr uint32_t top_max = 20;
/// The most end tokens of a sequence.
inline constexpr uint32_t end_tokens_max = 64;

struct Sampled {
  int32_t id;
  float logprob;
  uint32_t fault;  // gpu::RowFault
  uint32_t top_count;
  struct Top {
    int32_t id;
    float logprob;
  } top[top_max];
};

struct Done {
  uint64_t number;
  const Sampled* sampled;
  uint64_t sampled_count;
  const float* logits;  // [sampled_count, vocab], or nullptr
  float took_us;
};

/// gpu::DeviceNeeds.
struct Needs {
  uint64_t weight_bytes, kv_block_bytes, buffer_bytes, scratch_bytes;
};

struct Handle;

struct Table {
  uint32_t version;
  uint32_t layout;  // of the structures; two that differ do not understand each other
  /// How many cards the machine has. Takes nothing of them.
  void (*cards)(int32_t* count, Status*);
  /// Whether this card is there, and for this library. Takes nothing of it.
  void (*check)(int32_t ordinal, Status*);
  void (*open)(const OpenOptions*, const StageShape*, Handle**, Status*);
  void (*facts)(const Handle*, Facts*);
  void (*needs)(const Handle*, const DeviceLimits*, Needs*);
  /// What may be taken of the card, in bytes.
  void (*memory)(const Handle*, uint64_t*, Status*);
  void (*load)(Handle*, int64_t layer, const WeightRef*, uint64_t count, Status*);
  void (*prepare)(Handle*, const DeviceLimits*, const Rotations*, Status*);
  void (*submit)(Handle*, const Step*, Status*);
  /// 1 if a step is done: it is in the last argument but one; 0: none after so many µs.
  int32_t (*next_done)(Handle*, int64_t wait_us, Done*, Status*);
  void (*release)(Handle*, uint64_t number, Status*);
  void (*reset)(Handle*, Status*);
  // gpu::Device's functions of these names. A block's bytes are those that Needs says.
  void (*save_block)(Handle*, uint32_t block, void* to, Status*);
  void (*load_block)(Handle*, uint32_t block, const void* from, Status*);
  void (*page_lock)(Handle*, void* memory, uint64_t bytes, Status*);
  void (*offer_edge)(Handle*, EdgeKey*, Status*);
  void (*join_edge)(Handle*, const EdgeKey*, Status*);
  /// Why it failed, in words that end with a zero byte and are cut to fit.
  void (*edge_status)(Handle*, EdgeEnd, EdgeState*, char* reason, uint64_t reason_bytes, Status*);
  void (*end_edge)(Handle*, EdgeEnd, Status*);
  void (*close)(Handle*);
};

inline constexpr uint32_t table_version = 1;
constexpr uint32_t table_layout() {
  uint32_t hash = 2166136261u;
  for (const size_t size :
       {sizeof(Status), sizeof(OpenOptions), sizeof(Facts), sizeof(Start), sizeof(Step), sizeof(Sampled),
        sizeof(Done), sizeof(Needs), sizeof(Table), sizeof(StageShape), sizeof(WeightRef),
        sizeof(DeviceLimits), sizeof(Rotations), sizeof(SlotRows), sizeof(BlockChange), gpu::part_count})
    hash = (hash ^ static_cast<uint32_t>(size)) * 16777619u;
  return hash;
}
static_assert(std::is_trivially_copyable_v<StageShape> && std::is_trivially_copyable_v<WeightRef> &&
              std::is_trivially_copyable_v<Rotations> && std::is_trivially_copyable_v<DeviceLimits> &&
              std::is_trivially_copyable_v<SlotRows> && std::is_trivially_copyable_v<BlockChange>);

/// The one symbol of the library.
inline constexpr const char* table_symbol = "convoy_cuda_table";
using TableFunction = const Table*();

}  // namespace convoy::cuda
