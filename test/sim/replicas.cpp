// Replicas of a model behind the router's production choice: each with a scheduler and a chain of stages of
// its own, clients that ask again as soon as their answer ends, and a replica that dies for a while. The
// router knows what they said last, which is up to a quarter of a second old.

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <deque>
#include <limits>
#include <map>
#include <memory>

#include "actors/balance.hpp"
#include "actors/router.hpp"
#include "test/patience.hpp"
#include "test/sim/world.hpp"

namespace {

using namespace sim;
using namespace convoy;
using actors::Scheduler;

constexpr double say_us = 250'000, second_us = 1'000'000;
const actors::Replicas::Time start{std::chrono::hours(1)};

struct Crowd {
  uint32_t clients, prompt, answer;  // tokens on average: where all are alike, steps are fuller than any are
};

class Site {
 public:
  /// slowness: of each replica.
  Site(uint64_t seed, Crowd crowd, const std::vector<double>& slowness) : random_(seed), crowd_(crowd) {
    limits_.stages = 2;
    limits_.sequences = 32;
    limits_.queue = 64;
    limits_.context_tokens = 1'000;
    limits_.vocab = vocab;
    limits_.kv_blocks = 512;
    for (size_t i = 0; i < slowness.size(); ++i) {
      Costs costs = cpu_costs;
      costs.fixed_us *= slowness[i];
      costs.per_row_us *= slowness[i];
      replicas_.push_back(std::make_unique<Replica>(limits_, costs, random_.between(1, 1'000'000)));
      router_.add(std::to_string(i), "model");
      say(i);
    }
  }

  /// That replica computes nothing meanwhile, and its stages hold nothing afterwards.
  void dies(size_t replica, double from_us, double until_us) {
    dying_ = replica, dies_us_ = from_us, back_us_ = until_us;
  }

  void run(double until_us) {
    for (uint32_t i = 0; i < crowd_.clients; ++i) ask();
    for (double next_say_us = say_us; now_us_ < until_us;) {
      size_t first = replicas_.size();
      for (size_t i = 0; i < replicas_.size(); ++i) {
        plan(i);
        if (alive(i) && !replicas_[i]->flying.empty() &&
            (first == replicas_.size() || replicas_[i]->flying[0].first < replicas_[first]->flying[0].first))
          first = i;
      }
      const double step_us = first < replicas_.size() ? replicas_[first]->flying[0].first : until_us;
      const double next_us = std::min({step_us, next_say_us, until_us});
      change_fate(next_us);
      now_us_ = std::max(now_us_, next_us);
      if (now_us_ == next_say_us) {
        for (size_t i = 0; i < replicas_.size(); ++i) say(i);
        next_say_us += say_us;
      } else if (first < replicas_.size() && alive(first) && now_us_ == step_us) {
        commit(first);
      }
    }
  }

  /// Requests that each replica was given, finished, and that nobody took.
  std::vector<uint64_t> given() const {
    return numbers([](const Replica& r) { return r.given; });
  }
  std::vector<uint64_t> finished() const {
    return numbers([](const Replica& r) { return r.finished; });
  }
  double mean_ms(size_t replica) const {
    return replicas_[replica]->took_us / 1000 / static_cast<double>(replicas_[replica]->finished);
  }
  uint64_t given_while_dead() const { return given_while_dead_; }
  uint64_t lost() const { return lost_; }
  uint64_t open() const {
    uint64_t open = 0;
    for (const auto& replica : replicas_) open += replica->open;
    return open;
  }

 private:
  struct Replica {
    Replica(const actors::SchedulerLimits& limits, const Costs& costs, uint64_t seed)
        : scheduler(limits, "secret"),
          stages(limits),
          times(limits.stages, costs, seed),
          step_us(limits.stages * (costs.fixed_us + actors::balance_rows * costs.per_row_us)) {}
    Scheduler scheduler;
    Stages stages;
    ChainTimes times;
    std::deque<std::pair<double, gpu::StepResult>> flying;
    const double step_us;                           // of balance_rows rows
    std::map<actors::SequenceId, double> asked_us;  // of those that run or wait
    double took_us = 0;                             // of all that finished
    uint64_t given = 0, finished = 0, open = 0, epoch = 1;
    bool dead = false;
  };
  template <class Of>
  std::vector<uint64_t> numbers(Of of) const {
    std::vector<uint64_t> numbers;
    for (const auto& replica : replicas_) numbers.push_back(of(*replica));
    return numbers;
  }
  Scheduler::Micros now() const { return Scheduler::Micros(static_cast<int64_t>(now_us_)); }
  bool alive(size_t i) const { return !replicas_[i]->dead; }

  void change_fate(double until_us) {
    if (dying_ >= replicas_.size()) return;
    Replica& r = *replicas_[dying_];
    if (!r.dead && now_us_ < dies_us_ && until_us >= dies_us_) {
      now_us_ = dies_us_;
      r.dead = true;
      r.flying.clear();
      lost_ += r.scheduler.begin_epoch(now()).lost.size();
      say(dying_);  // at once, as a pipeline that loses a stage
    } else if (r.dead && until_us >= back_us_) {
      now_us_ = back_us_;
      r.dead = false;
      r.stages = Stages(limits_);
      say(dying_);
    }
  }

  void say(size_t i) {
    const Scheduler& s = replicas_[i]->scheduler;
    router_.heard(std::to_string(i),
                  {.accepting = true,
                   .ready = alive(i),
                   .overloaded = s.full(),
                   .running = static_cast<uint32_t>(s.running()),
                   .waiting = static_cast<uint32_t>(s.waiting()),
                   .wait_estimate_ms = static_cast<uint32_t>(s.wait_estimate().count() / 1000),
                   .step_us = replicas_[i]->step_us},
                  "", time());
  }
  actors::Replicas::Time time() const {
    return start + std::chrono::microseconds(static_cast<int64_t>(now_us_));
  }

