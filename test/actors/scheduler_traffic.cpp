// Scheduler under random traffic: what holds in every step, whatever comes.

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <deque>
#include <map>
#include <random>
#include <set>

#include "scheduler_rig.hpp"

using namespace scheduler_rig;

// Random admissions, cancellations and results: no block or slot is ever held twice, positions are
// contiguous, every sequence ends with exactly the tokens that it should have.
BOOST_AUTO_TEST_CASE(random_traffic_keeps_every_invariant) {
  for (uint32_t seed = 1; seed <= 200; ++seed) {
    BOOST_TEST_CONTEXT("seed " << seed) {
      std::mt19937 random(seed);
      auto draw = [&](uint32_t n) { return random() % n; };
      auto l = limits();
      l.stages = 1 + draw(3);
      l.kv_blocks = 8 + draw(20);
      Scheduler s(l);
      std::deque<gpu::StepPlan> flying;
      std::map<uint32_t, uint32_t> seen;              // positions a slot has been given
      std::map<uint32_t, std::set<uint32_t>> blocks;  // of a slot
      std::map<uint32_t, uint32_t> holders;           // of a block: the slot
      std::map<uint32_t, uint64_t> started;           // the step in which a slot got its sequence
      std::map<actors::SequenceId, uint32_t> expected, got;
      for (int turn = 0; turn < 400; ++turn) {
        if (draw(40) == 0) s.set_step_cost({static_cast<float>(draw(3000)), static_cast<float>(draw(300))});
        if (turn < 300 && draw(3) == 0) {
          const auto r = request(1 + draw(300), 1 + draw(30));
          if (!s.refuse(r) && !s.full()) expected[s.admit(r)] = r.max_tokens;
        }
        if (draw(15) == 0) s.request_canary();
        if (draw(20) == 0 && !expected.empty()) {
          auto victim = std::next(expected.begin(), draw(static_cast<uint32_t>(expected.size())));
          s.cancel(victim->first);
          got.erase(victim->first);
          expected.erase(victim);
        }
        if (auto plan = s.plan()) {
          BOOST_REQUIRE_LE(plan->rows(), l.rows());
          for (const auto& start : plan->starts) {
            // A preempted one finds its own blocks again.
            BOOST_REQUIRE(seen.emplace(start.slot, start.cached_tokens).second);
            started[start.slot] = plan->step;
          }
          for (const auto& c : plan->block_changes) {
            BOOST_REQUIRE_LT(c.block, l.kv_blocks);
            BOOST_REQUIRE_EQUAL(c.index, blocks[c.slot].size());
            blocks[c.slot].insert(c.block);
            const auto [holder, fresh] = holders.emplace(c.block, c.slot);
            if (!fresh)  // whoever had it has ended by this step
              BOOST_REQUIRE_MESSAGE(
                  std::count(plan->ends.begin(), plan->ends.end(), holder->second) == 1,
                  "block " << c.block << " is held by slots " << holder->second << " and " << c.slot);
            holder->second = c.slot;
          }
          for (const auto& q : plan->sequences) {
            BOOST_REQUIRE_EQUAL(q.first_position, seen.at(q.slot));
            // Two decodes of a sequence at most: the one that computes its token, and the one that waits for
            // it.
            const auto decodes = std::count_if(flying.begin(), flying.end(), [&](const auto& step) {
              return step.step >= started.at(q.slot) &&
                     std::any_of(step.sequences.begin(), step.sequences.end(), [&](const auto& other) {
                       return other.slot == q.slot && other.sampled_rows > 0;
                     });
            });
            BOOST_REQUIRE_EQUAL(decodes, q.tokens.at(0) == gpu::token_fed_back ? 1 : 0);
            seen[q.slot] += static_cast<uint32_t>(q.tokens.size());
            BOOST_REQUIRE_LE(seen[q.slot], blocks[q.slot].size() * gpu::kv_block_tokens);
          }
          for (const uint32_t slot : plan->ends) {
            BOOST_REQUIRE_EQUAL(seen.erase(slot), 1u);
            blocks.erase(slot);
            std::erase_if(holders, [slot](const auto& held) { return held.second == slot; });
          }
          flying.push_back(std::move(*plan));
        }
        BOOST_REQUIRE_LE(flying.size(), l.steps_in_flight());
        if (!flying.empty() && draw(2)) {
          for (const auto& p : s.commit(answer(flying.front(), 9))) {
            if (p.canary) continue;
            BOOST_REQUIRE_EQUAL(p.first_index, got[p.id]);
            ++got[p.id];
            if (p.finish == FinishReason::none) continue;
            BOOST_REQUIRE_EQUAL(got[p.id], expected.at(p.id));
            expected.erase(p.id);
          }
          flying.pop_front();
        }
      }
      for (int turn = 0; turn < 20000 && (s.running() || s.waiting() || s.in_flight()); ++turn) {
        if (auto plan = s.plan()) flying.push_back(std::move(*plan));
        if (flying.empty()) continue;
        for (const auto& p : s.commit(answer(flying.front(), 9)))
          if (p.canary)
            continue;
          else if (++got[p.id]; p.finish != FinishReason::none)
            expected.erase(p.id);
        flying.pop_front();
      }
      BOOST_CHECK(expected.empty());
      BOOST_CHECK_EQUAL(s.kv_blocks_used(), 0u);
    }
  }
}
