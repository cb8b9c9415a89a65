#include "gpu/engine.hpp"

#include <cassert>
#include <optional>
#include <stdexcept>
#include <utility>

#include "gpu/forward.hpp"
#include "gpu/kv_pool.hpp"
#include "gpu/sampler.hpp"
#include "model/error.hpp"

namespace convoy::gpu {
namespace {

using std::to_string;

[[noreturn]] void refuse(const std::string& what) { throw std::runtime_error("step plan: " + what); }

/// What the engine knows of the sequence in a slot.
struct Sequence {
  bool started = false;
  uint32_t prompt_tokens = 0;
  model::Sampling sampling = {};
  std::vector<int32_t> tokens = {};  // at the positions that are in the cache
  TokenCounts counts = {};           // of them, on the last stage if they are penalised
  uint64_t run = 0;                  // the latest that brought rows
  // If the latest step sampled here: which one that was, and the token behind the others once it is known.
  std::optional<uint64_t> sampled_in = {};
  std::optional<int32_t> sampled = {};

  TokenCounts::Of part(size_t position) const {
    return position < prompt_tokens ? TokenCounts::Of::prompt : TokenCounts::Of::output;
  }
  /// Replaces what there is from the position on.
  void write(uint32_t first_position, std::span<const int32_t> ids, bool count);
};

void Sequence::write(uint32_t first_position, std::span<const int32_t> ids, bool count) {
  for (size_t p = first_position; count && p < tokens.size(); p++) counts.remove(tokens[p], part(p));
  tokens.resize(first_position);
  tokens.insert(tokens.end(), ids.begin(), ids.end());
  for (size_t p = first_position; count && p < tokens.size(); p++) counts.add(tokens[p], part(p));
}

void check_limits(const EngineLimits& l, const model::Config& config) {
  if (l.kv_blocks == 0 || l.slots == 0 || l.rows_per_step <= 0)
    throw InputError("kv_blocks, slots and rows_per_step must be above 0", "engine limits", "raise them");
  if (l.context_tokens <= 0 || l.context_tokens > config.context)
    throw InputError("context of " + to_string(l.context_tokens) + " tokens", "engine limits",
                     "the model takes 1 to " + to_string(config.context));
  const bool known =
      l.kv_type == model::DType::f32 || l.kv_type == model::DType::bf16 || l.kv_type == model::DType::f16;
  if (!known)
    throw InputError("keys and values in " + std::string(model::info(l.kv_type).name), "engine limits",
                     "use f32, bf16 or f16");
}

/// What can never work is refused before a weight is read.
model::LayerRange checked(model::LayerRange range, const model::Config& config, const Backend& backend) {
  if (!config.latent) backend.check_heads(config.head_dim);
  if (range.first < 0 || range.first > range.last || range.last >= config.layers)
    throw InputError("layers " + to_string(range.first) + " to " + to_string(range.last), "layer range",
                     "the model has layers 0 to " + to_string(config.layers - 1));
  return range;
}

}  // namespace

struct Engine::State {
  State(std::unique_ptr<Backend> b, std::shared_ptr<const model::Checkpoint> c, model::LayerRange range,
        const EngineLimits& l, const std::function<void(int64_t, int64_t)>& progress)
      : limits((check_limits(l, c->config()), l)),
        backend(std::move(b)),
        checkpoint(std::move(c)),
        config(checkpoint->config()),
        forward(*backend, *checkpoint, checked(range, config, *backend),
                {l.rows_per_step, l.context_tokens, l.kv_type, l.deterministic}, progress),
        kv(*backend, range.count(), model::cache_streams(config), l.kv_type, l.kv_blocks, l.slots,
           l.context_tokens),
        sequences(l.slots),
        written_by(l.kv_blocks) {
    backend->set_rope(config.rope, config.head_dim, l.context_tokens);
    backend->wait();
  }

  void start(const SeqStart& start);
  void change(const BlockChange& change);
  void check(const StepPlan& plan, std::span<const float> input) const;
  void check(const SeqStep& step) const;
  void lay_out(const StepPlan& plan);
  void claim_blocks(const SeqStep& step, std::span<const uint32_t> table);
  StepResult sample(const StepPlan& plan);
  const Sequence& sequence(uint32_t slot) const;
  Sequence& sequence(uint32_t slot) { return const_cast<Sequence&>(std::as_const(*this).sequence(slot)); }

  const EngineLimits limits;
  std::unique_ptr<Backend> backend;
  std::shared_ptr<const model::Checkpoint> checkpoint;
  const model::Config& config;
  Forward forward;
  KvPool kv;
  std::vector<Sequence> sequences;  // of each slot

