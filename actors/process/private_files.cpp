#include "actors/process/private_files.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <system_error>

#include "model/error.hpp"
#include "model/scarce.hpp"

namespace convoy::actors {

namespace fs = std::filesystem;

namespace {

/// Throws unless what is open is this user's and closed to others.
void require_private(int descriptor, const fs::path& path, const char* mode,
                     const std::string& key = "place (for the run directory: cluster.run_dir)") {
  struct stat status {};
  std::string problem, mend;
  if (::fstat(descriptor, &status) != 0) {
    problem = std::string("cannot be looked at: ") + std::strerror(errno);
  } else if (status.st_uid != ::geteuid()) {
    problem = "belongs to user " + std::to_string(status.st_uid) + ", this process runs as user " +
              std::to_string(::geteuid());
    mend = "run Convoy as that user, or choose another " + key;
  } else if ((status.st_mode & 077) != 0) {
    problem = "is open to other users";
    mend = std::string("chmod ") + mode + " " + path.string();
  }
  if (problem.empty()) return;
  ::close(descriptor);
  throw InputError(problem, path.string(), mend);
}

}  // namespace

void make_private_folder(const fs::path& folder, const std::string& key) {
  std::error_code error;
  fs::create_directories(folder.parent_path(), error);  // what is wrong there shows below
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST)
    throw InputError(std::string("cannot be made: ") + std::strerror(errno), folder.string(),
                     mend_of(errno, "choose a " + key + " that this user can write"));
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (descriptor < 0) {
    const int problem = errno;
    if (fs::is_symlink(folder, error))
      throw InputError("is a symbolic link, which another user may have put there", folder.string(),
                       "name the folder that is meant as " + key + ", or rm " + folder.string());
    throw InputError(std::string("cannot be opened as a folder: ") + std::strerror(problem), folder.string(),
                     mend_of(problem, "choose another " + key));
  }
  require_private(descriptor, folder, "700", key);
  ::close(descriptor);
}

int open_private(const fs::path& file, int flags) {
  // Not to wait for the other end of what turns out to be a pipe.
  const int descriptor = ::open(file.c_str(), flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
  if (descriptor < 0) {
    if (errno != ELOOP) return -1;
    throw InputError("is a symbolic link, which another user may have put there", file.string(),
                     "rm " + file.string());
  }
  struct stat status {};
  if (::fstat(descriptor, &status) == 0 && !S_ISREG(status.st_mode)) {
    ::close(descriptor);
    throw InputError("is no ordinary file", file.string(), "rm " + file.string());
  }
  require_private(descriptor, file, "600");
  return descriptor;
}

void replace_private(const fs::path& file, const std::string& text) {
  const fs::path draft = file.string() + "." + std::to_string(::getpid());
  ::unlink(draft.c_str());  // of a process that had our number and was killed
  const int descriptor = open_private(draft, O_WRONLY | O_CREAT | O_EXCL);
  bool written = descriptor >= 0;
  for (size_t at = 0; written && at < text.size();) {
    const ssize_t some = ::write(descriptor, text.data() + at, text.size() - at);
    written = some > 0;
    if (written) at += static_cast<size_t>(some);
  }
  written = written && ::fsync(descriptor) == 0;
  const int problem = errno;
  if (descriptor >= 0) ::close(descriptor);
  if (written && ::rename(draft.c_str(), file.c_str()) == 0) return;
  const int failed = written ? errno : problem;
  ::unlink(draft.c_str());
  throw InputError(std::string("cannot be written: ") + std::strerror(failed), file.string(),
                   mend_of(failed, "make its folder writable for this user"));
}

std::string stamp_of(const fs::path& file) {
  struct stat status {};
  if (::stat(file.c_str(), &status) != 0) return {};
  return std::to_string(status.st_ino) + " " + std::to_string(status.st_size) + " " +
         std::to_string(status.st_ctim.tv_sec) + "." + std::to_string(status.st_ctim.tv_nsec);
}

}  // namespace convoy::actors
