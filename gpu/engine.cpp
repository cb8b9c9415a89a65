#include "gpu/engine.hpp"

#include <algorithm>
#include <cassert>
#include <deque>
#include <iterator>
#include <stdexcept>
#include <utility>

#include "gpu/block_tables.hpp"
#include "gpu/kv_types.hpp"
#include "gpu/sampler.hpp"
#include "gpu/stage_shape.hpp"
#include "gpu/weight_pages.hpp"
#include "model/error.hpp"

namespace convoy::gpu {
namespace {

using std::to_string;

[[noreturn]] void refuse(const std::string& what) { throw std::runtime_error("step plan: " + what); }

/// What the engine knows of the sequence in a slot.
struct Sequence {
  bool started = false;
  int64_t length = 0;  // tokens that are in the cache
  int64_t cached = 0;  // those of them that it began behind
  uint64_t run = 0;    // the latest that brought rows
  // If the latest step sampled here: which one that was, and the token behind the others once it is known.
  std::optional<uint64_t> sampled_in = {};
  std::optional<int32_t> sampled = {};
};

/// A step that the device has.
struct Flying {
  uint64_t run = 0;
  uint64_t epoch = 0, step = 0;
  struct Sampled {
    uint32_t slot, rows;
  };
  std::vector<Sampled> sampled = {};  // in the order of the plan; on the last stage
  std::vector<int32_t> routing = {};  // that the device records
};

void check_limits(const EngineLimits& l, const model::Config& config) {
  if (l.slots == 0 || l.rows_per_step <= 0 || l.sharers == 0)
    throw InputError("slots, rows_per_step and sharers must be above 0", "engine limits", "raise them");
  if (l.context_tokens <= 0 || l.context_tokens > config.context)
    throw InputError("context of " + to_string(l.context_tokens) + " tokens", "engine limits",
                     "the model takes 1 to " + to_string(config.context));
  if (l.kv_type && std::ranges::find(kv_types, *l.kv_type, &KvType::type) == kv_types.end())
    throw InputError("keys and values in " + std::string(model::info(*l.kv_type).name), "engine limits",
                     "use f32, bf16, f16 or f8_e4m3");
}

model::LayerRange checked(model::LayerRange range, const model::Config& config) {
  if (range.first < 0 || range.first > range.last || range.last >= config.layers)
    throw InputError("layers " + to_string(range.first) + " to " + to_string(range.last), "layer range",
                     "the model has layers 0 to " + to_string(config.layers - 1));
  return range;
}

}  // namespace

struct Engine::State {
  State(const DeviceFactory& open, std::shared_ptr<const model::Checkpoint> c, model::LayerRange range,
        const EngineLimits& l, const Progress& progress)
      : limits((check_limits(l, c->config()), l)),
        checkpoint(std::move(c)),
        shape(stage_shape(checkpoint->config(), checked(range, checkpoint->config()), l.deterministic)),
        rotations(checkpoint->config().rope, shape.head_dim, l.context_tokens),
        device(open(shape)),
        facts(device->facts()),
        sequences(l.slots) {
    memory_bytes = device->memory_bytes();
    if (limits.kv_blocks == 0)
      pool = KvPool{.memory_bytes = memory_bytes, .sharers = l.kv_blocks_before > 0 ? 1 : l.sharers};
    weights = checkpoint->stage(range);
    layers_with_experts = std::ranges::count_if(
        weights.layers, [](const model::LayerWeights& layer) { return layer.experts.has_value(); });
    load(progress);
    DeviceLimits given{l.kv_blocks, l.slots, l.context_tokens, l.rows_per_step,
                       l.kv_type.value_or(facts.kv_type)};
    if (pool) given.kv_blocks = limits.kv_blocks = blocks_that_fit(given);
    device->open(given, rotations.view());
    tables.emplace(given.kv_blocks, l.slots, l.context_tokens);
    written_by.resize(given.kv_blocks);
    if (l.second_tier.any()) open_tier(given);
  }

  void load(const Progress& progress);
  uint32_t blocks_that_fit(const DeviceLimits& given);
  void open_tier(const DeviceLimits& given);

