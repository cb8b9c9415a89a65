// The second tier of KV blocks: what it keeps, and the order in which steps move blocks there and back.

#include <boost/test/unit_test.hpp>
#include <deque>
#include <random>

#include "actors/schedule/kv_cache.hpp"
#include "scheduler_rig.hpp"

using namespace scheduler_rig;
using actors::BlockKey;
using actors::KvCache;
using actors::KvTier;

using Moves = std::vector<gpu::BlockMove>;

namespace {

constexpr auto save = gpu::BlockMove::Way::save, load = gpu::BlockMove::Way::load;

BlockKey key(uint64_t n) { return {n, n}; }

/// A block that can be found under that name, and that nobody holds.
uint32_t leave(KvCache& cache, uint64_t name) {
  const uint32_t block = cache.take();
  cache.publish(block, key(name));
  cache.release(block);
  return block;
}

std::vector<int32_t> counting(size_t tokens, int32_t first) {
  std::vector<int32_t> all(tokens);
  for (size_t i = 0; i < tokens; ++i) all[i] = (first + static_cast<int32_t>(i) * 7) % 97;
  return all;
}

actors::NewSequence one(std::vector<int32_t> prompt, uint32_t max_tokens = 1) {
  actors::NewSequence s;
  s.prompt = std::move(prompt);
  s.max_tokens = max_tokens;
  return s;
}

/// One stage that keeps of each block only who wrote it: a hash of the tokens up to its end.
struct FakeStage {
  explicit FakeStage(const SchedulerLimits& l) : blocks(l.kv_blocks), places(l.kv_tier.places) {}
  std::vector<uint64_t> blocks, places;
  std::map<uint32_t, std::map<uint32_t, uint32_t>> tables;  // by slot

  void run(const gpu::StepPlan& plan) {
    for (const auto& start : plan.starts) tables[start.slot].clear();
    for (const auto& change : plan.block_changes) tables[change.slot][change.index] = change.block;
    for (const auto& move : plan.moves)
      if (move.way == save)
        places.at(move.place) = blocks.at(move.block);
      else
        blocks.at(move.block) = places.at(move.place);
    for (const auto& step : plan.sequences)
      for (size_t i = 0; i < step.tokens.size(); ++i) write(step, i);
  }

 private:
  void write(const gpu::SeqStep& step, size_t row) {
    const auto position = step.first_position + static_cast<uint32_t>(row);
    const uint32_t index = position / gpu::kv_block_tokens;
    uint64_t& block = blocks.at(tables[step.slot].at(index));
    if (position % gpu::kv_block_tokens == 0)
      block = index == 0 ? 1 : blocks.at(tables[step.slot].at(index - 1));
    block = block * 0x9e3779b97f4a7c15 + static_cast<uint64_t>(step.tokens[row]);
  }
};

/// What the block that ends behind so many tokens holds.
uint64_t written_by(const std::vector<int32_t>& tokens, size_t end) {
  uint64_t hash = 1;
  for (size_t i = 0; i < end; ++i) hash = hash * 0x9e3779b97f4a7c15 + static_cast<uint64_t>(tokens[i]);
  return hash;
}

/// A scheduler and its stage, one request at a time.
struct Rig {
  explicit Rig(SchedulerLimits l) : limits(l), scheduler(l), stage(l) {}
  SchedulerLimits limits;
  Scheduler scheduler;
  FakeStage stage;
  std::vector<Moves> moves;  // of each step of the latest request

  void begin_epoch(uint32_t places) {
    scheduler.begin_epoch(scheduler.now);
    BOOST_REQUIRE(scheduler.set_kv_blocks(limits.kv_blocks, places, scheduler.now).empty());
    limits.kv_tier.places = places;
    stage = FakeStage(limits);
  }

  /// Runs it until it ends; its facts. What it begins behind has to be what its own tokens would have made.
  actors::SequenceFacts run(const actors::NewSequence& sequence) {
    moves.clear();
    const auto id = scheduler.admit(sequence);
    for (int turn = 0; turn < 1000; ++turn) {
      const auto plan = scheduler.plan();
      BOOST_REQUIRE(plan);
      moves.push_back(plan->moves);
      stage.run(*plan);
      for (const auto& start : plan->starts) check(start, sequence.prompt);
      for (const auto& p : scheduler.commit(answer(*plan, 9)))
        if (p.id == id && p.finish != FinishReason::none) return p.facts;
    }
    BOOST_FAIL("it does not end");
    return {};
  }

