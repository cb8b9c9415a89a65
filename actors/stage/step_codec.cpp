#include "actors/stage/step_codec.hpp"

#include <algorithm>
#include <cassert>
#include <stdexcept>
#include <string>

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

/// At most: a plan in a frame of its own, or within Activations.
size_t words_of(const gpu::StepPlan& plan) {
  size_t words = 64 + 24 * plan.starts.size() + 8 * plan.sequences.size() + static_cast<size_t>(plan.rows()) +
                 2 * (plan.block_changes.size() + plan.moves.size()) + plan.ends.size();
  for (const gpu::SeqStart& start : plan.starts)
    words += start.sampling.end_tokens.size() + start.history.size();
  return words;
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

void encode(const gpu::StepPlan& from, msg::StepPlan::Builder to) {
  to.setEpoch(from.epoch);
  to.setStep(from.step);
  auto starts = to.initStarts(static_cast<unsigned>(from.starts.size()));
  for (unsigned i = 0; i < from.starts.size(); ++i) {
    const gpu::SeqStart& s = from.starts[i];
    starts[i].setSlot(s.slot);
    starts[i].setPromptTokens(s.prompt_tokens);
    encode(s.sampling, starts[i].initSampling());
    starts[i].setCachedTokens(s.cached_tokens);
    if (!s.history.empty()) fill(starts[i].initHistory(static_cast<unsigned>(s.history.size())), s.history);
  }
  auto sequences = to.initSequences(static_cast<unsigned>(from.sequences.size()));
  for (unsigned i = 0; i < from.sequences.size(); ++i) {
    const gpu::SeqStep& s = from.sequences[i];
    sequences[i].setSlot(s.slot);
    sequences[i].setFirstPosition(s.first_position);
    fill(sequences[i].initTokens(static_cast<unsigned>(s.tokens.size())), s.tokens);
    sequences[i].setSampledRows(s.sampled_rows);
  }
  auto changes = to.initBlockChanges(static_cast<unsigned>(from.block_changes.size()));
  for (unsigned i = 0; i < from.block_changes.size(); ++i) {
    changes[i].setSlot(from.block_changes[i].slot);
    changes[i].setIndex(from.block_changes[i].index);
    changes[i].setBlock(from.block_changes[i].block);
  }
  fill(to.initEnds(static_cast<unsigned>(from.ends.size())), from.ends);
  if (from.moves.empty()) return;
  auto moves = to.initMoves(static_cast<unsigned>(from.moves.size()));
  for (unsigned i = 0; i < from.moves.size(); ++i) {
    moves[i].setWay(from.moves[i].way == gpu::BlockMove::Way::save ? msg::BlockMove::Way::SAVE
                                                                   : msg::BlockMove::Way::LOAD);
    moves[i].setBlock(from.moves[i].block);
    moves[i].setPlace(from.moves[i].place);
  }
}

Frame<msg::StepPlan> encode(const gpu::StepPlan& plan) {
  msg::FrameBuilder<msg::StepPlan> frame(words_of(plan));
  encode(plan, *frame);
  return std::move(frame).finish();
}

gpu::BlockMove decode(msg::BlockMove::Reader from) {
  gpu::BlockMove move{gpu::BlockMove::Way::save, from.getBlock(), from.getPlace()};
  switch (from.getWay()) {
    case msg::BlockMove::Way::LOAD:
      move.way = gpu::BlockMove::Way::load;
      [[fallthrough]];
    case msg::BlockMove::Way::SAVE:
      return move;
  }
  throw std::runtime_error("block " + std::to_string(move.block) + " moves in the unknown way " +
                           std::to_string(static_cast<unsigned>(from.getWay())));
}

gpu::StepPlan decode(msg::StepPlan::Reader from) {
  gpu::StepPlan plan;
  plan.epoch = from.getEpoch();
  plan.step = from.getStep();
  for (const auto s : from.getStarts())
    plan.starts.push_back({s.getSlot(), s.getPromptTokens(), decode(s.getSampling()), s.getCachedTokens(),
                           collect<int32_t>(s.getHistory())});
  for (const auto s : from.getSequences())
    plan.sequences.push_back(
        {s.getSlot(), s.getFirstPosition(), collect<int32_t>(s.getTokens()), s.getSampledRows()});
  for (const auto c : from.getBlockChanges())
    plan.block_changes.push_back({c.getSlot(), c.getIndex(), c.getBlock()});
  for (const auto move : from.getMoves()) plan.moves.push_back(decode(move));
  plan.ends = collect<uint32_t>(from.getEnds());
  return plan;
}

msg::RowFault encode(gpu::RowFault fault) {
  switch (fault) {
    case gpu::RowFault::none:
      return msg::RowFault::NONE;
    case gpu::RowFault::all_masked:
      return msg::RowFault::ALL_MASKED;
    case gpu::RowFault::not_finite:
      break;
  }
  return msg::RowFault::NOT_FINITE;
}

gpu::RowFault decode(msg::RowFault fault) {
  switch (fault) {
    case msg::RowFault::NONE:
      return gpu::RowFault::none;
    case msg::RowFault::ALL_MASKED:
      return gpu::RowFault::all_masked;
    case msg::RowFault::NOT_FINITE:
      break;
  }
  return gpu::RowFault::not_finite;  // a newer version's, too: whatever it is, there is no token
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
    const auto first = std::ranges::find_if(
        s.tokens, [](const gpu::SampledToken& t) { return t.fault != gpu::RowFault::none; });
    if (first != s.tokens.end()) {
      sequences[i].setFault(encode(first->fault));
      sequences[i].setFaultRow(static_cast<uint32_t>(first - s.tokens.begin()));
    }
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
    const gpu::RowFault fault = decode(s.getFault());
    if (fault != gpu::RowFault::none && s.getFaultRow() >= sampled.tokens.size())
      throw std::runtime_error(
          "step " + std::to_string(result.step) + " has a fault in token " + std::to_string(s.getFaultRow()) +
          " of " + std::to_string(sampled.tokens.size()) + " of slot " + std::to_string(sampled.slot));
    for (size_t row = s.getFaultRow(); row < sampled.tokens.size(); row++) sampled.tokens[row].fault = fault;
    result.sequences.push_back(std::move(sampled));
  }
  return result;
}