  void start(const SeqStart& start);
  void check_cached(const SeqStart& start) const;
  void change(const BlockChange& change);
  void move(const BlockMove& move);
  void check(const StepPlan& plan, const HiddenIn& input, const HiddenOut& output) const;
  void check(const SeqStep& step) const;
  void lay_out(const StepPlan& plan);
  void claim_blocks(const SeqStep& step, std::span<const uint32_t> table);
  void check_replayed(int64_t rows) const;
  /// Values of a routing of so many rows.
  size_t routing_values(int64_t rows) const {
    return static_cast<size_t>(layers_with_experts * rows * shape.routing.chosen);
  }
  const Sequence& sequence(uint32_t slot) const;
  Sequence& sequence(uint32_t slot) { return const_cast<Sequence&>(std::as_const(*this).sequence(slot)); }
  const Sequence& fed_back(const SeqStep& step) const;
  /// Whether rows may say token_fed_back to the device: it samples and embeds.
  bool device_feeds_back() const { return facts.feeds_back && shape.first && shape.last; }

  EngineLimits limits;
  const std::shared_ptr<const model::Checkpoint> checkpoint;
  const StageShape shape;
  const RotationTable rotations;
  model::StageWeights weights;     // none if the device has copies
  std::optional<SecondTier> tier;  // older than the device, which may have page-locked its memory
  const std::unique_ptr<Device> device;
  const DeviceFacts facts;
  uint64_t memory_bytes = 0;   // of the device, before weights; 0: it does not say
  std::optional<KvPool> pool;  // if limits left kv_blocks open
  std::optional<BlockTables> tables;
  std::vector<Sequence> sequences;  // of each slot
  std::deque<Flying> in_flight;

