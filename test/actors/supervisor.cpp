// The supervisor of child processes, with small programs in place of stages.

#include "actors/supervisor.hpp"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <boost/test/unit_test.hpp>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>
#include <thread>
#include <vector>

#include "actors/process/log.hpp"
#include "model/error.hpp"
#include "test/patience.hpp"

namespace {

using namespace convoy;
using actors::Program;
using actors::Supervisor;
using std::chrono::milliseconds;
namespace fs = std::filesystem;

Supervisor::Options running(std::vector<std::string> argv) {
  log::configure("error", false, "");
  Supervisor::Options options;
  options.program = [argv](uint32_t, uint64_t) {
    Program program;
    program.argv = argv;
    return program;
  };
  return options;
}

const std::vector<std::string> sleeper{"sleep", "1000"};

template <class Condition>
void await(Condition condition, const char* what) {
  BOOST_REQUIRE_MESSAGE(test::comes_true(condition), what);
}

Supervisor::Child child(const Supervisor& supervisor, uint32_t instance = 0) {
  for (const auto& c : supervisor.children())
    if (c.instance == instance) return c;
  return {};
}

/// Waits for a process that runs and is not the one before.
Supervisor::Child next_child(const Supervisor& supervisor, pid_t before = 0) {
  await([&] { return child(supervisor).pid != 0 && child(supervisor).pid != before; }, "a child runs");
  return child(supervisor);
}

bool gone(pid_t pid) { return kill(pid, 0) != 0 && errno == ESRCH; }

}  // namespace

BOOST_AUTO_TEST_CASE(a_child_that_is_killed_is_started_again_as_another_incarnation) {
  Supervisor supervisor(running(sleeper));
  supervisor.keep(0);
  const auto first = next_child(supervisor);
  kill(first.pid, SIGKILL);
  const auto second = next_child(supervisor, first.pid);
  BOOST_CHECK_NE(second.incarnation, first.incarnation);
  BOOST_CHECK_EQUAL(second.restarts, 1u);
  BOOST_CHECK_EQUAL(second.crashes, 1u);
  BOOST_CHECK_EQUAL(second.last_end, "signal 9 (Killed)");
}

BOOST_AUTO_TEST_CASE(replace_kills_that_incarnation_alone_and_counts_no_crash) {
  Supervisor supervisor(running(sleeper));
  supervisor.keep(0);
  const auto first = next_child(supervisor);
  supervisor.replace(0, first.incarnation + 2);  // of a process that is not there
  supervisor.replace(7, first.incarnation);      // of no child of ours
  BOOST_CHECK(!gone(first.pid));
  supervisor.replace(0, first.incarnation);
  const auto second = next_child(supervisor, first.pid);
  supervisor.replace(0, first.incarnation);  // late: the newer one is left alone
  std::this_thread::sleep_for(milliseconds(20));
  BOOST_CHECK_EQUAL(child(supervisor).pid, second.pid);
  BOOST_CHECK_EQUAL(second.crashes, 0u);
  BOOST_CHECK_EQUAL(second.restarts, 1u);
  supervisor.replace(0, 0);  // whichever runs
  BOOST_CHECK_EQUAL(next_child(supervisor, second.pid).restarts, 2u);
}

BOOST_AUTO_TEST_CASE(a_child_that_is_released_ends_and_comes_back_when_it_is_kept_again) {
  Supervisor supervisor(running(sleeper));
  supervisor.keep(0), supervisor.keep(1);
  const auto first = next_child(supervisor);
  supervisor.release(7);  // of no child
  supervisor.release(0);
  await([&] { return gone(first.pid); }, "it ends");
  std::this_thread::sleep_for(milliseconds(20));
  BOOST_CHECK_EQUAL(child(supervisor, 0).pid, 0);
  BOOST_CHECK_NE(child(supervisor, 1).pid, 0);
  supervisor.keep(0);
  next_child(supervisor, first.pid);
}