  // The step that runs.
  std::vector<int32_t> ids, sampled_rows;
  std::vector<SequenceRows> rows;
  std::vector<SampleRow> samples;
  struct Claim {
    uint64_t run = 0;
    uint32_t slot = 0;
  };
  std::vector<Claim> written_by;  // which slot writes a block in this step
  uint64_t runs = 0;              // steps so far: tells this step's claims from older ones
  std::vector<float> hidden, logits;
  bool keep_logits = false;
};

Engine::Engine(std::unique_ptr<Backend> backend, std::shared_ptr<const model::Checkpoint> checkpoint,
               model::LayerRange range, const EngineLimits& limits,
               const std::function<void(int64_t, int64_t)>& progress)
    : state_(std::make_unique<State>(std::move(backend), std::move(checkpoint), range, limits, progress)) {}
Engine::~Engine() = default;

StepOutput Engine::run(const StepPlan& plan, std::span<const float> input) {
  State& s = *state_;
  s.runs++;
  s.logits.clear();
  for (const SeqStart& start : plan.starts) s.start(start);
  for (const BlockChange& change : plan.block_changes) s.change(change);
  s.check(plan, input);
  s.lay_out(plan);

  StepOutput out;
  out.result = {plan.epoch, plan.step, {}};
  if (plan.rows() > 0) {
    s.forward.first() ? s.forward.begin(s.ids) : s.forward.begin(input);
    s.forward.layers(s.rows, s.kv);
    if (s.forward.last()) {
      out.result = s.sample(plan);
      feed_back(out.result);
    } else {
      s.hidden.resize(static_cast<size_t>(plan.rows() * s.config.hidden));
      s.backend->read(s.forward.hidden(), s.hidden);
      out.hidden = s.hidden;
    }
    s.backend->wait();
  }
  for (uint32_t slot : plan.ends) {
    s.sequence(slot) = {};
    s.kv.clear(slot);
  }
  return out;
}

void Engine::feed_back(const StepResult& result) {
  for (const SampledTokens& from : result.sequences) {
    if (from.slot >= state_->limits.slots || from.tokens.empty()) continue;
    Sequence& sequence = state_->sequences[from.slot];
    if (sequence.sampled_in == result.step) sequence.sampled = from.tokens.back().id;
  }
}

bool Engine::resolve(StepPlan& plan) const {
  bool all = true;
  for (SeqStep& step : plan.sequences) {
    if (step.tokens != std::vector{token_fed_back}) continue;
    const Sequence& sequence = state_->sequence(step.slot);
    if (!sequence.sampled_in || step.first_position != sequence.tokens.size())
      refuse("slot " + to_string(step.slot) +
             " continues with the token it sampled, but none was for position " +
             to_string(step.first_position));
    if (sequence.sampled)
      step.tokens = {*sequence.sampled};
    else
      all = false;
  }
  return all;
}

void Engine::reset() {
  for (uint32_t slot = 0; slot < state_->limits.slots; slot++) {
    state_->sequences[slot] = {};
    state_->kv.clear(slot);
  }
}

void Engine::bind_thread() { state_->backend->bind_thread(); }
bool Engine::first() const { return state_->forward.first(); }
bool Engine::last() const { return state_->forward.last(); }
void Engine::keep_logits(bool keep) { state_->keep_logits = keep; }
std::span<const float> Engine::logits() const { return state_->logits; }
std::string_view Engine::variant() const { return state_->backend->variant(); }

/// The sequence that a plan refers to.
const Sequence& Engine::State::sequence(uint32_t slot) const {
  if (slot >= limits.slots) refuse("slot " + to_string(slot) + " of " + to_string(limits.slots));
  if (!sequences[slot].started) refuse("slot " + to_string(slot) + " holds no sequence");
  return sequences[slot];
}

void Engine::State::start(const SeqStart& start) {
  if (start.slot >= limits.slots)
    refuse("start of slot " + to_string(start.slot) + " of " + to_string(limits.slots));
  if (start.prompt_tokens == 0 || start.prompt_tokens > limits.context_tokens)
    refuse("prompt of " + to_string(start.prompt_tokens) + " tokens in slot " + to_string(start.slot) +
           ", context is " + to_string(limits.context_tokens));
  if (const auto why = refuse_sampling(start.sampling, config.vocab)) refuse(*why);
  sequences[start.slot] = {.started = true, .prompt_tokens = start.prompt_tokens, .sampling = start.sampling};
  kv.clear(start.slot);
}

void Engine::State::change(const BlockChange& change) {
  sequence(change.slot);
  kv.map(change);
}

void Engine::State::check(const StepPlan& plan, std::span<const float> input) const {
  if (plan.rows() > limits.rows_per_step)
    refuse(to_string(plan.rows()) + " rows, rows_per_step is " + to_string(limits.rows_per_step));
  const int64_t expected = forward.first() ? 0 : plan.rows() * config.hidden;
  if (static_cast<int64_t>(input.size()) != expected)
    refuse("input of " + to_string(input.size()) + " values, " + to_string(expected) + " expected for " +
           to_string(plan.rows()) + " rows");
  for (const SeqStep& step : plan.sequences) check(step);
  for (uint32_t slot : plan.ends) sequence(slot);
}

void Engine::State::check(const SeqStep& step) const {
  const std::string who = "slot " + to_string(step.slot);
  const Sequence& sequence = this->sequence(step.slot);
  if (step.tokens.empty()) refuse(who + " brings no token");
  // At an earlier position than expected a sequence is rewritten: a replay, or a draft that was not accepted.
  if (step.first_position > sequence.tokens.size())
    refuse(who + " continues at position " + to_string(step.first_position) + ", its cache ends at " +
           to_string(sequence.tokens.size()));
  const int64_t end = int64_t{step.first_position} + static_cast<int64_t>(step.tokens.size());
  if (end > limits.context_tokens)
    refuse(who + " reaches " + to_string(end) + " tokens, context is " + to_string(limits.context_tokens));
  if (step.sampled_rows > step.tokens.size())
    refuse(who + " samples " + to_string(step.sampled_rows) + " of " + to_string(step.tokens.size()) +
           " rows");
  for (int32_t id : step.tokens)
    if (id < 0 || id >= config.vocab)
      refuse(who + " brings token " + to_string(id) + ", vocabulary is " + to_string(config.vocab));
}

/// Rows of all sequences, one after the other.
void Engine::State::lay_out(const StepPlan& plan) {
  ids.clear(), rows.clear(), sampled_rows.clear();
  for (const SeqStep& step : plan.sequences) {
    const int64_t count = static_cast<int64_t>(step.tokens.size()),
                  first_row = static_cast<int64_t>(ids.size());
    const auto table = kv.table(step.slot, step.first_position + count);
    claim_blocks(step, table);
    rows.push_back({first_row, count, step.first_position, table});
    ids.insert(ids.end(), step.tokens.begin(), step.tokens.end());
    for (int64_t r = first_row + count - step.sampled_rows; r < first_row + count; r++)
      sampled_rows.push_back(static_cast<int32_t>(r));

    Sequence& sequence = this->sequence(step.slot);
    if (sequence.run == runs) refuse("slot " + to_string(step.slot) + " comes twice");
    sequence.run = runs;
    sequence.write(step.first_position, step.tokens, forward.last() && sequence.sampling.penalized());
    sequence.sampled_in = step.sampled_rows > 0 ? std::optional(plan.step) : std::nullopt;
    sequence.sampled.reset();
  }
}

/// A block that two positions of one step write to would hold whichever came last: a pipeline's mistake,
/// caught here.
void Engine::State::claim_blocks(const SeqStep& step, std::span<const uint32_t> table) {
  for (auto i = static_cast<size_t>(KvPlace::table_index(step.first_position)); i < table.size(); i++) {
    Claim& claim = written_by[table[i]];
    if (claim.run == runs)
      refuse("block " + to_string(table[i]) + " is written by slots " + to_string(claim.slot) + " and " +
             to_string(step.slot));
    claim = {runs, step.slot};
  }
}

StepResult Engine::State::sample(const StepPlan& plan) {
  StepResult result{plan.epoch, plan.step, {}};
  if (sampled_rows.empty()) return result;
  const Rows out = forward.logits(sampled_rows);
  if (keep_logits) {
    logits.resize(sampled_rows.size() * static_cast<size_t>(config.vocab));
    backend->read(out, logits);
  }

  samples.clear();
  for (const SeqStep& step : plan.sequences) {
    const Sequence& sequence = this->sequence(step.slot);
    const std::span<const int32_t> tokens = sequence.tokens;
    const size_t prompt_end = std::min<size_t>(sequence.prompt_tokens, tokens.size());
    for (size_t seen = tokens.size() - step.sampled_rows + 1; seen <= tokens.size(); seen++) {
      const size_t prompt = std::min(prompt_end, seen), output = std::max(prompt_end, seen);
      samples.push_back({&sequence.sampling, seen, static_cast<uint32_t>(seen - prompt), &sequence.counts,
                         tokens.subspan(prompt, prompt_end - prompt), tokens.subspan(output)});
    }
  }
  std::vector<SampledToken> sampled(samples.size());
  backend->sample(out, samples, sampled);
  auto next = std::make_move_iterator(sampled.begin());
  for (const SeqStep& step : plan.sequences)
    if (step.sampled_rows > 0) {
      result.sequences.push_back({step.slot, {next, next + step.sampled_rows}});
      next += step.sampled_rows;
    }
  return result;
}

}  // namespace convoy::gpu