 private:
  void check(const gpu::SeqStart& start, const std::vector<int32_t>& tokens) {
    for (uint32_t block = 0; block < start.cached_tokens / gpu::kv_block_tokens; ++block)
      BOOST_REQUIRE_EQUAL(stage.blocks.at(stage.tables[start.slot].at(block)),
                          written_by(tokens, (block + 1) * gpu::kv_block_tokens));
  }
};

/// Nine blocks for sequences.
SchedulerLimits tiered(uint32_t places) {
  auto l = limits();
  l.stages = 1;
  l.slack = 0;
  l.kv_blocks = 10;
  l.kv_tier.places = places;
  return l;
}

}  // namespace

BOOST_AUTO_TEST_CASE(the_second_tier_forgets_what_was_used_longest_ago) {
  KvTier tier(2);
  BOOST_TEST(tier.take(key(1)) == 0u);
  BOOST_TEST(tier.take(key(2)) == 1u);
  BOOST_TEST(tier.find(key(1)).value() == 0u);
  BOOST_TEST(tier.take(key(3)) == 1u);
  BOOST_TEST(!tier.has(key(2)));
  BOOST_TEST(!tier.find(key(2)));
  BOOST_TEST(tier.has(key(1)));
  BOOST_TEST(tier.take(key(2)) == 0u);
  BOOST_TEST(!KvTier(0).exists());
}

BOOST_AUTO_TEST_CASE(a_block_that_is_taken_is_saved_if_it_could_be_found) {
  KvCache cache(2, {.places = 4});
  const uint32_t a = leave(cache, 1), b = leave(cache, 2);
  BOOST_TEST(cache.take_moves().empty());
  BOOST_TEST(cache.take() == a);
  BOOST_TEST(!cache.find(key(1)));
  BOOST_TEST(cache.kept(key(1)));
  BOOST_TEST(!cache.kept(key(2)));
  BOOST_TEST((cache.take_moves() == Moves{{save, a, 0}}));
  BOOST_TEST(cache.take_moves().empty());
  cache.release(a);  // not published: nothing of it is kept
  BOOST_TEST(cache.take() == a);
  BOOST_TEST(cache.take_moves().empty());
  BOOST_TEST(cache.forgotten() == 0u);
  BOOST_TEST(cache.find(key(2)).value() == b);
}

BOOST_AUTO_TEST_CASE(without_a_second_tier_a_block_that_is_taken_is_forgotten) {
  KvCache cache(1);
  leave(cache, 1);
  cache.take();
  BOOST_TEST(!cache.kept(key(1)));
  BOOST_TEST(!cache.load(0, key(1)));
  BOOST_TEST(cache.take_moves().empty());
  BOOST_TEST(cache.forgotten() == 1u);
}

BOOST_AUTO_TEST_CASE(what_is_kept_is_found_once_it_is_loaded_and_is_not_saved_again) {
  KvCache cache(2, {.places = 4});
  const uint32_t a = leave(cache, 1);
  cache.take();
  BOOST_TEST(cache.take() == a);
  cache.release(a);
  const uint32_t fresh = cache.take();
  BOOST_TEST(!cache.load(fresh, key(9)));
  BOOST_TEST(cache.load(fresh, key(1)));
  BOOST_TEST(cache.find(key(1)).value() == fresh);
  BOOST_TEST(cache.holders(fresh) == 2u);
  BOOST_TEST((cache.take_moves() == Moves{{save, a, 0}, {load, fresh, 0}}));
  cache.release(fresh), cache.release(fresh);
  BOOST_TEST(cache.take() == fresh);  // still kept
  BOOST_TEST(cache.take_moves().empty());
  BOOST_TEST(cache.kept(key(1)));
  BOOST_TEST(cache.forgotten() == 0u);
}

BOOST_AUTO_TEST_CASE(a_place_that_is_used_again_is_loaded_from_before_it_is_saved_to) {
  KvCache cache(3, {.places = 1});
  const uint32_t own = cache.take();
  const uint32_t a = leave(cache, 1), b = leave(cache, 2);
  BOOST_TEST(cache.take() == a);
  BOOST_TEST(cache.load(own, key(1)));
  BOOST_TEST(cache.take() == b);  // takes the only place
  BOOST_TEST((cache.take_moves() == Moves{{save, a, 0}, {load, own, 0}, {save, b, 0}}));
  BOOST_TEST(!cache.kept(key(1)));
  BOOST_TEST(cache.find(key(1)).value() == own);
  BOOST_TEST(cache.kept(key(2)));
}

