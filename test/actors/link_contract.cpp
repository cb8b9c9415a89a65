// One contract, checked against an actor of this process and against one behind a link in another process:
// order, monitor, death, silence. Near, far over TCP, with TLS and without, and far over Unix-domain
// sockets must not differ.

#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>
#include <numeric>

#include "link_rig.hpp"
#include "tls_files.hpp"

using namespace rig;

extern char** environ;

namespace {

const std::string near = "near", over_tcp = "far over TCP", over_tls = "far over TLS",
                  over_unix = "far over Unix-domain sockets";

constexpr uint32_t lease_ms = 1500;
constexpr uint32_t long_lease_ms = 10 * patience_ms;  // ends in no test

struct Subject {
  Subject() : recorder_actor(system.spawn(recorder, record)) {}
  virtual ~Subject() { caf::anon_send_exit(recorder_actor, caf::exit_reason::kill); }
  virtual void kill_hard() = 0;                          // kill -9
  virtual void freeze() = 0;                             // SIGSTOP
  virtual void unfreeze() = 0;                           // SIGCONT
  virtual std::chrono::milliseconds notice() const = 0;  // how long a frozen one may stay unnoticed

  caf::actor_system_config config;
  caf::actor_system system{config};
  std::shared_ptr<Record> record = std::make_shared<Record>();
  ReplyActor recorder_actor;
  EchoActor stage;
};

struct Near final : Subject {
  Near() {
    stage = system.spawn(echo, [to = recorder_actor] { return to; });
  }
  ~Near() override { caf::anon_send_exit(stage, caf::exit_reason::kill); }
  void kill_hard() override { caf::anon_send_exit(stage, caf::exit_reason::kill); }
  void freeze() override {
    kill_hard();
  }  // an actor cannot freeze alone: its process would, and with it this test
  void unfreeze() override {}
  std::chrono::milliseconds notice() const override { return 0ms; }
};

struct Far final : Subject {
  explicit Far(const std::string& where, uint32_t lease = lease_ms) {
    LinkOptions options = options_of("test", where == over_unix);
    if (where == over_tls) {
      files.emplace();
      for (const std::string node : {"near", "far"}) files->issue(node);
      options.dev = false;
      options.places = {"near", [](const std::string&, uint32_t) { return true; }};
      options.tls = files->tls("near");
    }
    options.limits.lease_ms = lease;
    auto up = std::make_shared<Slot<PeerIdentity>>();
    links.emplace(system, options, identity("near", Role::NODE, 0, 1),
                  Links::Events{.up = [up](const PeerIdentity& peer) { up->set(peer); }});
    links->publish(Role::PIPELINE, 0, caf::actor_cast<caf::actor>(recorder_actor));
    const uint16_t port = links->listen("127.0.0.1", 0);
    const auto port_text = std::to_string(port), lease_text = std::to_string(lease);
    const char* arguments[] = {LINK_PEER, port_text.c_str(), lease_text.c_str(),
                               files ? files->folder().c_str() : nullptr, nullptr};
    BOOST_REQUIRE_EQUAL(
        posix_spawn(&pid, LINK_PEER, nullptr, nullptr, const_cast<char**>(arguments), environ), 0);
    const auto peer = up->wait();
    BOOST_REQUIRE(peer);
    BOOST_CHECK_EQUAL(peer->pid, pid);
    BOOST_REQUIRE_EQUAL(unix_connections(port), where == over_unix ? 2u : 0u);  // control and bulk
    stage = links->remote<EchoActor>(*peer, Role::STAGE, 1);
  }
  ~Far() override {
    links.reset();
    if (pid == 0) return;  // waited for already
    ::kill(pid, SIGCONT);
    ::kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
  }
  void kill_hard() override { ::kill(pid, SIGKILL); }
  void freeze() override { ::kill(pid, SIGSTOP); }
  void unfreeze() override { ::kill(pid, SIGCONT); }
  std::chrono::milliseconds notice() const override { return std::chrono::milliseconds(lease_ms); }

