#include "actors/process/secret.hpp"

#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <unistd.h>

#include <array>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <optional>
#include <stdexcept>

#include "actors/process/private_files.hpp"
#include "model/error.hpp"
#include "model/scarce.hpp"

namespace convoy::actors {
namespace {

/// Closes a descriptor at the end of its scope.
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

[[noreturn]] void refuse(const std::string& what, const std::string& path) {
  throw InputError(what + " (" + std::strerror(errno) + ")", path,
                   mend_of(errno, "make its folder writable for this user"));
}

/// The secret in the file, or nothing if there is no such file.
std::optional<std::string> read_secret(const std::string& path) {
  const Descriptor file{open_private(path, O_RDONLY)};
  if (file.fd < 0) {
    if (errno == ENOENT) return std::nullopt;
    refuse("the secret cannot be read", path);
  }
  std::array<char, secret_bytes + 1> bytes;  // one more than it should have, to notice a longer file
  if (::read(file.fd, bytes.data(), bytes.size()) != static_cast<ssize_t>(secret_bytes))
    throw InputError("the secret must have exactly " + std::to_string(secret_bytes) + " bytes", path,
                     "delete it to get a new one (cached answers are then forgotten)");
  return std::string(bytes.data(), secret_bytes);
}

}  // namespace

std::string load_or_create_secret(const std::string& path) {
  if (auto secret = read_secret(path)) return *secret;
  std::string secret(secret_bytes, '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(secret.data()), static_cast<int>(secret.size())) != 1)
    throw std::runtime_error("OpenSSL has no random bytes");
  // Written under another name and linked into place: the path never names half a secret, and never loses
  // one.
  const std::string draft = path + "." + std::to_string(::getpid());
  {
    ::unlink(draft.c_str());  // of a process that had our number and was killed
    const Descriptor file{open_private(draft, O_WRONLY | O_CREAT | O_EXCL)};
    if (file.fd < 0) refuse("the secret cannot be written", path);
    if (::write(file.fd, secret.data(), secret.size()) != static_cast<ssize_t>(secret.size()) ||
        ::fsync(file.fd) != 0) {
      ::unlink(draft.c_str());
      refuse("the secret cannot be written", path);
    }
  }
  const int linked = ::link(draft.c_str(), path.c_str());
  const int problem = errno;
  ::unlink(draft.c_str());
  if (linked == 0) return secret;
  errno = problem;
  if (problem != EEXIST) refuse("the secret cannot be written", path);
  auto other = read_secret(path);  // another process was faster: its secret counts
  if (!other) refuse("the secret cannot be read", path);
  return *other;
}

std::string hmac_sha256(std::string_view key, std::string_view message) {
  std::string digest(32, '\0');
  unsigned length = 0;
  const auto* done = HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
                          reinterpret_cast<const unsigned char*>(message.data()), message.size(),
                          reinterpret_cast<unsigned char*>(digest.data()), &length);
  if (!done || length != digest.size()) throw std::runtime_error("OpenSSL cannot compute HMAC-SHA-256");
  return digest;
}

std::string derive_key(std::string_view secret, std::string_view purpose) {
  assert(secret.size() == secret_bytes);
  return hmac_sha256(secret, std::string("convoy-key-1:").append(purpose));
}

}  // namespace convoy::actors