BOOST_AUTO_TEST_CASE(one_step_moves_so_many_blocks_at_most) {
  constexpr uint32_t most = 5;
  KvCache cache(most + 2, {.places = 2 * most, .moves_per_step = most});
  for (uint32_t i = 0; i < most + 2; ++i) leave(cache, i);
  for (uint32_t i = 0; i < most + 1; ++i) cache.take();
  BOOST_TEST(cache.forgotten() == 1u);
  BOOST_TEST(cache.kept(key(most - 1)));
  BOOST_TEST(!cache.kept(key(most)));
  BOOST_TEST(!cache.load(0, key(1)));  // not now
  BOOST_TEST(cache.kept(key(1)));
  BOOST_TEST(cache.take_moves().size() == most);
  BOOST_TEST(cache.load(0, key(1)));
}

BOOST_AUTO_TEST_CASE(blocks_that_would_be_taken_next_are_saved_ahead_a_few_at_a_time) {
  KvCache cache(20, {.places = 100, .moves_per_step = 16});
  std::vector<uint32_t> blocks;
  for (uint64_t i = 0; i < 5; ++i) blocks.push_back(leave(cache, i));
  for (int i = 0; i < 15; ++i) cache.take();  // the empty ones
  cache.save_ahead();
  BOOST_TEST((cache.take_moves() == Moves{{save, blocks[0], 0}, {save, blocks[1], 1}}));
  BOOST_TEST(cache.find(key(0)).value() == blocks[0]);  // still there
  cache.save_ahead();
  cache.save_ahead();
  cache.save_ahead();
  BOOST_TEST(cache.take_moves().size() == 3u);
  for (int i = 0; i < 4; ++i) cache.take();
  BOOST_TEST(cache.take_moves().empty());
  BOOST_TEST(cache.forgotten() == 0u);
}

BOOST_AUTO_TEST_CASE(saving_ahead_comes_to_rest_where_places_are_few) {
  KvCache cache(50, {.places = 7, .moves_per_step = 16});
  for (uint64_t i = 0; i < 50; ++i) leave(cache, i);
  for (int i = 0; i < 7; ++i) cache.save_ahead();
  BOOST_TEST(cache.take_moves().size() == 7u);
  for (int i = 0; i < 7; ++i) cache.save_ahead();
  BOOST_TEST(cache.take_moves().empty());
}

BOOST_AUTO_TEST_CASE(a_prompt_that_takes_more_than_a_step_saves_loses_nothing_that_was_saved_ahead) {
  auto l = tiered(1000);
  l.kv_blocks = 301;
  l.context_tokens = 64 * 300;
  l.prefill_tokens = 64 * 8;
  Rig rig(l);
  const auto first = one(counting(64 * 250, 1)), second = one(counting(64 * 250, 50));
  rig.run(first);
  rig.run(one(counting(64 * 50, 30), 60));  // while it is served, what the first one left is saved
  rig.run(second);                          // 200 blocks at once
  BOOST_TEST(rig.scheduler.kv_cache().forgotten() == 0u);
  BOOST_TEST(rig.run(first).cached_tokens == 64u * 249);
}

BOOST_AUTO_TEST_CASE(a_prompt_that_memory_has_forgotten_begins_behind_what_the_second_tier_kept) {
  Rig rig(tiered(32));
  const auto first = one(counting(300, 1)), second = one(counting(500, 50));
  BOOST_TEST(rig.run(first).cached_tokens == 0u);
  BOOST_TEST(rig.run(second).cached_tokens ==
             0u);  // eight blocks: takes three of those that the first one left
  BOOST_REQUIRE(!rig.moves.empty());
  BOOST_TEST(rig.moves[0].size() == 4u);  // those three, before the step that writes them, and the next one
  BOOST_TEST(std::ranges::all_of(rig.moves[0], [](const auto& move) { return move.way == save; }));
  BOOST_TEST(rig.scheduler.counters().saved_blocks == 4u);
  const auto facts = rig.run(first);
  BOOST_TEST(facts.cached_tokens == 256u);
  BOOST_TEST(std::ranges::count(rig.moves[0], load, &gpu::BlockMove::way) == 3);
  BOOST_TEST(rig.scheduler.counters().loaded_blocks == 3u);
  BOOST_TEST(rig.run(second).cached_tokens == 448u);
}

