#include "gpu/block_file.hpp"

#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include "model/error.hpp"
#include "model/scarce.hpp"

namespace convoy::gpu {

namespace {

using std::to_string;

// Encrypted and written at once: what stays in a core's cache.
constexpr size_t piece_bytes = 256 << 10;

using Cipher = std::unique_ptr<EVP_CIPHER_CTX, decltype(&EVP_CIPHER_CTX_free)>;

unsigned char* raw(std::byte* bytes) { return reinterpret_cast<unsigned char*>(bytes); }
const unsigned char* raw(const std::byte* bytes) { return reinterpret_cast<const unsigned char*>(bytes); }

void require_cipher(int done) {
  if (done != 1) throw std::runtime_error("OpenSSL cannot run AES-128-GCM");
}

/// number: of the copy, never the same twice under one key.
Cipher start_cipher(bool encrypt, std::span<const std::byte, 16> key, uint64_t number) {
  std::byte nonce[12]{};
  std::memcpy(nonce, &number, sizeof number);
  Cipher cipher(EVP_CIPHER_CTX_new(), &EVP_CIPHER_CTX_free);
  if (!cipher) throw std::bad_alloc();
  require_cipher(
      EVP_CipherInit_ex(cipher.get(), EVP_aes_128_gcm(), nullptr, raw(key.data()), raw(nonce), encrypt));
  return cipher;
}

std::string error_text(int error) { return std::strerror(error); }

[[noreturn]] void fail(const std::string& what, const std::filesystem::path& folder, uint32_t place,
                       const std::string& why) {
  throw std::runtime_error("KV block in place " + to_string(place) + " on disk, in " + folder.string() +
                           ", " + what + ": " + why);
}

/// All of it, or nothing and why. transfer: pread or pwrite.
template <class Bytes>
std::string transfer_all(ssize_t (*transfer)(int, Bytes, size_t, off_t), int fd, Bytes bytes, size_t count,
                         uint64_t offset) {
  using Byte = std::remove_pointer_t<Bytes>;
  auto* at = static_cast<std::conditional_t<std::is_const_v<Byte>, const std::byte, std::byte>*>(bytes);
  while (count > 0) {
    const ssize_t done = transfer(fd, at, count, static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return error_text(errno);
    if (done == 0) return "the file ends at " + to_string(offset);
    at += done, count -= static_cast<size_t>(done), offset += static_cast<uint64_t>(done);
  }
  return {};
}

/// A file that has no name any more.
int open_unnamed(const std::filesystem::path& folder) {
  std::string name = folder / "kv-XXXXXX";
  const int fd = mkostemp(name.data(), O_CLOEXEC);
  if (fd < 0)
    throw InputError("no file can be made there: " + error_text(errno), folder.string(),
                     mend_of(errno,
                             "set stage.kv_disk_dir to a folder that is there and may be written, or "
                             "stage.kv_disk_bytes to 0"));
  unlink(name.c_str());
  return fd;
}

}  // namespace

BlockFile::BlockFile(const std::filesystem::path& folder, uint64_t bytes, uint64_t block_bytes)
    : folder_(folder), block_bytes_(block_bytes), piece_(piece_bytes) {
  const uint64_t count = std::min<uint64_t>(bytes / block_bytes, std::numeric_limits<uint32_t>::max());
  if (count == 0)
    throw InputError("stage.kv_disk_bytes is " + to_string(bytes) +
                         ", and one KV block of this stage takes " + to_string(block_bytes),
                     folder.string(), "raise it, or set it to 0");
  if (RAND_bytes(raw(key_.data()), static_cast<int>(key_.size())) != 1)
    throw std::runtime_error("OpenSSL has no random bytes");
  fd_ = open_unnamed(folder);
  if (const int error = posix_fallocate(fd_, 0, static_cast<off_t>(count * block_bytes)); error != 0) {
    close(fd_);
    throw InputError(
        to_string(count * block_bytes) + " bytes for KV blocks cannot be had: " + error_text(error),
        folder.string(), "lower stage.kv_disk_bytes, or set stage.kv_disk_dir to another disk");
  }
  places_.resize(count);
}

BlockFile::~BlockFile() { close(fd_); }

void BlockFile::clear() { std::ranges::fill(places_, Place{}); }

void BlockFile::save(uint32_t number, std::span<const std::byte> block) {
  assert(number < places_.size() && block.size() == block_bytes_);
  Place& place = places_[number];
  place = {};
  const uint64_t copy = ++saved_;
  const Cipher cipher = start_cipher(true, key_, copy);
  uint64_t offset = number * block_bytes_;
  int written = 0;
  while (!block.empty()) {
    const auto part = block.first(std::min(block.size(), piece_.size()));
    require_cipher(EVP_CipherUpdate(cipher.get(), raw(piece_.data()), &written, raw(part.data()),
                                    static_cast<int>(part.size())));
    const auto why = transfer_all<const void*>(pwrite, fd_, piece_.data(), part.size(), offset);
    if (!why.empty()) fail("cannot be written", folder_, number, why);
    offset += part.size();
    block = block.subspan(part.size());
  }
  require_cipher(EVP_CipherFinal_ex(cipher.get(), raw(piece_.data()), &written));
  require_cipher(EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_GCM_GET_TAG, static_cast<int>(place.tag.size()),
                                     place.tag.data()));
  place.number = copy;
}

void BlockFile::load(uint32_t number, std::span<std::byte> block) const {
  assert(number < places_.size() && holds(number) && block.size() == block_bytes_);
  Place place = places_[number];  // OpenSSL takes the tag as if it wrote it
  const Cipher cipher = start_cipher(false, key_, place.number);
  uint64_t offset = number * block_bytes_;
  int written = 0;
  for (size_t done = 0; done < block.size();) {
    const auto part = block.subspan(done, std::min(block.size() - done, piece_bytes));
    const auto why = transfer_all<void*>(pread, fd_, part.data(), part.size(), offset);
    if (!why.empty()) fail("cannot be read", folder_, number, why);
    require_cipher(EVP_CipherUpdate(cipher.get(), raw(part.data()), &written, raw(part.data()),
                                    static_cast<int>(part.size())));
    offset += part.size();
    done += part.size();
  }
  require_cipher(EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_GCM_SET_TAG, static_cast<int>(place.tag.size()),
                                     place.tag.data()));
  std::byte none[16];
  if (EVP_CipherFinal_ex(cipher.get(), raw(none), &written) != 1)
    fail("is damaged", folder_, number, "it is not what was saved");
}

}  // namespace convoy::gpu
