#include "actors/step_codec.hpp"

#include <cstring>

namespace convoy::actors {

namespace {

template <class List, class Values>
void fill(List list, const Values& values) {
  for (unsigned i = 0; i < values.size(); ++i) list.set(i, values[i]);
}

template <class T, class List>
std::vector<T> collect(List list) {
  std::vector<T> values;
  values.reserve(list.size());
  for (const auto value : list) values.push_back(value);
  return values;
}

}  // namespace

void encode(const model::Sampling& from, msg::Sampling::Builder to) {
  to.setTemperature(from.temperature);
  to.setTopK(from.top_k);
  to.setTopP(from.top_p);
  to.setMinP(from.min_p);
  to.setPresencePenalty(from.presence_penalty);
  to.setFrequencyPenalty(from.frequency_penalty);
  to.setRepetitionPenalty(from.repetition_penalty);
  to.setSeed(from.seed);
  to.setLogprobs(from.logprobs);
  to.setTopLogprobs(from.top_logprobs);
  to.setMinTokens(from.min_tokens);
  fill(to.initEndTokens(static_cast<unsigned>(from.end_tokens.size())), from.end_tokens);
}

model::Sampling decode(msg::Sampling::Reader from) {
  model::Sampling to;
  to.temperature = from.getTemperature();
  to.top_k = from.getTopK();
  to.top_p = from.getTopP();
  to.min_p = from.getMinP();
  to.presence_penalty = from.getPresencePenalty();
  to.frequency_penalty = from.getFrequencyPenalty();
  to.repetition_penalty = from.getRepetitionPenalty();
  to.seed = from.getSeed();
  to.logprobs = from.getLogprobs();
  to.top_logprobs = from.getTopLogprobs();
  to.min_tokens = from.getMinTokens();
  to.end_tokens = collect<int32_t>(from.getEndTokens());
  return to;
}

void encode(const gpu::SampledToken& from, msg::Token::Builder to) {
  to.setId(from.id);
  to.setLogprob(from.logprob);
  if (from.top.empty()) return;
  auto top = to.initTop(static_cast<unsigned>(from.top.size()));
  for (unsigned i = 0; i < from.top.size(); ++i) {
    top[i].setId(from.top[i].id);
    top[i].setLogprob(from.top[i].logprob);
  }
}

gpu::SampledToken decode(msg::Token::Reader from) {
  gpu::SampledToken to{from.getId(), from.getLogprob(), {}};
  for (const auto entry : from.getTop()) to.top.push_back({entry.getId(), entry.getLogprob()});
  return to;
}

Frame<msg::StepPlan> encode(const gpu::StepPlan& plan) {
  const size_t words = 64 + 24 * plan.starts.size() + 8 * plan.sequences.size() +
                       static_cast<size_t>(plan.rows()) + 2 * plan.block_changes.size() + plan.ends.size();
  msg::FrameBuilder<msg::StepPlan> frame(words);
  frame->setEpoch(plan.epoch);
  frame->setStep(plan.step);
  auto starts = frame->initStarts(static_cast<unsigned>(plan.starts.size()));
  for (unsigned i = 0; i < plan.starts.size(); ++i) {
    starts[i].setSlot(plan.starts[i].slot);
    starts[i].setPromptTokens(plan.starts[i].prompt_tokens);
    encode(plan.starts[i].sampling, starts[i].initSampling());
  }
  auto sequences = frame->initSequences(static_cast<unsigned>(plan.sequences.size()));
  for (unsigned i = 0; i < plan.sequences.size(); ++i) {
    const gpu::SeqStep& s = plan.sequences[i];
    sequences[i].setSlot(s.slot);
    sequences[i].setFirstPosition(s.first_position);
    fill(sequences[i].initTokens(static_cast<unsigned>(s.tokens.size())), s.tokens);
    sequences[i].setSampledRows(s.sampled_rows);
  }
  auto changes = frame->initBlockChanges(static_cast<unsigned>(plan.block_changes.size()));
  for (unsigned i = 0; i < plan.block_changes.size(); ++i) {
    changes[i].setSlot(plan.block_changes[i].slot);
    changes[i].setIndex(plan.block_changes[i].index);
    changes[i].setBlock(plan.block_changes[i].block);
  }
  fill(frame->initEnds(static_cast<unsigned>(plan.ends.size())), plan.ends);
  return std::move(frame).finish();
}

gpu::StepPlan decode(const Frame<msg::StepPlan>& frame) {
  const msg::Reading message(frame);
  gpu::StepPlan plan;
  plan.epoch = message->getEpoch();
  plan.step = message->getStep();
  for (const auto s : message->getStarts())
    plan.starts.push_back({s.getSlot(), s.getPromptTokens(), decode(s.getSampling())});
  for (const auto s : message->getSequences())
    plan.sequences.push_back(
        {s.getSlot(), s.getFirstPosition(), collect<int32_t>(s.getTokens()), s.getSampledRows()});
  for (const auto c : message->getBlockChanges())
    plan.block_changes.push_back({c.getSlot(), c.getIndex(), c.getBlock()});
  plan.ends = collect<uint32_t>(message->getEnds());
  return plan;
}

Frame<msg::StepResult> encode(const gpu::StepResult& result) {
  size_t words = 32;
  for (const auto& s : result.sequences)
    for (const auto& t : s.tokens) words += 8 + t.top.size();
  msg::FrameBuilder<msg::StepResult> frame(words + 8 * result.sequences.size());
  frame->setEpoch(result.epoch);
  frame->setStep(result.step);
  auto sequences = frame->initSequences(static_cast<unsigned>(result.sequences.size()));
  for (unsigned i = 0; i < result.sequences.size(); ++i) {
    const gpu::SampledTokens& s = result.sequences[i];
    sequences[i].setSlot(s.slot);
    auto tokens = sequences[i].initTokens(static_cast<unsigned>(s.tokens.size()));
    for (unsigned t = 0; t < s.tokens.size(); ++t) encode(s.tokens[t], tokens[t]);
  }
  return std::move(frame).finish();
}

gpu::StepResult decode(const Frame<msg::StepResult>& frame) {
  const msg::Reading message(frame);
  gpu::StepResult result{message->getEpoch(), message->getStep(), {}};
  for (const auto s : message->getSequences()) {
    gpu::SampledTokens sampled{s.getSlot(), {}};
    for (const auto t : s.getTokens()) sampled.tokens.push_back(decode(t));
    result.sequences.push_back(std::move(sampled));
  }
  return result;
}

Frame<msg::Activations> encode_activations(uint64_t epoch, uint64_t step, std::span<const float> hidden,
                                           int64_t rows) {
  msg::FrameBuilder<msg::Activations> frame(16 + hidden.size_bytes() / sizeof(capnp::word) + 1);
  frame->setEpoch(epoch);
  frame->setStep(step);
  frame->setRows(static_cast<uint32_t>(rows));
  frame->setHidden(rows > 0 ? static_cast<uint32_t>(hidden.size() / static_cast<size_t>(rows)) : 0);
  std::memcpy(frame->initData(static_cast<unsigned>(hidden.size_bytes())).begin(), hidden.data(),
              hidden.size_bytes());
  return std::move(frame).finish();
}

}  // namespace convoy::actors
