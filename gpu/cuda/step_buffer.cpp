#include "gpu/cuda/step_buffer.hpp"

#include "gpu/cuda/failure.hpp"

namespace convoy::cuda {
namespace {

SlotSampling sampling_of(const Start& start) {
  const Sampling& s = start.sampling;
  if (s.end_token_count > end_tokens_max)
    throw refusal(std::to_string(s.end_token_count) + " end tokens", "sampling",
                  "a sequence may have at most " + std::to_string(end_tokens_max));
  SlotSampling out{.temperature = s.temperature,
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
                   .prompt_tokens = start.prompt_tokens,
                   .end_token_count = static_cast<uint32_t>(s.end_token_count),
                   .end_tokens = {}};
  for (uint64_t i = 0; i < s.end_token_count; i++) out.end_tokens[i] = s.end_tokens[i];
  return out;
}

void refuse_count(const char* what, uint64_t count, int64_t max) {
  if (count > static_cast<uint64_t>(max))
    throw refusal(std::to_string(count) + " " + what, "step",
                  "at most " + std::to_string(max) + " were asked for");
}

}  // namespace

const StepHeader& StepWriter::write(const Step& step, bool samples, std::byte* to) {
  refuse_count("rows", step.rows, capacity_.rows);
  refuse_count("starts", step.start_count, capacity_.slots);
  refuse_count("sequences", step.sequence_count, capacity_.rows);
  auto& header = *reinterpret_cast<StepHeader*>(to);
  header = {.rows = static_cast<int32_t>(step.rows),
            .sampled = 0,
            .sequences = static_cast<int32_t>(step.sequence_count),
            .starts = static_cast<int32_t>(step.start_count),
            .changes = 0};
  int64_t at = capacity_.sequences_at();
  const auto part = [&]<class T>(int32_t& offset, T*, uint64_t count) {
    offset = static_cast<int32_t>(at);
    T* const begin = reinterpret_cast<T*>(to + at);
    at += StepCapacity::aligned(static_cast<int64_t>(count * sizeof(T)));
    return begin;
  };
  StepSequence* sequences =
      part(header.sequences_at, static_cast<StepSequence*>(nullptr), step.sequence_count);
  for (uint64_t i = 0; i < step.sequence_count; i++) {
    const SlotRows& s = step.sequences[i];
    sequences[i] = {static_cast<int32_t>(s.slot),
                    static_cast<int32_t>(s.first_row),
                    static_cast<int32_t>(s.rows),
                    static_cast<int32_t>(s.first_position),
                    samples ? static_cast<int32_t>(s.sampled_rows) : 0,
                    header.sampled};
    header.sampled += sequences[i].sampled_rows;
  }
  int32_t* ids = part(header.ids_at, static_cast<int32_t*>(nullptr), step.rows);
  for (uint64_t i = 0; i < step.rows; i++) ids[i] = step.ids[i];
  StepStart* starts = part(header.starts_at, static_cast<StepStart*>(nullptr), step.start_count);
  for (uint64_t i = 0; i < step.start_count; i++)
    starts[i] = {static_cast<int32_t>(step.starts[i].slot), 0, sampling_of(step.starts[i])};
  header.changes_at = static_cast<int32_t>(at);
  write_changes(step, reinterpret_cast<gpu::BlockChange*>(to + at), header);
  at += StepCapacity::aligned(header.changes * static_cast<int64_t>(sizeof(gpu::BlockChange)));
  header.bytes = static_cast<int32_t>(at);
  return header;
}

void StepWriter::write_changes(const Step& step, gpu::BlockChange* to, StepHeader& header) {
  steps_++;
  for (uint64_t i = 0; i < step.change_count; i++) {
    const gpu::BlockChange& change = step.changes[i];
    if (change.slot >= capacity_.slots || change.index >= capacity_.table_entries)
      throw refusal(
          "block change of slot " + std::to_string(change.slot) + ", index " + std::to_string(change.index),
          "step",
          "there are " + std::to_string(capacity_.slots) + " slots of " +
              std::to_string(capacity_.table_entries) + " blocks");
    Written& written = written_[static_cast<size_t>(change.slot * capacity_.table_entries + change.index)];
    if (written.step != steps_) written = {steps_, header.changes++};
    to[written.at] = change;
  }
}

}  // namespace convoy::cuda