BOOST_AUTO_TEST_CASE(a_child_that_keeps_ending_is_told_of_and_started_ever_later) {
  using Clock = std::chrono::steady_clock;
  std::atomic<uint32_t> ends = 0;
  std::vector<Clock::time_point> began;  // the supervisor's thread alone, until it has stopped
  auto options = running({});
  options.program = [&](uint32_t, uint64_t) {
    began.push_back(Clock::now());
    Program program;
    program.argv = {"sh", "-c", "exit 3"};
    return program;
  };
  options.ended = [&](const Supervisor::Child& c) {
    BOOST_CHECK_EQUAL(c.last_end, "exit code 3");
    BOOST_CHECK_EQUAL(c.crashes, ++ends);
  };
  Supervisor supervisor(std::move(options));
  supervisor.keep(0);
  await([&] { return ends >= 4; }, "four ends");
  supervisor.stop();
  BOOST_REQUIRE_GE(began.size(), 4u);
  // 100 and 200 ms, less what this thread may have waited for a core; without a wait it would be some.
  BOOST_CHECK(began[2] - began[1] >= milliseconds(50));
  BOOST_CHECK(began[3] - began[2] >= milliseconds(100));
}

BOOST_AUTO_TEST_CASE(starts_of_what_fails_are_apart_and_what_lived_longer_starts_at_once) {
  const auto wait_ms = [](uint32_t failures, int lived_ms) {
    return actors::restart_wait(failures, milliseconds(lived_ms)).count();
  };
  BOOST_CHECK_EQUAL(wait_ms(1, 0), 0);
  BOOST_CHECK_EQUAL(wait_ms(2, 0), 100);
  BOOST_CHECK_EQUAL(wait_ms(3, 50), 150);
  BOOST_CHECK_EQUAL(wait_ms(100, 0), 3200);
  BOOST_CHECK_EQUAL(wait_ms(100, 3000), 200);
  BOOST_CHECK_EQUAL(wait_ms(100, 3201), 0);
}

