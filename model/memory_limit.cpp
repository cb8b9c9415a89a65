#include "model/memory_limit.hpp"

#include <unistd.h>

#include <charconv>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <vector>

namespace convoy::model {

namespace {

namespace fs = std::filesystem;

std::optional<uint64_t> number(const std::string& text) {
  uint64_t value = 0;
  const auto end = text.data() + text.size();
  const auto [last, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && last == end ? std::optional(value) : std::nullopt;
}

/// A line of /proc/meminfo in bytes; 0 if there is none.
uint64_t from_meminfo(const fs::path& root, const std::string& wanted) {
  std::ifstream in(root / "proc/meminfo");
  uint64_t kib = 0;
  for (std::string key; in >> key;) {
    if (key == wanted + ":") return in >> kib ? kib * 1024 : 0;
    in.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return 0;
}

/// Control groups that count memory, as they are mounted: `group` of them at the folder `at`.
struct Hierarchy {
  bool v2 = false;
  fs::path group, at;
};

bool has_item(const std::string& list, const std::string& wanted) {
  std::istringstream in(list);
  for (std::string item; std::getline(in, item, ',');)
    if (item == wanted) return true;
  return false;
}

std::vector<Hierarchy> hierarchies(const fs::path& root) {
  std::vector<Hierarchy> found;
  std::ifstream in(root / "proc/self/mountinfo");
  for (std::string line; std::getline(in, line);) {
    // id, parent, device, group, folder, options, any number of others, "-", type, source, its options
    const size_t middle = line.find(" - ");
    if (middle == line.npos) continue;
    std::istringstream front(line.substr(0, middle)), back(line.substr(middle + 3));
    std::string skipped, group, at, type, source, options;
    front >> skipped >> skipped >> skipped >> group >> at;
    back >> type >> source >> options;
    if (type == "cgroup2" || (type == "cgroup" && has_item(options, "memory")))
      found.push_back({type == "cgroup2", group, root / fs::path(at).relative_path()});
  }
  return found;
}

/// What this process's own limit of that name in /proc/self/limits leaves it, which has so many pages.
uint64_t left_of(const fs::path& root, const std::string& name, uint64_t pages) {
  std::ifstream in(root / "proc/self/limits");  // a line is name, soft limit or "unlimited", hard limit, unit
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(name)) continue;
    std::string soft;
    std::istringstream(line.substr(name.size())) >> soft;
    const auto limit = number(soft);
    if (!limit) break;
    const uint64_t taken = pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    return *limit > taken ? *limit - taken : 0;
  }
  return std::numeric_limits<uint64_t>::max();
}

/// The group of this process: "0::PATH" for v2, "N:CONTROLLERS:PATH" for v1.
std::optional<fs::path> own_group(const fs::path& root, bool v2) {
  std::ifstream in(root / "proc/self/cgroup");
  for (std::string line; std::getline(in, line);) {
    const size_t first = line.find(':'), second = first == line.npos ? first : line.find(':', first + 1);
    if (second == line.npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (v2 ? line.substr(0, second) == "0:" : has_item(controllers, "memory"))
      return fs::path(line.substr(second + 1)).lexically_normal();
  }
  return std::nullopt;
}

/// The path of a group within what is mounted. Without a namespace of its own a container sees the machine's
/// path of its group, and mounted only the group itself.
fs::path within(const Hierarchy& hierarchy, const fs::path& group) {
  const fs::path inside = group.lexically_relative(hierarchy.group);
  return inside.empty() || *inside.begin() == ".." ? group.relative_path() : inside;
}

}  // namespace

MemoryLimit memory_limit(const fs::path& root) {
  MemoryLimit least{from_meminfo(root, "MemTotal"), "MemTotal"};
  for (const Hierarchy& hierarchy : hierarchies(root)) {
    const auto group = own_group(root, hierarchy.v2);
    if (!group) continue;
    fs::path folder = hierarchy.at;
    const auto look = [&] {
      const fs::path file = folder / (hierarchy.v2 ? "memory.max" : "memory.limit_in_bytes");
      std::string text;
      std::ifstream(file) >> text;  // "max", and no file at the top: no limit
      const auto bytes = number(text);
      if (bytes && (least.bytes == 0 || *bytes < least.bytes)) least = {*bytes, file.lexically_normal()};
    };
    look();
    for (const fs::path& part : within(hierarchy, *group)) {
      folder /= part;
      look();
    }
  }
  return least.bytes == 0 ? MemoryLimit() : least;
}

MemoryLimit memory_available(const fs::path& root) {
  MemoryLimit least{from_meminfo(root, "MemAvailable"), "MemAvailable"};
  if (least.bytes == 0) return {};
  const auto look = [&](const MemoryLimit& other) {
    if (other.bytes < least.bytes) least = other;
  };
  if (const MemoryLimit limit = memory_limit(root); limit.bytes > 0) look(limit);
  // Pages that are mapped, resident, shared, of programs' text, 0, and that may be written.
  uint64_t mapped = 0, skipped = 0, written = 0;
  std::ifstream(root / "proc/self/statm") >> mapped >> skipped >> skipped >> skipped >> skipped >> written;
  look({left_of(root, "Max address space", mapped), "ulimit -v"});
  look({left_of(root, "Max data size", written), "ulimit -d"});
  return least;
}

}  // namespace convoy::model
