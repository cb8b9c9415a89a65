// How much memory a process may use: the machine's, or what the control groups around it allow.

#include "model/memory_limit.hpp"

#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <cerrno>
#include <fstream>
#include <map>

#include "model/scarce.hpp"
#include "test/model/files.hpp"

using namespace convoy::model;
namespace fs = std::filesystem;

namespace {

using Files = std::map<std::string, std::string>;

constexpr const char* meminfo = "MemTotal:       8000 kB\nMemFree: 100 kB\nMemAvailable:    5000 kB\n";
constexpr const char* v2_mount =
    "22 1 0:20 / /proc rw,nosuid shared:5 - proc proc rw\n"
    "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
constexpr const char* v1_mounts =
    "31 30 0:27 GROUP /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "32 30 0:28 GROUP /sys/fs/cgroup/memory rw master:7 - cgroup cgroup rw,memory\n";

class Machine {
 public:
  explicit Machine(const Files& files) {
    for (const auto& [path, text] : files) {
      fs::create_directories((folder_.path() / path).parent_path());
      std::ofstream(folder_.path() / path) << text;
    }
  }
  MemoryLimit limit() const { return memory_limit(folder_.path()); }
  MemoryLimit available() const { return memory_available(folder_.path()); }
  std::string file(const std::string& path) const { return (folder_.path() / path).string(); }

 private:
  convoy::test::TemporaryFolder folder_;
};

std::string mounted(std::string text, const std::string& group) {
  for (size_t at; (at = text.find("GROUP")) != text.npos;) text.replace(at, 5, group);
  return text;
}

}  // namespace

BOOST_AUTO_TEST_CASE(without_control_groups_it_is_the_machines_memory) {
  BOOST_TEST(Machine({}).limit().bytes == 0u);
  BOOST_TEST(Machine({}).available().bytes == 0u);
  const Machine machine({{"proc/meminfo", meminfo}, {"proc/self/mountinfo", "nonsense\n1 2\n - \n"}});
  BOOST_TEST(machine.limit().bytes == 8000u * 1024);
  BOOST_TEST(machine.limit().set_by == "MemTotal");
  BOOST_TEST(machine.available().bytes == 5000u * 1024);
}

BOOST_AUTO_TEST_CASE(the_tightest_group_up_the_tree_counts) {
  Files files{{"proc/meminfo", meminfo},
              {"proc/self/mountinfo", v2_mount},
              {"proc/self/cgroup", "0::/jobs.slice/one.scope\n"},
              {"sys/fs/cgroup/jobs.slice/memory.max", "3000000\n"},
              {"sys/fs/cgroup/jobs.slice/one.scope/memory.max", "max\n"},
              {"sys/fs/cgroup/jobs.slice/other.scope/memory.max", "1000\n"}};
  const Machine below(files);
  BOOST_TEST(below.limit().bytes == 3'000'000u);
  BOOST_TEST(below.limit().set_by == below.file("sys/fs/cgroup/jobs.slice/memory.max"));
  BOOST_TEST(below.available().bytes == 3'000'000u);  // fewer than MemAvailable
  files["sys/fs/cgroup/jobs.slice/one.scope/memory.max"] = "2000000\n";
  BOOST_TEST(Machine(files).limit().bytes == 2'000'000u);
  files["sys/fs/cgroup/jobs.slice/memory.max"] = files["sys/fs/cgroup/jobs.slice/one.scope/memory.max"] =
      "9000000000\n";  // more than there is
  BOOST_TEST(Machine(files).limit().set_by == "MemTotal");
  files["sys/fs/cgroup/jobs.slice/one.scope/memory.max"] = "damaged\n";
  BOOST_TEST(Machine(files).limit().set_by == "MemTotal");
}

BOOST_AUTO_TEST_CASE(what_a_process_may_map_counts_less_what_it_has) {
  const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const auto left = [](const std::string& data, const std::string& mapped, const std::string& pages) {
    const Machine machine({{"proc/meminfo", meminfo},
                           {"proc/self/statm", pages},
                           {"proc/self/limits",
                            "Limit                     Soft Limit           Hard Limit           Units     \n"
                            "Max cpu time              unlimited            unlimited            seconds   \n"
                            "Max data size             " +
                                data +
                                "            unlimited            bytes     \n"
                                "Max address space         " +
                                mapped + "            unlimited            bytes     \n"}});
    return machine.available();
  };
  const std::string limit = std::to_string(1'000 * page);
  const auto mapped = left("unlimited", limit, "900 9 9 9 0 9 0\n");
  BOOST_TEST(mapped.bytes == 100 * page);
  BOOST_TEST(mapped.set_by == "ulimit -v");
  const auto data = left(limit, "unlimited", "9999 9 9 9 0 901 0\n");
  BOOST_TEST(data.bytes == 99 * page);
  BOOST_TEST(data.set_by == "ulimit -d");
  BOOST_TEST(left("unlimited", limit, "1001 9 9 9 0 9 0\n").bytes == 0u);
  BOOST_TEST(left("unlimited", "unlimited", "1001 9 9 9 0 9 0\n").set_by == "MemAvailable");
  BOOST_TEST(left("9000000000", "9000000000", "1001 9 9 9 0 9 0\n").set_by == "MemAvailable");
}

BOOST_AUTO_TEST_CASE(who_lacks_descriptors_is_not_sent_to_look_at_permissions) {
  BOOST_TEST(convoy::mend_of(EMFILE, "make it readable").find("ulimit -n") != std::string::npos);
  BOOST_TEST(convoy::mend_of(EACCES, "make it readable") == "make it readable");
  BOOST_TEST(convoy::mend_of_scarce(ENOENT).empty());
}

BOOST_AUTO_TEST_CASE(a_container_with_a_namespace_of_its_own_sees_its_limit_at_the_top) {
  const Machine machine({{"proc/meminfo", meminfo},
                         {"proc/self/mountinfo", v2_mount},
                         {"proc/self/cgroup", "0::/\n"},
                         {"sys/fs/cgroup/memory.max", "4000000\n"}});
  BOOST_TEST(machine.limit().bytes == 4'000'000u);
}

BOOST_AUTO_TEST_CASE(version_1_has_a_hierarchy_for_memory) {
  const std::string groups = "4:cpu,cpuacct:/docker/ab\n3:memory:/docker/ab\n";
  const Machine host({{"proc/meminfo", meminfo},
                      {"proc/self/mountinfo", mounted(v1_mounts, "/")},
                      {"proc/self/cgroup", groups},
                      {"sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"},
                      {"sys/fs/cgroup/memory/docker/ab/memory.limit_in_bytes", "2500000\n"}});
  BOOST_TEST(host.limit().bytes == 2'500'000u);
  // Inside of the container only its own group is mounted, and called by the machine's path.
  for (const std::string group : {"/docker/ab", "/"}) {
    const Machine inside({{"proc/meminfo", meminfo},
                          {"proc/self/mountinfo", mounted(v1_mounts, group)},
                          {"proc/self/cgroup", groups},
                          {"sys/fs/cgroup/memory/memory.limit_in_bytes", "2500000\n"}});
    BOOST_TEST(inside.limit().bytes == 2'500'000u);
  }
}