  void ask() {
    const auto choice = router_.choose("model", 0, time());
    BOOST_REQUIRE(std::holds_alternative<size_t>(choice));
    Replica& r = *replicas_[std::get<size_t>(choice)];
    actors::NewSequence s;
    s.prompt = random_tokens(random_, random_.between(1, 2 * crowd_.prompt));
    s.max_tokens = static_cast<uint32_t>(random_.between(1, 2 * crowd_.answer));
    s.sampling.seed = ++asked_;
    BOOST_REQUIRE(!r.scheduler.refuse(s) && !r.scheduler.full());
    r.asked_us[r.scheduler.admit(std::move(s), now())] = now_us_;
    ++r.given, ++r.open;
    given_while_dead_ += r.dead;
  }

  void plan(size_t i) {
    Replica& r = *replicas_[i];
    if (r.dead) return;
    while (auto plan = r.scheduler.plan(now())) {
      auto result = r.stages.run(*plan);
      r.flying.emplace_back(r.times.run(*plan, now_us_), std::move(result));
    }
  }

  void commit(size_t i) {
    Replica& r = *replicas_[i];
    auto result = std::move(r.flying.front().second);
    r.flying.pop_front();
    for (const auto& progress : r.scheduler.commit(std::move(result), now()))
      if (progress.finish != actors::FinishReason::none) {
        ++r.finished, --r.open;
        const auto asked = r.asked_us.find(progress.id);
        r.took_us += now_us_ - asked->second;
        r.asked_us.erase(asked);
        ask();
      }
  }

  Random random_;
  const Crowd crowd_;
  actors::SchedulerLimits limits_;
  actors::Replicas router_{std::chrono::milliseconds(1000)};
  std::vector<std::unique_ptr<Replica>> replicas_;
  double now_us_ = 0, dies_us_ = 0, back_us_ = 0;
  size_t dying_ = std::numeric_limits<size_t>::max();
  uint64_t asked_ = 0, given_while_dead_ = 0, lost_ = 0;
};

uint64_t sum(const std::vector<uint64_t>& numbers) {
  uint64_t sum = 0;
  for (const uint64_t n : numbers) sum += n;
  return sum;
}

const std::vector<Crowd> replica_crowds{{24, 100, 40}, {8, 20, 100}, {2, 50, 10}, {48, 10, 20}};
const uint64_t replica_seeds = convoy::test::sanitized ? 1 : 5;

}  // namespace

BOOST_AUTO_TEST_CASE(replicas_that_are_alike_get_alike_and_do_more_together) {
  for (const Crowd& crowd : replica_crowds)
    for (uint64_t seed = 1; seed <= replica_seeds; ++seed)
      BOOST_TEST_CONTEXT(crowd.clients << " clients, seed " << seed) {
        Site one(seed, crowd, {1}), two(seed, crowd, {1, 1});
        one.run(60 * second_us);
        two.run(60 * second_us);
        const auto given = two.given();
        BOOST_CHECK_LE(std::max(given[0], given[1]),
                       1.25 * static_cast<double>(std::min(given[0], given[1])));
        BOOST_CHECK_GE(static_cast<double>(sum(two.finished())),
                       1.1 * static_cast<double>(sum(one.finished())));
        BOOST_CHECK_EQUAL(two.open(), crowd.clients);  // everybody waits for one answer
      }
}

// By what replicas have to do alone, an answer took about three times as long on the slower one.
BOOST_AUTO_TEST_CASE(answers_take_about_as_long_on_a_slower_replica_which_gets_less) {
  for (const Crowd& crowd : {replica_crowds[0], replica_crowds[3]})
    for (uint64_t seed = 1; seed <= replica_seeds; ++seed)
      BOOST_TEST_CONTEXT(crowd.clients << " clients, seed " << seed) {
        Site alone(seed, crowd, {1}), with_slow(seed, crowd, {1, 3});
        alone.run(60 * second_us);
        with_slow.run(60 * second_us);
        const auto given = with_slow.given(), finished = with_slow.finished();
        BOOST_TEST_MESSAGE("finished " << finished[0] << " + " << finished[1] << ", alone "
                                       << sum(alone.finished()) << ", in " << with_slow.mean_ms(0) << " and "
                                       << with_slow.mean_ms(1) << " ms");
        BOOST_CHECK_GT(given[0], given[1]);
        BOOST_CHECK_GE(sum(finished), sum(alone.finished()));
        BOOST_CHECK_LE(with_slow.mean_ms(1), 1.5 * with_slow.mean_ms(0));
      }
}

BOOST_AUTO_TEST_CASE(while_a_replica_is_dead_the_other_gets_everything_and_no_request_is_lost) {
  for (const Crowd& crowd : {replica_crowds[0], replica_crowds[1], replica_crowds[2]})
    for (uint64_t seed = 1; seed <= replica_seeds; ++seed)
      BOOST_TEST_CONTEXT(crowd.clients << " clients, seed " << seed) {
        Site site(seed, crowd, {1, 1});
        site.dies(1, 20 * second_us, 30 * second_us);
        site.run(60 * second_us);
        BOOST_CHECK_EQUAL(site.given_while_dead(), 0u);
        BOOST_CHECK_EQUAL(site.lost(), 0u);
        BOOST_CHECK_EQUAL(site.open(), crowd.clients);
      }
}
