// The run directory: whose lock it is, who is signalled, and which node file is believed.

#include "cli/run_dir.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <csignal>
#include <filesystem>
#include <fstream>

#include "model/error.hpp"

using namespace convoy;
using namespace convoy::cli;

namespace {

namespace fs = std::filesystem;

/// A process that waits to be killed.
struct Process {
  /// body: what it does first.
  template <class Body>
  explicit Process(Body body) {
    int ready[2];
    BOOST_REQUIRE_EQUAL(pipe(ready), 0);
    pid = fork();
    if (pid == 0) {
      body();
      if (write(ready[1], "x", 1) != 1) _exit(1);
      for (;;) pause();
    }
    char byte = 0;
    BOOST_REQUIRE_EQUAL(read(ready[0], &byte, 1), 1);
    close(ready[0]), close(ready[1]);
  }
  ~Process() {
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
  }
  bool ended_by(int signal) const {
    siginfo_t info{};
    return waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT) == 0 && info.si_status == signal;
  }
  bool runs() const {
    siginfo_t info{};
    return waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT | WNOHANG) == 0 && info.si_pid == 0;
  }
  pid_t pid = 0;
};

struct Fixture {
  Fixture() {
    std::string pattern = fs::temp_directory_path() / "convoy-run-XXXXXX";
    BOOST_REQUIRE(mkdtemp(pattern.data()));
    run_dir = pattern;
    lock = node_lock_file(run_dir, "node1");
  }
  ~Fixture() { fs::remove_all(run_dir); }

  /// Locks are those of processes, so another one has to hold it.
  auto holding(uint64_t incarnation) const {
    return [=, this] { new ProcessLock(lock, "node node1", incarnation); };
  }
  fs::path run_dir, lock;
};

}  // namespace

BOOST_FIXTURE_TEST_CASE(a_lock_is_held_once_and_tells_its_holder, Fixture) {
  BOOST_CHECK(!ProcessLock::holder(lock));
  {
    const Process node(holding(77));
    const auto holder = ProcessLock::holder(lock);
    BOOST_REQUIRE(holder);
    BOOST_CHECK_EQUAL(holder->pid, node.pid);
    BOOST_CHECK_EQUAL(holder->incarnation, 77u);
    BOOST_CHECK_EXCEPTION(ProcessLock(lock, "node node1", 78), InputError, [&](const InputError& e) {
      return std::string(e.what()).find("node node1 already runs (pid " + std::to_string(node.pid) + ")") !=
             std::string::npos;
    });
    BOOST_CHECK_EQUAL(ProcessLock::holder(lock)->incarnation, 77u);  // the loser wrote nothing
  }
  BOOST_CHECK(!ProcessLock::holder(lock));  // whatever the file says
  BOOST_CHECK_NO_THROW(ProcessLock(lock, "node node1", 79));
}

BOOST_FIXTURE_TEST_CASE(what_another_process_wrote_into_the_lock_is_not_believed, Fixture) {
  const Process node(holding(77));
  std::ofstream(lock) << "1 4711\n";
  const auto holder = ProcessLock::holder(lock);
  BOOST_REQUIRE(holder);
  BOOST_CHECK_EQUAL(holder->pid, node.pid);
  BOOST_CHECK_EQUAL(holder->incarnation, 0u);
}

BOOST_FIXTURE_TEST_CASE(only_who_holds_the_lock_is_signalled, Fixture) {
  const Process bystander([] {});
  BOOST_CHECK(!ProcessLock::signal_holder(lock, {bystander.pid, 77}, SIGTERM));  // nobody holds it
  const Process node(holding(77));
  BOOST_CHECK(!ProcessLock::signal_holder(lock, {bystander.pid, 77}, SIGTERM));  // somebody else does by now
  BOOST_CHECK(bystander.runs());
  BOOST_CHECK(node.runs());
  BOOST_CHECK(ProcessLock::signal_holder(lock, {node.pid, 77}, SIGTERM));
  BOOST_CHECK(node.ended_by(SIGTERM));
}

BOOST_FIXTURE_TEST_CASE(a_node_file_counts_only_if_the_holder_of_the_lock_wrote_it, Fixture) {
  write_node_file(run_dir, "node1", {77, 7411, "http://127.0.0.1:8080", {{1, 3, "signal 6 (Aborted)"}}});
  const auto file = read_node_file(run_dir, "node1", {1, 77});
  BOOST_REQUIRE(file);
  BOOST_CHECK_EQUAL(file->link_port, 7411);
  BOOST_CHECK_EQUAL(file->gateway_url, "http://127.0.0.1:8080");
  BOOST_REQUIRE_EQUAL(file->crashing.size(), 1u);
  BOOST_CHECK_EQUAL(file->crashing[0].last_end, "signal 6 (Aborted)");
  BOOST_CHECK(!read_node_file(run_dir, "node1", {1, 78}));  // of an earlier process
  BOOST_CHECK(!read_node_file(run_dir, "node1", {1, 0}));   // of one that has not said which it is
  BOOST_CHECK(!read_node_file(run_dir, "node2", {1, 77}));
  std::ofstream(run_dir / "node1.json") << "{\"incarnation\": 77";
  BOOST_CHECK(!read_node_file(run_dir, "node1", {1, 77}));
}

BOOST_FIXTURE_TEST_CASE(a_lock_that_was_deleted_or_replaced_is_not_there_any_more, Fixture) {
  const ProcessLock held(lock, "node node1", 77);
  BOOST_CHECK(held.still_there());
  fs::rename(lock, run_dir / "aside");
  BOOST_CHECK(!held.still_there());
  std::ofstream(lock) << "another one\n";
  BOOST_CHECK(!held.still_there());
  fs::rename(run_dir / "aside", lock);
  BOOST_CHECK(held.still_there());
}