msg::HiddenForm encode(gpu::HiddenForm form) {
  switch (form) {
    case gpu::HiddenForm::f32:
      return msg::HiddenForm::FLOAT32;
    case gpu::HiddenForm::bf16:
      return msg::HiddenForm::BFLOAT16;
    case gpu::HiddenForm::edge:
      break;
  }
  return msg::HiddenForm::EDGE;
}

std::optional<gpu::HiddenForm> decode(msg::HiddenForm form) {
  switch (form) {
    case msg::HiddenForm::FLOAT32:
      return gpu::HiddenForm::f32;
    case msg::HiddenForm::BFLOAT16:
      return gpu::HiddenForm::bf16;
    case msg::HiddenForm::EDGE:
      return gpu::HiddenForm::edge;
  }
  return std::nullopt;
}

ActivationsBuilder::ActivationsBuilder(const gpu::StepPlan& plan, int64_t width, gpu::HiddenForm form)
    : frame_(words_of(plan), static_cast<size_t>(plan.rows() * width * gpu::value_bytes(form))), form_(form) {
  encode(plan, frame_->initPlan());
  frame_->setForm(encode(form));
  frame_->setHidden(static_cast<uint32_t>(width));
}

gpu::HiddenOut ActivationsBuilder::hidden() { return {frame_.data(), form_}; }

Frame<msg::Activations> ActivationsBuilder::finish(int32_t hint) && {
  frame_->setHint(hint);
  return std::move(frame_).finish();
}

Frame<msg::Activations> encode_for_edge(const gpu::StepPlan& plan, int64_t width) {
  msg::FrameBuilder<msg::Activations> frame(words_of(plan));
  encode(plan, frame->initPlan());
  frame->setHidden(static_cast<uint32_t>(width));
  frame->setForm(msg::HiddenForm::EDGE);
  return std::move(frame).finish();
}

Frame<msg::Activations> encode_activations(const gpu::StepPlan& plan, std::span<const float> hidden,
                                           int32_t hint) {
  const int64_t rows = plan.rows(), values = static_cast<int64_t>(hidden.size());
  assert(rows > 0 ? values % rows == 0 : values == 0);
  ActivationsBuilder builder(plan, rows > 0 ? values / rows : 0);
  std::ranges::copy(hidden, builder.hidden().values().begin());
  return std::move(builder).finish(hint);
}

gpu::HiddenIn decode_hidden(msg::Activations::Reader from, const gpu::StepPlan& plan) {
  const auto form = decode(from.getForm());
  if (!form)
    throw std::runtime_error("hidden states of step " + std::to_string(plan.step) +
                             " are in the unknown form " +
                             std::to_string(static_cast<unsigned>(from.getForm())));
  const auto data = from.getData();
  const int64_t values = plan.rows() * int64_t{from.getHidden()};
  if (static_cast<int64_t>(data.size()) != values * gpu::value_bytes(*form))
    throw std::runtime_error("hidden states of step " + std::to_string(plan.step) + " are " +
                             std::to_string(data.size()) + " bytes; the plan has " +
                             std::to_string(plan.rows()) + " rows of " + std::to_string(from.getHidden()));
  return {{reinterpret_cast<const std::byte*>(data.begin()), data.size()}, *form};
}

}  // namespace convoy::actors