BOOST_AUTO_TEST_CASE(without_places_the_same_prompts_are_computed_again) {
  Rig rig(tiered(0));
  rig.run(one(counting(300, 1)));
  rig.run(one(counting(500, 50)));
  BOOST_TEST(rig.run(one(counting(300, 1))).cached_tokens == 64u);
  BOOST_TEST(rig.scheduler.counters().saved_blocks == 0u);
  BOOST_TEST(rig.scheduler.counters().loaded_blocks == 0u);
}

BOOST_AUTO_TEST_CASE(a_prompt_does_not_push_out_what_it_is_about_to_load) {
  // Eight blocks each: 17 places hold those of the first two, and one more.
  Rig rig(tiered(17));
  const auto first = one(counting(530, 1)), second = one(counting(530, 30)), third = one(counting(530, 60));
  rig.run(first);
  rig.run(second);
  rig.run(third);
  BOOST_TEST(rig.run(first).cached_tokens == 512u);  // the third one's push out what the second one left last
  BOOST_TEST(rig.run(second).cached_tokens == 64u);
}

BOOST_AUTO_TEST_CASE(what_is_more_than_one_step_moves_is_loaded_over_several_without_rows) {
  auto l = tiered(600);
  l.kv_blocks = 301;
  l.context_tokens = 64 * 300;
  l.prefill_tokens = 64 * 32;  // 32 blocks a step
  Rig rig(l);
  const auto first = one(counting(64 * 200, 1));
  rig.run(first);
  for (int32_t i = 0; i < 10; ++i)
    rig.run(one(counting(64 * 60, 60 + i)));  // each saves less than a step may
  BOOST_TEST(rig.scheduler.kv_cache().forgotten() == 0u);
  const auto facts = rig.run(first);
  BOOST_TEST(facts.cached_tokens == 64u * 199);
  size_t loaded = 0, steps = 0;
  for (const Moves& moves : rig.moves) {
    BOOST_TEST(moves.size() <= l.kv_tier.moves_per_step);
    const auto count = static_cast<size_t>(std::ranges::count(moves, load, &gpu::BlockMove::way));
    loaded += count, steps += count > 0;
  }
  BOOST_TEST(loaded == 199u);
  BOOST_TEST(steps >= 4u);
}

BOOST_AUTO_TEST_CASE(blocks_that_a_step_is_about_to_load_can_be_lost_by_who_asked_and_found_by_others) {
  Rig rig(tiered(32));
  const auto first = one(counting(300, 1));
  rig.run(first);
  rig.run(one(counting(500, 50)));
  rig.scheduler.cancel(rig.scheduler.admit(first));  // its moves are for the next step
  const auto facts = rig.run(first);
  BOOST_TEST(facts.cached_tokens == 256u);
  size_t loaded = 0;
  for (const Moves& moves : rig.moves)
    loaded += static_cast<size_t>(std::ranges::count(moves, load, &gpu::BlockMove::way));
  BOOST_TEST(loaded == 3u);  // once
}

BOOST_AUTO_TEST_CASE(a_new_epoch_finds_nothing_in_the_second_tier) {
  Rig rig(tiered(32));
  const auto first = one(counting(300, 1));
  rig.run(first);
  rig.run(one(counting(500, 50)));
  rig.begin_epoch(32);
  BOOST_TEST(rig.run(first).cached_tokens == 0u);
  rig.begin_epoch(0);
  rig.run(first);
  rig.run(one(counting(500, 50)));
  BOOST_TEST(rig.run(first).cached_tokens == 64u);
}

BOOST_AUTO_TEST_CASE(prompts_in_any_order_begin_behind_their_own_blocks) {
  for (uint32_t seed = 1; seed <= 20; ++seed) BOOST_TEST_CONTEXT("seed " << seed) {
      std::mt19937 random(seed);
      Rig rig(tiered(1 + random() % 40));
      for (int i = 0; i < 200; ++i)
        rig.run(one(counting(1 + random() % 560, static_cast<int32_t>(random() % 8)), 1 + random() % 3));
      BOOST_TEST(rig.scheduler.counters().saved_blocks > 20u);
      BOOST_TEST(rig.scheduler.kv_blocks_used() == 0u);
    }
}
