#include "model/text_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "model/error.hpp"

namespace convoy::model {

namespace {

struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

}  // namespace

std::string read_text_file(const std::filesystem::path& path, size_t bytes_max, const std::string& mend) {
  const auto fail = [&] {
    throw InputError("cannot be read: " + std::generic_category().message(errno), path.string(), mend);
  };
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) fail();
  constexpr size_t piece_bytes = 64 << 10;
  std::string text;
  while (text.size() < bytes_max) {
    const size_t before = text.size(), wanted = std::min(piece_bytes, bytes_max - before);
    text.resize(before + wanted);
    const ssize_t got = ::read(file.fd, text.data() + before, wanted);
    if (got < 0 && errno != EINTR) fail();
    text.resize(before + static_cast<size_t>(std::max<ssize_t>(got, 0)));
    if (got == 0) break;
  }
  return text;
}

}  // namespace convoy::model
