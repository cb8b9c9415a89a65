#pragma once
// How much memory this process may use: of the machine, and of the control groups that it is in (a container,
// a systemd unit, a job). Read anew by every call, from any thread.

#include <cstdint>
#include <filesystem>
#include <string>

namespace convoy::model {

struct MemoryLimit {
  uint64_t bytes = 0;  // 0: the system does not say
  std::string set_by;  // "MemTotal", "MemAvailable", "ulimit -v", "ulimit -d", or the control group's file
};

/// The least of what the machine has and of what each control group (v1 or v2) around this process allows.
/// `root` is where /proc and /sys are looked for.
MemoryLimit memory_limit(const std::filesystem::path& root = "/");

/// What the system could give now without swapping, caches of files included ("MemAvailable"); never more
/// than the limit, or than this process's own ones leave it.
MemoryLimit memory_available(const std::filesystem::path& root = "/");

}  // namespace convoy::model
