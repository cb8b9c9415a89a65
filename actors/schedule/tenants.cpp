#include "actors/schedule/tenants.hpp"

#include <algorithm>
#include <cassert>

namespace convoy::actors {

namespace {

// Idle tenants that are remembered: with their counters, which may be ahead of the others'.
constexpr size_t idle_tenants_max = 1024;

bool has_waiting(const Tenant& tenant, size_t priority) { return !tenant.waiting[priority].empty(); }
bool has_prefilling(const Tenant& tenant, size_t) { return !tenant.prefilling.empty(); }
bool has_any(const Tenant& tenant, size_t) { return !tenant.idle(); }

}  // namespace

void Turns::add(Tenant& tenant) {
  if (tenant.listed[kind_]) return;
  tenant.listed[kind_] = true;
  heap_.push({tenant.served, next_order_++, &tenant});
}

Tenant* Turns::next() {
  while (!heap_.empty()) {
    const Turn turn = heap_.top();
    const bool has = has_(*turn.tenant, kind_);
    if (has && turn.served == turn.tenant->served) return turn.tenant;
    // Counters only rise: whoever was served since is put where it belongs now.
    heap_.pop();
    turn.tenant->listed[kind_] = false;
    if (has) add(*turn.tenant);
  }
  return nullptr;
}

void Turns::clear() {
  for (; !heap_.empty(); heap_.pop()) heap_.top().tenant->listed[kind_] = false;
}

Tenants::Tenants() : prefilling_(priorities, has_prefilling), all_(priorities + 1, has_any) {
  for (size_t p = 0; p < priorities; ++p) waiting_.emplace_back(p, has_waiting);
}

Tenant& Tenants::of(const std::string& name) {
  if (tenants_.size() > 2 * active_ + idle_tenants_max) prune();
  const auto [found, fresh] = tenants_.try_emplace(name);
  if (fresh) found->second.number = next_number_++;
  return found->second;
}

/// Forgets who is idle and not ahead of the others. Costs all of them, but seldom.
void Tenants::prune() {
  for (Turns& turns : waiting_) turns.clear();
  prefilling_.clear();
  all_.clear();
  std::erase_if(tenants_, [this](const auto& t) { return t.second.idle() && t.second.served <= level_; });
  if (tenants_.size() > 2 * active_ + idle_tenants_max)
    std::erase_if(tenants_, [](const auto& t) { return t.second.idle(); });
  for (auto& [name, tenant] : tenants_) {
    for (size_t p = 0; p < priorities; ++p)
      if (has_waiting(tenant, p)) waiting_[p].add(tenant);
    if (has_prefilling(tenant, priorities)) prefilling_.add(tenant);
    if (!tenant.idle()) all_.add(tenant);
  }
}

/// Before it has something to do.
void Tenants::wake(Tenant& tenant) {
  if (!tenant.idle()) return;
  if (const Tenant* const least = all_.next()) level_ = std::max(level_, least->served);
  tenant.served = std::max(tenant.served, level_);
  ++active_;
  all_.add(tenant);
}

/// Once it may have nothing left.
void Tenants::rest(Tenant& tenant) {
  if (!tenant.idle()) return;
  if (--active_ == 0) level_ = std::max(level_, tenant.served);
}

void Tenants::wait(Tenant& tenant, SequenceId id, uint8_t priority) {
  wake(tenant);
  const size_t inserted = tenant.waiting[priority].insert(id).second;
  tenant.waiting_all += inserted;
  waiting_count_[priority] += inserted;
  waiting_[priority].add(tenant);
}

void Tenants::unwait(Tenant& tenant, SequenceId id, uint8_t priority) {
  const size_t erased = tenant.waiting[priority].erase(id);
  assert(erased == 1);
  tenant.waiting_all -= erased;
  waiting_count_[priority] -= erased;
  rest(tenant);
}

void Tenants::run(Tenant& tenant, SequenceId id) {
  wake(tenant);
  const size_t before = tenant.running.size();
  tenant.running.insert(id);
  recount(tenant, before);
}

void Tenants::end(Tenant& tenant, SequenceId id) {
  const size_t before = tenant.running.size();
  const size_t erased = tenant.running.erase(id);
  assert(erased == 1);
  recount(tenant, before);
  rest(tenant);
}

void Tenants::recount(Tenant& tenant, size_t before) {
  by_running_.erase({before, tenant.number});
  if (!tenant.running.empty()) by_running_[{tenant.running.size(), tenant.number}] = &tenant;
}

void Tenants::prefill(Tenant& tenant, uint32_t left, SequenceId id) {
  tenant.prefilling.emplace(left, id);
  prefilling_.add(tenant);
}

void Tenants::unprefill(Tenant& tenant, uint32_t left, SequenceId id) {
  const size_t erased = tenant.prefilling.erase({left, id});
  assert(erased == 1);
}

void Tenants::charge(Tenant& tenant, double tokens) { tenant.served += tokens; }

Tenants::Next Tenants::next_waiting() {
  for (size_t p = priorities; p-- > 0;)
    if (Tenant* const tenant = waiting_[p].next()) return {tenant, *tenant->waiting[p].begin()};
  return {nullptr, 0};
}

bool Tenants::waiting_above(uint8_t priority) const {
  return std::any_of(waiting_count_ + priority + 1, waiting_count_ + priorities,
                     [](size_t n) { return n > 0; });
}

Tenant* Tenants::largest() const { return by_running_.empty() ? nullptr : by_running_.rbegin()->second; }

}  // namespace convoy::actors
