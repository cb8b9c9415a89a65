#pragma once
// Tenants: who was served how much, and whose turn it is: a virtual token counter for each (Sheng et al.,
// arXiv 2401.00588). Of those who have something to be done, the one that was served least is next. Whoever
// comes back after a pause starts level with who is being served, so that nobody saves up turns. The
// scheduler owns them. Pure, without a clock.

#include <cstddef>
#include <cstdint>
#include <map>
#include <queue>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace convoy::actors {

using SequenceId = uint64_t;

inline constexpr uint8_t priorities = 10, priority_default = 5;  // 9 goes first
/// What a sampled token counts, in tokens of a prompt: it takes a row of a step that reads all weights.
inline constexpr double decode_weight = 2;

/// Somebody who asks: all sequences of one share one counter.
struct Tenant {
  uint64_t number = 0;           // in the order in which they came
  double served = 0;             // tokens of prompts, and decodes by their weight
  std::set<SequenceId> running;  // by age
  // Of these, whose prompt can go on: what is left of it, the shortest first.
  std::set<std::pair<uint32_t, SequenceId>> prefilling;
  std::set<SequenceId> waiting[priorities];  // by age
  size_t waiting_all = 0;
  bool listed[priorities + 2] = {};  // where Turns has it

  bool idle() const { return running.empty() && waiting_all == 0; }
};

/// Tenants that may have something of a kind to be done.
class Turns {
 public:
  /// Whether a tenant still has.
  using Has = bool (*)(const Tenant& tenant, size_t kind);
  Turns(size_t kind, Has has) : kind_(kind), has_(has) {}

  void add(Tenant& tenant);
  /// The one that was served least of those that have; null: nobody has.
  Tenant* next();
  void clear();

 private:
  struct Turn {
    double served;
    uint64_t order;  // first come, first served among equals
    Tenant* tenant;
    bool operator<(const Turn& other) const {
      return served != other.served ? served > other.served : order > other.order;
    }
  };
  size_t kind_;
  Has has_;
  std::priority_queue<Turn> heap_;
  uint64_t next_order_ = 0;
};

class Tenants {
 public:
  Tenants();

  Tenant& of(const std::string& name);
  // One of its sequences waits, or does so no more.
  void wait(Tenant& tenant, SequenceId id, uint8_t priority);
  void unwait(Tenant& tenant, SequenceId id, uint8_t priority);
  // One runs, or does so no more.
  void run(Tenant& tenant, SequenceId id);
  void end(Tenant& tenant, SequenceId id);
  // One that runs has so much of its prompt left that can be computed, or has not.
  void prefill(Tenant& tenant, uint32_t left, SequenceId id);
  void unprefill(Tenant& tenant, uint32_t left, SequenceId id);
  /// It was served so many tokens.
  void charge(Tenant& tenant, double tokens);

  /// Whose sequence starts next, of the highest priority that waits; null: none waits.
  struct Next {
    Tenant* tenant;
    SequenceId id;
  };
  Next next_waiting();
  /// Whose prompt goes on next; null: nobody's.
  Tenant* next_prefilling() { return prefilling_.next(); }

  /// Whether somebody of a higher priority waits.
  bool waiting_above(uint8_t priority) const;
  /// How many have something that waits or runs.
  size_t active() const { return active_; }
  /// Who runs most, null if nobody runs. One of those that run as many.
  Tenant* largest() const;

 private:
  void wake(Tenant& tenant);
  void rest(Tenant& tenant);
  void recount(Tenant& tenant, size_t before);
  void prune();

  std::unordered_map<std::string, Tenant> tenants_;
  std::vector<Turns> waiting_;  // by priority
  Turns prefilling_;
  Turns all_;                                                  // of those that are not idle
  std::map<std::pair<size_t, uint64_t>, Tenant*> by_running_;  // how many run, and the tenant's number
  size_t waiting_count_[priorities] = {};
  size_t active_ = 0;
  uint64_t next_number_ = 0;
  double level_ = 0;  // who comes is served at least so much
};

}  // namespace convoy::actors
