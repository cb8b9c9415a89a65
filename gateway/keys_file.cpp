#include "gateway/keys_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "actors/process/file_lock.hpp"
#include "actors/process/private_files.hpp"
#include "model/error.hpp"
#include "model/scarce.hpp"

namespace convoy::gateway {

namespace fs = std::filesystem;

ApiKeys load_keys(const fs::path& file) {
  const int descriptor = actors::open_private(file, O_RDONLY);
  if (descriptor < 0)
    throw InputError(std::string("cannot be read: ") + std::strerror(errno), file.string(),
                     mend_of(errno, errno == ENOENT ? "make the first key with `convoy key create`"
                                                    : "make it readable for this user"));
  std::string text(keys_file_bytes_max + 1, '\0');
  size_t size = 0;
  ssize_t some = 0;
  while ((some = ::read(descriptor, text.data() + size, text.size() - size)) > 0)
    size += static_cast<size_t>(some);
  const int problem = errno;
  ::close(descriptor);
  if (some < 0)
    throw InputError(std::string("cannot be read: ") + std::strerror(problem), file.string(),
                     mend_of(problem, "try again"));
  if (size > keys_file_bytes_max)
    throw InputError("is longer than " + std::to_string(keys_file_bytes_max) + " bytes", file.string(),
                     "name a file of keys, as `convoy key create` makes it");
  text.resize(size);
  return read_keys(text, file.string());
}

void change_keys(const fs::path& file, const std::function<void(ApiKeys&)>& change) {
  const actors::FileLock lock(file.string() + ".lock");
  std::error_code unknown;  // then load_keys() says why
  const bool is_new = fs::symlink_status(file, unknown).type() == fs::file_type::not_found;
  ApiKeys keys = is_new ? ApiKeys() : load_keys(file);
  change(keys);
  actors::replace_private(file, text_of(keys));
}

std::string make_key(const fs::path& file, ApiKey wanted) {
  DrawnKey drawn = draw_key();
  wanted.id = std::move(drawn.id);
  wanted.digest = std::move(drawn.digest);
  change_keys(file, [&](ApiKeys& keys) {
    if (keys.size() == keys_max)
      throw InputError("holds " + std::to_string(keys_max) + " keys already", file.string(),
                       "`convoy key revoke` those that are not needed");
    keys.push_back(std::move(wanted));
  });
  return std::move(drawn.text);
}

std::unique_ptr<KeyRing> open_keys(const fs::path& file) {
  if (file.empty()) return nullptr;
  return std::make_unique<KeyRing>("gateway.keys", std::vector{file},
                                   [file] { return std::make_shared<const ApiKeys>(load_keys(file)); });
}

}  // namespace convoy::gateway