BOOST_AUTO_TEST_CASE(a_child_that_lived_long_enough_is_started_at_once_again) {
  using actors::failures_in_a_row;
  BOOST_CHECK_EQUAL(failures_in_a_row(0, milliseconds(5), 10'000), 1u);
  BOOST_CHECK_EQUAL(failures_in_a_row(6, milliseconds(10'000), 10'000), 7u);
  BOOST_CHECK_EQUAL(failures_in_a_row(6, milliseconds(10'001), 10'000), 1u);
}

BOOST_AUTO_TEST_CASE(how_long_a_child_lived_says_whether_it_failed_again) {
  auto options = running({"sleep", "0.1"});
  options.stable_ms = 10;
  Supervisor supervisor(std::move(options));
  supervisor.keep(0);
  await([&] { return child(supervisor).restarts >= 3; }, "three ends");
  BOOST_CHECK_EQUAL(child(supervisor).failures, 1u);
}

BOOST_AUTO_TEST_CASE(a_program_that_is_not_there_is_said_and_tried_again) {
  Supervisor supervisor(running({"/nowhere/program"}));
  supervisor.keep(0);
  await([&] { return child(supervisor).restarts >= 2; }, "two attempts");
  BOOST_CHECK_EQUAL(child(supervisor).pid, 0);
  BOOST_CHECK_NE(child(supervisor).last_end.find("/nowhere/program: cannot be started: No such file"),
                 std::string::npos);
}

BOOST_AUTO_TEST_CASE(stop_ends_stopped_and_stubborn_children_too) {
  // It says that it ignores SIGTERM before that is tried.
  std::string folder = fs::temp_directory_path() / "convoy-supervisor-XXXXXX";
  BOOST_REQUIRE(mkdtemp(folder.data()));
  auto options = running({});
  options.program = [&](uint32_t instance, uint64_t) {
    Program program;
    program.argv = sleeper;
    if (instance == 1) program.argv = {"sh", "-c", "trap '' TERM; : > deaf; while :; do sleep 0.05; done"};
    program.folder = folder;
    return program;
  };
  Supervisor supervisor(std::move(options));
  supervisor.keep(0);
  supervisor.keep(1);
  const auto stopped = next_child(supervisor);
  await([&] { return fs::exists(folder + "/deaf"); }, "it is deaf");
  const pid_t deaf = child(supervisor, 1).pid;
  kill(stopped.pid, SIGSTOP);
  supervisor.stop(100);
  BOOST_CHECK(gone(stopped.pid));
  BOOST_CHECK(gone(deaf));
  fs::remove_all(folder);
}

BOOST_AUTO_TEST_CASE(without_pidfds_ends_are_noticed_and_stop_returns) {
  // A sandbox that knows no pidfd_open, for this thread and those that it starts.
  std::thread([] {
    sock_filter filter[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pidfd_open, 0, 1),
                            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
                            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    sock_fprog program{4, filter};
    BOOST_REQUIRE_EQUAL(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    BOOST_REQUIRE_EQUAL(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
    BOOST_REQUIRE_EQUAL(actors::open_pidfd(getpid()), -1);
    Supervisor supervisor(running(sleeper));
    supervisor.keep(0);
    const auto first = next_child(supervisor);
    kill(first.pid, SIGKILL);
    const auto second = next_child(supervisor, first.pid);
    supervisor.stop();
    BOOST_CHECK(gone(second.pid));
  }).join();
}

BOOST_AUTO_TEST_CASE(a_child_inherits_no_descriptor_and_no_blocked_signal) {
  std::string folder = fs::temp_directory_path() / "convoy-supervisor-XXXXXX";
  BOOST_REQUIRE(mkdtemp(folder.data()));
  const int output = open((folder + "/out").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  const int inherited = open("/dev/null", O_RDONLY);  // as Asio's sockets are: not close-on-exec
  sigset_t term, before;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &term, &before);
  Program program;
  program.argv = {"sh", "-c", "ls /proc/$$/fd; pwd; exec grep SigBlk /proc/self/status"};
  program.output = output;
  program.folder = folder;
  const pid_t pid = actors::spawn_process(program);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  int status = 0;
  BOOST_REQUIRE_EQUAL(waitpid(pid, &status, 0), pid);
  std::stringstream text;
  text << std::ifstream(folder + "/out").rdbuf();
  BOOST_CHECK_EQUAL(text.str(), "0\n1\n2\n" + folder + "\nSigBlk:\t0000000000000000\n");
  close(inherited);
  close(output);
  fs::remove_all(folder);
}

BOOST_AUTO_TEST_CASE(a_spare_takes_a_place_at_once_however_often_that_failed) {
  auto options = running(sleeper);
  options.spares = 1;
  options.spare_after_ms = 0;
  options.spare = [] {
    Program program;
    program.argv = sleeper;
    return program;
  };
  Supervisor supervisor(std::move(options));
  supervisor.keep(0);
  auto last = next_child(supervisor);
  for (int i = 0; i < 8; ++i) {  // without a spare, the eighth would wait for seconds
    await([&] { return supervisor.spares() == 1; }, "a spare waits");
    const auto began = std::chrono::steady_clock::now();
    kill(last.pid, SIGKILL);
    last = next_child(supervisor, last.pid);
    BOOST_CHECK_LT((std::chrono::steady_clock::now() - began) / milliseconds(1), 2000);
  }
  BOOST_CHECK_EQUAL(last.failures, 8u);
}

BOOST_AUTO_TEST_CASE(without_a_descriptor_there_is_no_supervisor_and_no_abort) {
  rlimit before{};
  BOOST_REQUIRE_EQUAL(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{0, before.rlim_max};
  BOOST_REQUIRE_EQUAL(setrlimit(RLIMIT_NOFILE, &none), 0);
  BOOST_CHECK_THROW(Supervisor{running(sleeper)}, std::system_error);
  BOOST_REQUIRE_EQUAL(setrlimit(RLIMIT_NOFILE, &before), 0);
}

BOOST_AUTO_TEST_CASE(an_end_may_be_begun_and_asked_for) {
  Supervisor supervisor(running(sleeper));
  supervisor.keep(0);
  const auto first = next_child(supervisor);
  BOOST_CHECK(!supervisor.stopped());
  supervisor.begin_stop(10'000);
  await([&] { return supervisor.stopped(); }, "all have ended");
  BOOST_CHECK(gone(first.pid));
}

BOOST_AUTO_TEST_CASE(a_mapped_file_that_was_shortened_is_named_as_the_reason) {
  BOOST_CHECK_NE(actors::how_it_ended(SIGBUS).find("a mapped file was shortened"), std::string::npos);
  BOOST_CHECK_EQUAL(actors::how_it_ended(SIGKILL), "signal 9 (Killed)");
}

BOOST_AUTO_TEST_CASE(whether_a_child_is_started_again_may_depend_on_how_it_ended) {
  const fs::path marker = fs::temp_directory_path() / ("convoy-again-" + std::to_string(getpid()));
  fs::remove(marker);
  // Fails once, then ends well.
  auto options =
      running({"sh", "-c", "test -e " + marker.string() + " || { touch " + marker.string() + "; exit 7; }"});
  options.again = [](const Supervisor::Child& c) { return c.exit_code != 0; };
  std::atomic<int> ends = 0;
  options.ended = [&ends](const Supervisor::Child&) { ++ends; };
  Supervisor supervisor(std::move(options));
  supervisor.keep(0);
  await([&] { return child(supervisor).over; }, "it is over");
  await([&] { return ends == 2; }, "both ends are told");
  BOOST_CHECK_EQUAL(child(supervisor).exit_code.value_or(-1), 0);
  BOOST_CHECK_EQUAL(child(supervisor).restarts, 2u);
  fs::remove(marker);
}

BOOST_AUTO_TEST_CASE(a_signal_reaches_all_that_run) {
  auto options = running(sleeper);
  options.again = [](const Supervisor::Child&) { return false; };
  Supervisor supervisor(std::move(options));
  for (uint32_t i = 0; i < 2; ++i) supervisor.keep(i);
  await([&] { return child(supervisor, 0).pid != 0 && child(supervisor, 1).pid != 0; }, "they run");
  supervisor.signal(SIGTERM);
  await([&] { return child(supervisor, 0).over && child(supervisor, 1).over; }, "they ended");
  BOOST_CHECK_EQUAL(child(supervisor).last_end, "signal 15 (Terminated)");
  BOOST_CHECK(!child(supervisor).exit_code);
}

BOOST_AUTO_TEST_CASE(whether_a_process_is_stopped_can_be_told_of_one_that_was_started_with_that_word) {
  using actors::process_state, actors::ProcessState;
  Supervisor supervisor(running(sleeper));
  supervisor.keep(0);
  const pid_t pid = next_child(supervisor).pid;
  await([&] { return process_state(pid, "1000") == ProcessState::runs; }, "it runs");
  BOOST_CHECK(process_state(pid, "100") == ProcessState::unknown);
  kill(pid, SIGSTOP);
  await([&] { return process_state(pid, "1000") == ProcessState::stopped; }, "it is stopped");
  supervisor.stop();
  BOOST_CHECK(process_state(pid, "1000") == ProcessState::unknown);
}

BOOST_AUTO_TEST_CASE(a_spare_takes_the_place_of_a_child_that_ended_and_another_one_follows) {
  std::string folder = fs::temp_directory_path() / "convoy-supervisor-XXXXXX";
  BOOST_REQUIRE(mkdtemp(folder.data()));
  auto options = running(sleeper);
  options.spares = 1;
  options.spare_after_ms = 0;
  options.spare = [&] {
    Program program;
    program.argv = {"sh", "-c",
                    "read place && echo $place > place.new && mv place.new place && exec sleep 1000"};
    program.folder = folder;
    return program;
  };
  Supervisor supervisor(std::move(options));
  supervisor.keep(3);
  const auto first = [&] {
    await([&] { return child(supervisor, 3).pid != 0 && supervisor.spares() == 1; }, "both run");
    return child(supervisor, 3);
  }();
  kill(first.pid, SIGKILL);
  await([&] { return child(supervisor, 3).pid != 0 && child(supervisor, 3).pid != first.pid; },
        "another runs");
  const auto second = child(supervisor, 3);
  await([&] { return fs::exists(folder + "/place"); }, "the spare was told its place");
  std::string place;
  std::getline(std::ifstream(folder + "/place"), place);
  BOOST_CHECK_EQUAL(place, "3 " + std::to_string(second.incarnation));
  await([&] { return supervisor.spares() == 1; }, "there is another spare");
  kill(second.pid, SIGKILL);
  await([&] { return child(supervisor, 3).pid != 0 && child(supervisor, 3).pid != second.pid; }, "it, too");
  supervisor.stop();
  BOOST_CHECK(gone(child(supervisor, 3).pid == 0 ? second.pid : child(supervisor, 3).pid));
  BOOST_CHECK_EQUAL(supervisor.spares(), 0u);
  fs::remove_all(folder);
}

BOOST_AUTO_TEST_CASE(spares_that_end_are_started_later_each_time_and_children_start_without_them) {
  auto options = running(sleeper);
  options.spares = 2;
  options.spare_after_ms = 0;
  std::atomic<int> started = 0;
  options.spare = [&] {
    ++started;
    Program program;
    program.argv = {"false"};
    return program;
  };
  Supervisor supervisor(std::move(options));
  supervisor.keep(0);
  const auto first = next_child(supervisor);
  await([&] { return started >= 2; }, "they are tried");
  std::this_thread::sleep_for(milliseconds(500));
  BOOST_CHECK_LE(started, 8);
  kill(first.pid, SIGKILL);
  next_child(supervisor, first.pid);
}
