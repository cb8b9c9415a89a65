#include "test/sim/cluster_process.hpp"

#include <cassert>

namespace sim {

namespace {

caf::actor_system_config& configure(caf::actor_system_config& config) {
  config.set("scheduler.policy", caf::atom("testing"));
  return config;
}

}  // namespace

Process::Running::Running() : system(configure(config)) { system.await_actors_before_shutdown(false); }

Process::Process(Timeline& timeline, convoy::actors::PeerIdentity self)
    : timeline_(timeline), self_(std::move(self)), running_(std::make_unique<Running>()) {
  set_clock();
}

caf::scheduler::test_coordinator& Process::scheduler() const {
  return static_cast<caf::scheduler::test_coordinator&>(running_->system.scheduler());
}

void Process::set_clock() {
  auto& clock = scheduler().clock();
  if (clock.now() < timeline_.now()) clock.advance_time(timeline_.now() - clock.now());
}

void Process::hold_blocking(const caf::actor& actor) {
  hold(actor);
  blocking_ = dynamic_cast<caf::resumable*>(caf::actor_cast<caf::abstract_actor*>(actor));
}

void Process::sleep_until(Timeline::Time until) {
  if (ended_ || until <= timeline_.now()) return;
  wakes_ = until;
  fiber_.stop();
}

void Process::hear(std::function<void()> what) {
  if (!lives()) return;
  if (frozen_) return unheard_.push_back(std::move(what));
  set_clock();
  what();
}

void Process::thaw() {
  frozen_ = false;
  while (!unheard_.empty() && lives() && !frozen_) {
    const auto what = std::move(unheard_.front());
    unheard_.pop_front();
    hear(what);
  }
}

void Process::end(const std::function<void()>& let_go) {
  if (!lives() || ended_) return;
  ended_ = true;
  unheard_.clear();
  for (const caf::actor& actor : actors_) caf::anon_send_exit(actor, caf::exit_reason::kill);
  if (let_go) let_go();
  if (fiber_.stopped()) fiber_.go_on();
  while (scheduler().try_run_once()) {
  }
  scheduler().clock().cancel_all();
  actors_.clear();
  running_.reset();
}

Timeline::Time Process::next_due() const {
  if (!lives() || frozen_) return Timeline::never;
  const auto& schedule = scheduler().clock().schedule();
  const auto timer = schedule.empty() ? Timeline::never : schedule.begin()->first;
  return std::min(timer, fiber_.stopped() ? wakes_ : Timeline::never);
}

bool Process::run_one(Random& random) {
  if (!lives() || frozen_) return false;
  set_clock();
  auto& jobs = scheduler().jobs;
  const size_t choices = jobs.size() + (fiber_.stopped() && wakes_ <= timeline_.now());
  if (choices == 0) return false;
  const auto choice = static_cast<ptrdiff_t>(random.between(0, choices - 1));
  if (choice == static_cast<ptrdiff_t>(jobs.size())) {
    fiber_.go_on();
    return true;
  }
  std::rotate(jobs.begin(), jobs.begin() + choice, jobs.begin() + choice + 1);
  if (jobs.front() == blocking_)
    fiber_.start([this] { scheduler().run_once(); });
  else
    scheduler().run_once();
  return true;
}

}  // namespace sim