  // The step that is handed over.
  std::vector<SlotStart> starts;
  std::vector<SlotRows> rows;
  std::vector<int32_t> ids;
  struct Claim {
    uint64_t run = 0;
    uint32_t slot = 0;
  };
  std::vector<Claim> written_by;      // which slot writes a block in this step
  uint64_t runs = 0;                  // steps so far: tells this step's claims from older ones
  std::vector<float> hidden, logits;  // of run(), and of the latest step that was done
  bool keep_logits = false, record_routing = false;
  int64_t layers_with_experts = 0;
  std::vector<int32_t> routing;       // of the latest step that was done
  std::span<const int32_t> replayed;  // in the next one
  int32_t hint = no_hint;             // of the latest step that was done
  float took_us = 0;
};

Engine::Engine(const DeviceFactory& device, std::shared_ptr<const model::Checkpoint> checkpoint,
               model::LayerRange range, const EngineLimits& limits, const Progress& progress)
    : state_(std::make_unique<State>(device, std::move(checkpoint), range, limits, progress)) {}
Engine::~Engine() = default;

void Engine::submit(const StepPlan& plan, HiddenIn input, HiddenOut output, const StepHints& hints) {
  State& s = *state_;
  if (in_flight() >= depth()) refuse("more than " + to_string(depth()) + " steps in flight");
  s.runs++;
  for (const SeqStart& start : plan.starts) s.start(start);
  for (const BlockChange& change : plan.block_changes) s.change(change);
  s.check(plan, input, output);
  s.check_replayed(plan.rows());
  s.lay_out(plan);
  for (const BlockMove& move : plan.moves) s.move(move);

  s.starts.clear();
  for (const SeqStart& start : plan.starts)
    s.starts.push_back({start.slot, start.prompt_tokens, &start.sampling, start.history});
  Flying flying{s.runs, plan.epoch, plan.step};
  if (last())
    for (const SlotRows& rows : s.rows)
      if (rows.sampled_rows > 0) flying.sampled.push_back({rows.slot, rows.sampled_rows});
  if (s.record_routing) flying.routing.resize(s.routing_values(plan.rows()));
  s.device->submit({.number = s.runs,
                    .starts = s.starts,
                    .block_changes = plan.block_changes,
                    .sequences = s.rows,
                    .ids = s.ids,
                    .in = input,
                    .out = output,
                    .keep_logits = s.keep_logits,
                    .routing = {.replayed = s.replayed.empty() ? nullptr : s.replayed.data(),
                                .recorded = flying.routing.empty() ? nullptr : flying.routing.data()},
                    .hints = hints});
  s.replayed = {};
  s.in_flight.push_back(std::move(flying));  // one that the device did not take would be waited for forever
  for (uint32_t slot : plan.ends) {
    s.sequence(slot) = {};
    s.tables->clear(slot);
  }
}

std::optional<StepResult> Engine::next_done(std::chrono::microseconds wait) {
  State& s = *state_;
  const DeviceDone* done = s.device->next_done(wait);
  if (!done) return std::nullopt;
  assert(!s.in_flight.empty() && s.in_flight.front().run == done->number);
  Flying flying = std::move(s.in_flight.front());
  s.in_flight.pop_front();
  StepResult result{flying.epoch, flying.step, {}};
  auto next = done->sampled.begin();
  for (const auto& [slot, rows] : flying.sampled) {
    result.sequences.push_back({slot, {next, next + rows}});
    next += rows;
  }
  s.logits.assign(done->logits.begin(), done->logits.end());
  s.routing = std::move(flying.routing);
  s.hint = done->hint, s.took_us = done->took_us;
  s.device->release(done->number);
  feed_back(result);
  return result;
}

StepOutput Engine::run(const StepPlan& plan, std::span<const float> input) {
  State& s = *state_;
  s.hidden.resize(last() ? 0 : static_cast<size_t>(plan.rows() * s.shape.hidden));
  submit(plan, input, std::span(s.hidden));
  for (;;)
    if (auto result = next_done(std::chrono::seconds(1))) return {s.hidden, std::move(*result)};
}

void Engine::feed_back(const StepResult& result) {
  for (const SampledTokens& from : result.sequences) {
    if (from.slot >= state_->limits.slots || from.tokens.empty()) continue;
    Sequence& sequence = state_->sequences[from.slot];
    if (sequence.sampled_in == result.step) sequence.sampled = from.tokens.back().id;
  }
}

bool Engine::resolve(StepPlan& plan) const {
  if (state_->device_feeds_back()) return true;
  bool all = true;
  for (SeqStep& step : plan.sequences) {
    if (!step.fed_back()) continue;
    const Sequence& sequence = state_->fed_back(step);
    if (sequence.sampled)
      step.tokens = {*sequence.sampled};
    else
      all = false;
  }
  return all;
}

void Engine::reset() {
  state_->device->reset();
  state_->in_flight.clear();
  if (state_->tier) state_->tier->clear();
  for (uint32_t slot = 0; slot < state_->limits.slots; slot++) {
    state_->sequences[slot] = {};
    state_->tables->clear(slot);
  }
}

void Engine::bind_thread(std::span<const pthread_t> bringing_work) {
  state_->device->enter_thread(bringing_work);
}
bool Engine::first() const { return state_->shape.first; }
bool Engine::last() const { return state_->shape.last; }
uint32_t Engine::kv_blocks() const { return state_->limits.kv_blocks; }
uint32_t Engine::kv_places() const { return state_->tier ? state_->tier->places() : 0; }
const std::optional<KvPool>& Engine::kv_pool() const { return state_->pool; }
int64_t Engine::rows_per_step() const { return state_->limits.rows_per_step; }
int64_t Engine::hidden() const { return state_->shape.hidden; }
HiddenForm Engine::hidden_form() const { return state_->facts.hidden_form; }
uint32_t Engine::depth() const { return state_->facts.depth; }
uint32_t Engine::in_flight() const { return static_cast<uint32_t>(state_->in_flight.size()); }
void Engine::keep_logits(bool keep) { state_->keep_logits = keep; }
std::span<const float> Engine::logits() const { return state_->logits; }
void Engine::record_routing(bool record) { state_->record_routing = record; }
std::span<const int32_t> Engine::routing() const { return state_->routing; }
void Engine::replay_routing(std::span<const int32_t> routing) { state_->replayed = routing; }
int32_t Engine::hint() const { return state_->hint; }
float Engine::took_us() const { return state_->took_us; }
EdgeKey Engine::offer_edge() { return state_->device->offer_edge(); }
void Engine::join_edge(const EdgeKey& key) { state_->device->join_edge(key); }
EdgeStatus Engine::edge_status(EdgeEnd end) { return state_->device->edge_status(end); }
void Engine::end_edge(EdgeEnd end) { state_->device->end_edge(end); }
std::string_view Engine::variant() const { return state_->facts.variant; }

/// A device that does not read ahead itself gets weights when they are in memory.
void Engine::State::load(const Progress& progress) {
  const WeightPages pages(weights);
  const uint64_t total = pages.bytes();
  if (memory_bytes > 0 && total > memory_bytes)
    throw InputError("these layers' weights take " + std::to_string(total >> 20) +
                         " MiB, and the device has " + std::to_string(memory_bytes >> 20) + " MiB to give",
                     "memory", "spread the model over more stages, or free some");
  uint64_t done = 0;
  if (!facts.reads_ahead) pages.announce();
  if (progress) progress(0, total);
  for (size_t i = 0; i <= pages.layers(); i++) {
    if (!facts.reads_ahead) pages.fetch(i);
    device->load(i < pages.layers() ? static_cast<int64_t>(i) : -1, pages.parts(i));
    done += pages.bytes(i);
    if (progress) progress(done, total);
  }
  if (!facts.copies_weights) return;
  checkpoint->release(weights.range);
  weights = {};
}

uint32_t Engine::State::blocks_that_fit(const DeviceLimits& given) {
  if (pool->memory_bytes == 0)
    throw InputError("the device does not say how much memory there is", "KV blocks",
                     "set pipeline.kv_tokens to what stages shall keep");
  pool->needs = device->needs(given);
  const Rotations rotary = rotations.view();
  pool->host_bytes = rotary.cosines.size_bytes() + rotary.sines.size_bytes();
  pool->useful_blocks = useful_kv_blocks(given);
  if (limits.kv_blocks_before > 0)
    pool->useful_blocks = std::min<uint64_t>(pool->useful_blocks, limits.kv_blocks_before);
  if (pool->blocks() < kv_blocks_min)
    throw InputError("no memory is left for keys and values: " + pool->text(), "KV blocks",
                     "free some, or serve a smaller model");
  return pool->blocks();
}

void Engine::State::open_tier(const DeviceLimits& given) {
  if (!facts.moves_blocks)
    throw InputError("the device " + std::string(facts.variant) + " does not move KV blocks",
                     limits.second_tier.host_bytes > 0 ? "stage.kv_host_bytes" : "stage.kv_disk_bytes",
                     "set it to 0");
  tier.emplace(limits.second_tier, device->needs(given).kv_block_bytes);
  if (const auto memory = tier->host_memory(); !memory.empty()) device->page_lock(memory);
}

/// The sequence that a plan refers to.
const Sequence& Engine::State::sequence(uint32_t slot) const {
  if (slot >= limits.slots) refuse("slot " + to_string(slot) + " of " + to_string(limits.slots));
  if (!sequences[slot].started) refuse("slot " + to_string(slot) + " holds no sequence");
  return sequences[slot];
}

/// The sequence whose latest token that step goes on with.
const Sequence& Engine::State::fed_back(const SeqStep& step) const {
  const Sequence& sequence = this->sequence(step.slot);
  if (!sequence.sampled_in || step.first_position != sequence.length)
    refuse("slot " + to_string(step.slot) +
           " continues with the token it sampled, but none was for position " +
           to_string(step.first_position));
  return sequence;
}

void Engine::State::start(const SeqStart& start) {
  if (start.slot >= limits.slots)
    refuse("start of slot " + to_string(start.slot) + " of " + to_string(limits.slots));
  if (start.prompt_tokens == 0 || start.prompt_tokens > limits.context_tokens)
    refuse("prompt of " + to_string(start.prompt_tokens) + " tokens in slot " + to_string(start.slot) +
           ", context is " + to_string(limits.context_tokens));
  if (const auto why = refuse_sampling(start.sampling, shape.vocab)) refuse(*why);
  check_cached(start);
  sequences[start.slot] = {.started = true, .length = start.cached_tokens, .cached = start.cached_tokens};
  tables->clear(start.slot);
}

void Engine::State::check_cached(const SeqStart& start) const {
  const std::string who = "slot " + to_string(start.slot);
  if (start.cached_tokens >= limits.context_tokens)
    refuse(who + " begins behind " + to_string(start.cached_tokens) + " cached tokens, context is " +
           to_string(limits.context_tokens));
  const bool has_history = needs_history(start.sampling) || !start.history.empty();
  if (has_history && start.history.size() != start.cached_tokens)
    refuse(who + " begins behind " + to_string(start.cached_tokens) + " cached tokens with a history of " +
           to_string(start.history.size()));
  for (int32_t id : start.history)
    if (id < 0 || id >= shape.vocab)
      refuse("the history of " + who + " has token " + to_string(id) + ", vocabulary is " +
             to_string(shape.vocab));
}

void Engine::State::change(const BlockChange& change) {
  sequence(change.slot);
  tables->map(change);
}

/// Whoever decided it knows that all steps before have filled the block, or that none of them reads it again.
void Engine::State::move(const BlockMove& move) {
  const uint32_t places = tier ? tier->places() : 0;
  if (move.block >= limits.kv_blocks || move.place >= places)
    refuse("block " + to_string(move.block) + " of " + to_string(limits.kv_blocks) + " moves, place " +
           to_string(move.place) + " of " + to_string(places));
  if (move.way == BlockMove::Way::save) return tier->save(*device, move.block, move.place);
  if (!tier->holds(move.place))
    refuse("block " + to_string(move.block) + " comes from place " + to_string(move.place) +
           ", which holds none");
  tier->load(*device, move.place, move.block);
}

void Engine::State::check(const StepPlan& plan, const HiddenIn& input, const HiddenOut& output) const {
  if (plan.rows() > limits.rows_per_step)
    refuse(to_string(plan.rows()) + " rows, rows_per_step is " + to_string(limits.rows_per_step));
  const auto bytes = [&](HiddenForm form) { return plan.rows() * shape.hidden * value_bytes(form); };
  if (input.form == HiddenForm::edge && device->edge_status(EdgeEnd::from_before).state != EdgeState::up)
    refuse("hidden states by an edge that is not there");
  if (input.form == HiddenForm::bf16 && input.form != facts.hidden_form)
    refuse("hidden states in a form that this device does not take");
  const int64_t expected = shape.first ? 0 : bytes(input.form);
  if (static_cast<int64_t>(input.bytes.size()) != expected)
    refuse("input of " + to_string(input.bytes.size()) + " bytes, " + to_string(expected) + " expected for " +
           to_string(plan.rows()) + " rows");
  // Our own.
  assert(static_cast<int64_t>(output.bytes.size()) == (shape.last ? 0 : bytes(output.form)));
  assert(output.form != HiddenForm::bf16 || output.form == facts.hidden_form);
  for (const SeqStep& step : plan.sequences) check(step);
  for (uint32_t slot : plan.ends) sequence(slot);
}

void Engine::State::check(const SeqStep& step) const {
  const std::string who = "slot " + to_string(step.slot);
  const Sequence& sequence = this->sequence(step.slot);
  if (step.tokens.empty()) refuse(who + " brings no token");
  // At an earlier position than expected a sequence is rewritten: a replay, or a draft that was not accepted.
  if (step.first_position > sequence.length)
    refuse(who + " continues at position " + to_string(step.first_position) + ", its cache ends at " +
           to_string(sequence.length));
  // Others may read them, too.
  if (step.first_position < sequence.cached)
    refuse(who + " writes position " + to_string(step.first_position) + ", it began behind " +
           to_string(sequence.cached) + " cached tokens");
  const int64_t end = int64_t{step.first_position} + static_cast<int64_t>(step.tokens.size());
  if (end > limits.context_tokens)
    refuse(who + " reaches " + to_string(end) + " tokens, context is " + to_string(limits.context_tokens));
  if (step.sampled_rows > step.tokens.size())
    refuse(who + " samples " + to_string(step.sampled_rows) + " of " + to_string(step.tokens.size()) +
           " rows");
  if (device_feeds_back() && step.fed_back()) {
    fed_back(step);
    return;
  }
  for (int32_t id : step.tokens)
    if (id < 0 || id >= shape.vocab)
      refuse(who + " brings token " + to_string(id) + ", vocabulary is " + to_string(shape.vocab));
}

/// A device trusts what it is told to replay.
void Engine::State::check_replayed(int64_t rows) const {
  if (replayed.empty()) return;
  if (replayed.size() != routing_values(rows))
    refuse("a routing of " + to_string(replayed.size()) + " values is replayed, " +
           to_string(routing_values(rows)) + " are of " + to_string(rows) + " rows");
  const auto chosen = static_cast<size_t>(shape.routing.chosen);
  for (size_t i = 0; i < replayed.size(); i++) {
    const int32_t expert = replayed[i], lowest = i % chosen == 0 ? 0 : replayed[i - 1] + 1;
    if (expert < lowest || expert >= shape.routing.experts)
      refuse("expert " + to_string(expert) + " is replayed where " + to_string(lowest) + " to " +
             to_string(shape.routing.experts - 1) + " may follow");
  }
}

/// Rows of all sequences, one after the other.
void Engine::State::lay_out(const StepPlan& plan) {
  ids.clear(), rows.clear();
  for (const SeqStep& step : plan.sequences) {
    const int64_t count = static_cast<int64_t>(step.tokens.size()), end = step.first_position + count;
    claim_blocks(step, tables->table(step.slot, end));
    rows.push_back(
        {step.slot, static_cast<int64_t>(ids.size()), count, step.first_position, step.sampled_rows});
    ids.insert(ids.end(), step.tokens.begin(), step.tokens.end());

    Sequence& sequence = this->sequence(step.slot);
    if (sequence.run == runs) refuse("slot " + to_string(step.slot) + " comes twice");
    sequence.run = runs;
    sequence.length = end;
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

}  // namespace convoy::gpu