  std::optional<TlsFiles> files;
  std::optional<Links> links;
  pid_t pid = 0;
};

std::unique_ptr<Subject> make(const std::string& where, uint32_t lease = lease_ms) {
  if (where == near) return std::make_unique<Near>();
  return std::make_unique<Far>(where, lease);
}

/// Waits for the down message of a monitored handle. Nothing if none came in time.
std::optional<caf::error> down(caf::scoped_actor& self, const EchoActor& of,
                               std::chrono::milliseconds time = patience) {
  std::optional<caf::error> reason;
  self->receive(
      [&](const caf::down_msg& message) {
        BOOST_CHECK(message.source == caf::actor_cast<caf::actor_addr>(of));
        reason = message.reason;
      },
      caf::after(time) >> [] {});
  return reason;
}

const auto places = boost::unit_test::data::make({near, over_tcp, over_tls, over_unix});
const auto far_places = boost::unit_test::data::make({over_tcp, over_tls, over_unix});

}  // namespace

BOOST_DATA_TEST_CASE(mail_arrives_complete_and_in_order, places, where) {
  const auto subject = make(where);
  constexpr size_t count = sanitized ? 1'000 : 20'000;  // where each costs milliseconds
  for (size_t step = 0; step < count; ++step) mail(subject->stage, plan(step));
  BOOST_REQUIRE(subject->record->wait_for(count));
  std::vector<uint64_t> expected(count);
  std::iota(expected.begin(), expected.end(), 0);
  BOOST_CHECK(subject->record->steps() == expected);
}

BOOST_DATA_TEST_CASE(a_monitor_sees_the_actor_end, places, where) {
  const auto subject = make(where);
  caf::scoped_actor self(subject->system);
  self->monitor(subject->stage);
  BOOST_CHECK(!down(self, subject->stage, 100ms));
  mail(subject->stage, plan(1));
  mail(subject->stage, die());
  const auto reason = down(self, subject->stage);
  BOOST_REQUIRE(reason);
  BOOST_CHECK(*reason != caf::none);
  BOOST_CHECK(subject->record->wait_for(1));  // what it said before its end arrives
}

BOOST_DATA_TEST_CASE(a_monitor_set_after_the_end_fires_at_once, places, where) {
  const auto subject = make(where);
  caf::scoped_actor self(subject->system);
  self->monitor(subject->stage);
  mail(subject->stage, die());
  BOOST_REQUIRE(down(self, subject->stage));
  self->monitor(subject->stage);
  BOOST_CHECK(down(self, subject->stage));
}

BOOST_DATA_TEST_CASE(kill_9_is_seen_by_the_closed_connection_and_not_by_the_lease, places, where) {
  const auto subject = make(where, long_lease_ms);
  caf::scoped_actor self(subject->system);
  self->monitor(subject->stage);
  mail(subject->stage, plan(1));
  BOOST_REQUIRE(subject->record->wait_for(1));
  subject->kill_hard();
  BOOST_CHECK(down(self, subject->stage));
}

BOOST_DATA_TEST_CASE(a_frozen_one_goes_down_when_its_lease_ends, places, where) {
  const auto subject = make(where);
  caf::scoped_actor self(subject->system);
  self->monitor(subject->stage);
  BOOST_CHECK(!down(self, subject->stage,
                    std::chrono::milliseconds(lease_ms + lease_ms / 3)));  // leases keep a silent link up
  const auto begin = Clock::now();
  subject->freeze();
  BOOST_REQUIRE(down(self, subject->stage));
  const auto took = Clock::now() - begin;
  BOOST_TEST_MESSAGE(where << ": seen after " << in_ms(took) << " ms");
  BOOST_CHECK(took >= subject->notice() / 2);
}

