#include "model/mapping.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cassert>
#include <cerrno>
#include <cstring>
#include <initializer_list>
#include <system_error>

#include "model/error.hpp"
#include "model/scarce.hpp"

namespace convoy::model {

namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const char* action) {
  const int error = errno;
  throw InputError(std::string("cannot ") + action + ": " + std::generic_category().message(error),
                   path.string(), mend_of(error, "give a model file that this user may read"));
}

struct Descriptor {
  int fd;
  ~Descriptor() { ::close(fd); }
};

/// Of whole pages. Hints, so their results change nothing, but for the last one's error.
int advise(std::span<const std::byte> part, std::initializer_list<int> advice) {
  if (part.empty()) return 0;
  const auto page_bytes = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(part.data()) & ~(page_bytes - 1);
  const auto end = reinterpret_cast<uintptr_t>(part.data() + part.size());
  int error = 0;
  for (const int each : advice)
    error = ::madvise(reinterpret_cast<void*>(begin), end - begin, each) == 0 ? 0 : errno;
  return error;
}

}  // namespace

Mapping::Mapping(std::filesystem::path path, const std::byte* data, size_t size, Kind kind)
    : path_(std::move(path)), data_(data), size_(size), kind_(kind) {}

Mapping::~Mapping() { ::munmap(const_cast<std::byte*>(data_), size_); }

std::shared_ptr<const Mapping> Mapping::open(const std::filesystem::path& path) {
  // O_NONBLOCK: opening a FIFO must not wait for a writer; it is refused just below.
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) fail(path, "open");
  struct stat status;
  if (::fstat(file.fd, &status) != 0) fail(path, "stat");
  if (!S_ISREG(status.st_mode)) throw InputError("is not a regular file", path.string(), "give a file");
  if (status.st_size == 0) throw InputError("is empty", path.string(), "fetch it again");
  const auto size = static_cast<size_t>(status.st_size);
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (data == MAP_FAILED) fail(path, "map");
  // Reading around a fault may fetch megabytes, here of layers that belong to other stages.
  ::madvise(data, size, MADV_RANDOM);
  std::shared_ptr<Mapping> mapping(new Mapping(path, static_cast<const std::byte*>(data), size, Kind::file));
  mapping->identity_ = {size, status.st_ino, status.st_mtim.tv_sec * 1'000'000'000 + status.st_mtim.tv_nsec,
                        status.st_uid};
  return mapping;
}

std::shared_ptr<const Mapping> Mapping::copy_of(std::span<const std::byte> bytes,
                                                std::filesystem::path name) {
  assert(!bytes.empty());
  void* data = ::mmap(nullptr, bytes.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) fail(name, "take memory for");
  std::memcpy(data, bytes.data(), bytes.size());
  return std::shared_ptr<const Mapping>(
      new Mapping(std::move(name), static_cast<const std::byte*>(data), bytes.size(), Kind::copy));
}

std::shared_ptr<const Mapping> Mapping::reserve(size_t bytes, std::filesystem::path name,
                                                std::span<std::byte>& memory) {
  assert(bytes > 0);
  void* data =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) fail(name, "take memory for");
  memory = {static_cast<std::byte*>(data), bytes};
  return std::shared_ptr<const Mapping>(new Mapping(std::move(name), memory.data(), bytes, Kind::copy));
}

void Mapping::check(std::span<const std::byte> part) const {
  assert(part.empty() || (part.data() >= data_ && part.data() + part.size() <= data_ + size_));
}

void Mapping::will_need(std::span<const std::byte> part) const {
  check(part);
  model::will_need(part);
}

void Mapping::forget(std::span<const std::byte> part) const {
  if (kind_ == Kind::copy) return;  // a copy has no file to be fetched from again
  check(part);
  advise(part, {MADV_DONTNEED});  // private, never written: no loss
}

std::shared_ptr<const Mapping> open_file(const std::filesystem::path& path) {
  std::error_code ignored;  // a file that cannot be looked at is reported when it is opened
  if (std::filesystem::status(path, ignored).type() == std::filesystem::file_type::not_found) return nullptr;
  return Mapping::open(path);
}

// Normal first: the kernel evicts pages of random mappings sooner.
void will_need(std::span<const std::byte> part) { advise(part, {MADV_NORMAL, MADV_WILLNEED}); }

void fetch(std::span<const std::byte> part) {
  const int error = advise(part, {MADV_POPULATE_READ});
  if (error == EFAULT || error == EHWPOISON)  // whoever reads there would be ended by SIGBUS
    throw InputError("the file was shortened, or its disk failed: " + std::generic_category().message(error),
                     "the model's weights", "fetch the model again, or see to its disk");
}

}  // namespace convoy::model
