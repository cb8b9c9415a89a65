// A log that is rotated and reopened while it is written.

#include "actors/process/log_file.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <csignal>
#include <fstream>
#include <sstream>

#include "actors/process/log.hpp"
#include "model/error.hpp"

namespace {

using namespace convoy;
namespace fs = std::filesystem;

std::string text_of(const fs::path& file) {
  std::stringstream text;
  text << std::ifstream(file).rdbuf();
  return text.str();
}

/// A folder, and standard error that leads to a log in it until the end of the test.
struct Fixture {
  Fixture() {
    std::string pattern = fs::temp_directory_path() / "convoy-log-XXXXXX";
    BOOST_REQUIRE(mkdtemp(pattern.data()));
    folder = pattern;
    file = folder / "node1.log";
    const int fd = log::open_log_file(file);
    for (size_t i = 0; i < 2; ++i) {
      before[i] = dup(static_cast<int>(i) + STDOUT_FILENO);
      dup2(fd, static_cast<int>(i) + STDOUT_FILENO);
    }
    close(fd);
  }
  ~Fixture() {
    for (size_t i = 0; i < 2; ++i) dup2(before[i], static_cast<int>(i) + STDOUT_FILENO), close(before[i]);
    fs::remove_all(folder);
  }
  static void write_line(const std::string& text) {
    const std::string line = text + "\n";
    BOOST_REQUIRE_EQUAL(write(STDERR_FILENO, line.data(), line.size()), static_cast<ssize_t>(line.size()));
  }
  fs::path folder, file;
  int before[2];
};

mode_t mode_of(const fs::path& file) {
  struct stat status {};
  BOOST_REQUIRE_EQUAL(stat(file.c_str(), &status), 0);
  return status.st_mode & 0777;
}

}  // namespace

BOOST_FIXTURE_TEST_CASE(a_long_log_is_put_aside_and_only_so_many_are_kept, Fixture) {
  log::LogFile log(file, {10, 2});
  for (const char* line : {"first line", "second line", "third line", "fourth line"}) {
    write_line(line);
    log.tend();
  }
  write_line("short");
  log.tend();
  BOOST_CHECK_EQUAL(text_of(file), "short\n");
  BOOST_CHECK_EQUAL(text_of(folder / "node1.log.1"), "fourth line\n");
  BOOST_CHECK_EQUAL(text_of(folder / "node1.log.2"), "third line\n");
  BOOST_CHECK(!fs::exists(folder / "node1.log.3"));
}

BOOST_FIXTURE_TEST_CASE(where_none_are_kept_nothing_else_is_deleted, Fixture) {
  std::ofstream(folder / "node1.log.0") << "somebody's";
  write_line("longer than ten bytes");
  BOOST_CHECK(log::rotate(file, {10, 0}));
  BOOST_CHECK(!fs::exists(file));
  BOOST_CHECK_EQUAL(text_of(folder / "node1.log.0"), "somebody's");
}

BOOST_FIXTURE_TEST_CASE(a_process_that_does_not_rotate_follows_the_one_that_does, Fixture) {
  log::LogFile stage(file, {});
  write_line("to the first file, however long it may be");
  stage.tend();
  BOOST_CHECK(log::rotate(file, {10, 1}));
  write_line("before it noticed");
  stage.tend();
  write_line("after");
  BOOST_CHECK_EQUAL(text_of(file), "after\n");
  BOOST_CHECK_EQUAL(text_of(folder / "node1.log.1"),
                    "to the first file, however long it may be\nbefore it noticed\n");
}

BOOST_FIXTURE_TEST_CASE(a_log_is_readable_by_its_owner_alone_and_no_link_is_followed, Fixture) {
  BOOST_CHECK_EQUAL(mode_of(file), 0600u);
  const fs::path open_to_all = folder / "old.log";
  std::ofstream(open_to_all) << "kept\n";
  fs::permissions(open_to_all, fs::perms(0644));
  BOOST_CHECK_THROW(log::open_log_file(open_to_all), InputError);
  fs::create_symlink(open_to_all, folder / "link.log");
  BOOST_CHECK_THROW(log::open_log_file(folder / "link.log"), InputError);
  BOOST_CHECK_THROW(log::open_log_file(folder / "nowhere" / "node1.log"), InputError);
  BOOST_CHECK_THROW(log::open_log_file(folder), InputError);
}

BOOST_FIXTURE_TEST_CASE(a_log_that_cannot_be_reopened_is_written_on_where_it_was, Fixture) {
  log::LogFile log(file, {});
  const int kept = open(file.c_str(), O_RDONLY | O_CLOEXEC);
  fs::remove_all(folder);
  log.tend();
  write_line("still heard");
  char text[4096] = {};
  BOOST_CHECK_GT(read(kept, text, sizeof text - 1), 0);
  BOOST_CHECK_NE(std::string(text).find("log.not_reopened"), std::string::npos);
  BOOST_CHECK_NE(std::string(text).find("still heard\n"), std::string::npos);
  close(kept);
}

BOOST_FIXTURE_TEST_CASE(a_full_disk_costs_lines_and_is_said_once_when_there_is_room_again, Fixture) {
  log::configure("info", false, "");
  const int kept = dup(STDERR_FILENO), full = open("/dev/full", O_WRONLY | O_CLOEXEC);
  log::info("before");
  const uint64_t lost_before = log::lines_lost();
  dup2(full, STDERR_FILENO);
  for (int i = 0; i < 3; ++i) log::info("lost");
  dup2(kept, STDERR_FILENO);
  log::info("after");
  log::info("later");
  close(full), close(kept);
  BOOST_CHECK_EQUAL(log::lines_lost(), lost_before + 3);
  const std::string text = text_of(file);
  BOOST_CHECK_EQUAL(text.find(" lost"), text.npos);
  for (const char* event : {" before", " after", " later"}) BOOST_CHECK_NE(text.find(event), text.npos);
  const size_t said = text.find("error log.lines_lost lines=3 reason=\"No space left on device\"\n");
  BOOST_REQUIRE_NE(said, text.npos);
  BOOST_CHECK_EQUAL(text.find("log.lines_lost", said + 10), text.npos);
  BOOST_CHECK_EQUAL(std::count(text.begin(), text.end(), '\n'), 4);
}

BOOST_FIXTURE_TEST_CASE(a_line_that_was_cut_off_is_no_part_of_the_next_one, Fixture) {
  log::configure("info", false, "");
  rlimit before{};
  BOOST_REQUIRE_EQUAL(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto ignored = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit short_one{50, before.rlim_max};
  BOOST_REQUIRE_EQUAL(setrlimit(RLIMIT_FSIZE, &short_one), 0);
  log::info("cut", {{"off", std::string(100, 'x')}});
  BOOST_REQUIRE_EQUAL(setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, ignored);
  log::info("whole");
  const std::string text = text_of(file);
  BOOST_CHECK_EQUAL(text.find('\n'), 50u);
  BOOST_CHECK_EQUAL(std::count(text.begin(), text.end(), '\n'), 3);
  BOOST_CHECK_NE(text.find("log.lines_lost lines=1"), text.npos);
}