BOOST_DATA_TEST_CASE(after_down_there_is_silence, places, where) {
  const auto subject = make(where);
  caf::scoped_actor self(subject->system);
  self->monitor(subject->stage);
  subject->freeze();
  for (uint64_t step = 0; step < 10; ++step) mail(subject->stage, plan(step));
  BOOST_REQUIRE(down(self, subject->stage));
  const auto before = subject->record->steps().size();
  subject->unfreeze();
  mail(subject->stage, plan(100));
  BOOST_CHECK(!subject->record->wait_for(before + 1, 400ms));
}

BOOST_DATA_TEST_CASE(a_request_fails_and_does_not_hang, places, where) {
  const auto subject = make(where);
  caf::scoped_actor self(subject->system);
  if (where == near) {  // near, a living actor could answer; far, nothing may be asked
    self->monitor(subject->stage);
    subject->kill_hard();
    BOOST_REQUIRE(down(self, subject->stage));
  }
  caf::error failed;
  self->request(subject->stage, patience, plan(1)).receive([] {}, [&](const caf::error& e) { failed = e; });
  BOOST_CHECK(failed && failed != caf::sec::request_timeout);
}

BOOST_DATA_TEST_CASE(a_process_that_stood_still_notices_that_its_links_are_gone, far_places, where) {
  Far far(where);
  caf::scoped_actor self(far.system);
  self->monitor(far.stage);
  mail(far.stage, plan(1));
  BOOST_REQUIRE(far.record->wait_for(1));  // it knows the link
  far.freeze();
  BOOST_REQUIRE(down(self, far.stage));
  far.unfreeze();
  int status = -1;
  BOOST_REQUIRE(
      convoy::test::comes_true([pid = far.pid, &status] { return waitpid(pid, &status, WNOHANG) != 0; }));
  BOOST_CHECK(WIFEXITED(status));
  BOOST_CHECK_EQUAL(WEXITSTATUS(status), 0);  // its Events::down ran
  far.pid = 0;
}

namespace {

/// How long a plan and its answer take, in the middle.
class Pings {
 public:
  explicit Pings(Far& far) : far_(far) {}
  void once() {
    const size_t answered = far_.record->steps().size();
    const auto begin = Clock::now();
    mail(far_.stage, plan(answered));
    BOOST_REQUIRE(far_.record->wait_for(answered + 1));
    ms_.push_back(in_ms(Clock::now() - begin));
  }
  size_t count() const { return ms_.size(); }
  double p50_ms() {
    std::sort(ms_.begin(), ms_.end());
    return ms_[ms_.size() / 2];
  }

 private:
  Far& far_;
  std::vector<double> ms_;
};

}  // namespace

// Behind the hidden states that are always queued, a ping would take as long as those: eight frames.
BOOST_DATA_TEST_CASE(control_mail_does_not_wait_for_bulk, far_places, where) {
  Far far(where, long_lease_ms);
  constexpr size_t frames = 64, frames_ahead = 8,
                   frame_bytes = 8 << 20;  // at least 32 MB in flight nearly always
  Pings at_rest(far), beside(far);
  for (int i = 0; i < 20; ++i) at_rest.once();
  const auto hidden = activations(0, frame_bytes);
  size_t queued = 0;
  const auto begin = Clock::now();
  while (far.record->hidden() < frames) {
    for (; queued < frames && queued < far.record->hidden() + frames_ahead; ++queued) mail(far.stage, hidden);
    beside.once();
  }
  const double frame_ms = in_ms(Clock::now() - begin) / frames;
  BOOST_TEST_MESSAGE(where << ": a frame takes " << frame_ms << " ms; of " << beside.count()
                           << " pings p50 is " << beside.p50_ms() << " ms, at rest " << at_rest.p50_ms()
                           << " ms");
  BOOST_TEST(beside.p50_ms() < frame_ms * frames_ahead / 2 + 10 * at_rest.p50_ms());
}
