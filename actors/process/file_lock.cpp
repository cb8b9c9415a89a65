#include "actors/process/file_lock.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "actors/process/private_files.hpp"
#include "model/error.hpp"
#include "model/scarce.hpp"

namespace convoy::actors {

namespace {

constexpr std::chrono::seconds lock_waited_for{2};

}  // namespace

FileLock::FileLock(const std::filesystem::path& file) : descriptor_(open_private(file, O_RDWR | O_CREAT)) {
  const auto until = std::chrono::steady_clock::now() + lock_waited_for;
  while (descriptor_ >= 0 && ::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    const int problem = errno;
    if (problem == EWOULDBLOCK && std::chrono::steady_clock::now() < until) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      continue;
    }
    ::close(descriptor_);
    errno = problem;
    descriptor_ = -1;
  }
  if (descriptor_ < 0)
    throw InputError(std::string("cannot be locked: ") + std::strerror(errno), file.string(),
                     mend_of(errno, "try again"));
}

FileLock::~FileLock() { ::close(descriptor_); }

}  // namespace convoy::actors
