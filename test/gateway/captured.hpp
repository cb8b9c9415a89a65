#pragma once
// The log of this process, for tests of what stands in it.

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "test/patience.hpp"

namespace convoy::gateway::test {

/// What this process writes to stderr meanwhile.
class Captured {
 public:
  Captured() : file_(std::filesystem::temp_directory_path() / ("convoy-log-" + std::to_string(::getpid()))) {
    saved_ = ::dup(STDERR_FILENO);
    const int to = ::open(file_.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_APPEND, 0600);
    ::dup2(to, STDERR_FILENO);
    ::close(to);
  }
  ~Captured() {
    ::dup2(saved_, STDERR_FILENO);
    ::close(saved_);
    std::filesystem::remove(file_);
  }
  std::string all() const {
    std::ifstream in(file_);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  /// The lines of that event, once there are so many.
  std::vector<std::string> lines(const std::string& event, size_t count) const {
    std::vector<std::string> found;
    convoy::test::comes_true([&] {
      found.clear();
      std::ifstream in(file_);
      for (std::string line; std::getline(in, line);)
        if (line.find(" " + event + " ") != std::string::npos) found.push_back(line);
      return found.size() >= count;
    });
    return found;
  }

 private:
  std::filesystem::path file_;
  int saved_;
};

}  // namespace convoy::gateway::test
