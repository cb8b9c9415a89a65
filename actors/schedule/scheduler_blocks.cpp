// Scheduler: which KV blocks a sequence has, and what it finds in those of others.

#include <algorithm>
#include <cassert>

#include "actors/schedule/scheduler.hpp"
#include "gpu/kv_block.hpp"
#include "gpu/sampler.hpp"

namespace convoy::actors {

/// Of a full block of its tokens.
const BlockKey& Scheduler::key_of(Sequence& s, size_t block) {
  constexpr size_t size = gpu::kv_block_tokens;
  while (s.keys.size() <= block + 1) {
    const size_t next = s.keys.size() - 1;
    s.keys.push_back(
        block_keys_.next(s.keys.back(), std::span<const int32_t>(s.tokens).subspan(next * size, size)));
  }
  return s.keys[block + 1];
}

/// What it may find of others: all but its last token, which it has to compute to sample behind it, and no
/// more than the plan can bring along.
size_t Scheduler::shareable_blocks(const Sequence& s) const {
  const size_t tokens = s.tokens.size() - 1;
  return (gpu::needs_history(s.sampling) ? std::min(tokens, history_tokens_max) : tokens) /
         gpu::kv_block_tokens;
}

/// All blocks that its tokens so far need, as many as can be found with what they hold. False, and nothing
/// taken, if there are not enough: each that runs already may need one more soon, and one more for each time
/// that it was preempted, or it would begin only to be preempted again.
bool Scheduler::take_blocks(Sequence& s) {
  const size_t room = running_ * (1 + size_t{s.facts.preemptions});
  if (cache_->free() < room) return false;
  const size_t needed = gpu::kv_blocks_for(s.tokens.size()), most = shareable_blocks(s);
  while (s.blocks.size() < most) {
    const auto found = cache_->find(key_of(s, s.blocks.size()));
    if (!found) break;
    s.blocks.push_back(*found);
  }
  if (cache_->free() < needed - s.blocks.size() + room) {
    for (; !s.blocks.empty(); s.blocks.pop_back()) cache_->release(s.blocks.back());
    return false;
  }
  s.published = static_cast<uint32_t>(s.blocks.size());
  // What it will load must not make room for what it displaces; its first blocks least of all.
  if (limits_.kv_tier.places > 0)
    for (size_t block = most; block-- > s.published;) cache_->keep(key_of(s, block));
  while (s.blocks.size() < needed) s.blocks.push_back(cache_->take());
  return true;
}

/// What can be found by now of what others computed since it began, or has to be loaded.
void Scheduler::find_more(Sequence& s) {
  for (const size_t most = shareable_blocks(s); s.published < most; ++s.published) {
    const BlockKey& key = key_of(s, s.published);
    if (const auto found = cache_->find(key)) {
      cache_->release(s.blocks[s.published]);
      s.blocks[s.published] = *found;
    } else if (!cache_->load(s.blocks[s.published], key)) {
      return;
    }
  }
}

/// Begins behind what it found. Waits if what comes next has to be loaded, or if another sequence is
/// computing it; else says what this one is going to compute.
void Scheduler::follow_or_announce(Sequence& s) {
  backlog_ -= owed(s);
  s.planned = s.published * static_cast<uint32_t>(gpu::kv_block_tokens);
  backlog_ += owed(s);
  if (s.published < shareable_blocks(s)) {
    const BlockKey& next = key_of(s, s.published);
    if (cache_->kept(next)) {
      woken_.push_back(s.id);  // with this step's moves, or with the next one's if these are enough
      return enter(s, State::following);
    }
    if (const auto other = pending_.find(next); other != pending_.end()) {
      other->second.followers.push_back(s.id);
      return enter(s, State::following);
    }
  }
  s.announced = static_cast<uint32_t>(s.tokens.size() / gpu::kv_block_tokens);
  for (uint32_t block = s.published; block < s.announced; ++block)
    pending_.try_emplace(key_of(s, block), Pending{s.life});
  enter(s, State::prefilling);
}

/// It will not compute what it said.
void Scheduler::retract(Sequence& s) {
  for (uint32_t block = s.published; block < s.announced; ++block) resolve(key_of(s, block), s.life);
  s.announced = 0;
}

/// So many of its positions are computed.
void Scheduler::publish(Sequence& s, uint32_t computed) {
  if (s.canary) return;
  for (; s.published < computed / gpu::kv_block_tokens; ++s.published) {
    const BlockKey& key = key_of(s, s.published);
    cache_->publish(s.blocks[s.published], key);
    resolve(key, s.life);
  }
}

void Scheduler::resolve(const BlockKey& key, uint64_t life) {
  const auto found = pending_.find(key);
  if (found == pending_.end() || found->second.life != life) return;
  woken_.insert(woken_.end(), found->second.followers.begin(), found->second.followers.end());
  pending_.erase(found);
}

void Scheduler::wake_followers() {
  for (const SequenceId id : std::exchange(woken_, {}))
    if (const auto s = sequences_.find(id); s != sequences_.end() && s->second.state == State::following) {
      find_more(s->second);
      follow_or_announce(s->second);
    }
}

/// Blocks for its positions up to `end`. If none is free, the youngest of the lowest priority is preempted,
/// which may be this one itself. One that this step runs already is not: then the next step takes its blocks.
Scheduler::Grown Scheduler::grow(Sequence& s, uint32_t end) {
  while (s.blocks.size() < gpu::kv_blocks_for(size_t{end})) {
    if (cache_->free() > 0) {
      s.blocks.push_back(cache_->take());
      continue;
    }
    Sequence& victim = sequences_.at(~victims_.begin()->second);
    if (victim.newest_step == next_step_ + 1) return Grown::later;
    preempt(victim);
    if (&victim == &s) return Grown::preempted;
  }
  return Grown::yes;
}

}  // namespace convoy::actors
