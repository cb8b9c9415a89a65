#include "actors/weights/weight_store.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "actors/process/log.hpp"
#include "actors/process/private_files.hpp"
#include "model/error.hpp"
#include "model/scarce.hpp"

namespace convoy::actors {

namespace fs = std::filesystem;

namespace {

constexpr size_t digest_chars = 64;
constexpr size_t models_max = 8;  // of which something is kept; those of before are forgotten
constexpr size_t read_bytes = 1 << 20;
constexpr uint64_t list_bytes_max = 256ull << 20;  // of a file of digests or uses
constexpr std::string_view part_suffix = ".part", digests_suffix = ".tensors";

[[noreturn]] void fail(const fs::path& file, const char* what, int error) {
  throw InputError(std::string(what) + ": " + std::strerror(error), file.string(),
                   mend_of(error, "see to the disk, or name another folder as store.dir"));
}

/// Of a file in the store; closed with the object.
struct StoreFile {
  int fd;
  StoreFile(const fs::path& file, int flags) : fd(open_private(file, flags)) {
    if (fd < 0 && ((flags & O_CREAT) != 0 || errno != ENOENT)) fail(file, "cannot be opened", errno);
  }
  ~StoreFile() {
    if (fd >= 0) ::close(fd);
  }
  StoreFile(const StoreFile&) = delete;
  StoreFile& operator=(const StoreFile&) = delete;
};

void write_all(int fd, const fs::path& file, std::string_view text) {
  while (!text.empty()) {
    const ssize_t some = ::write(fd, text.data(), text.size());
    if (some < 0 && errno == EINTR) continue;
    if (some <= 0) fail(file, "cannot be written", some < 0 ? errno : ENOSPC);
    text.remove_prefix(static_cast<size_t>(some));
  }
}

/// Empty if there is none.
std::string read_all(const fs::path& file) {
  const StoreFile opened(file, O_RDONLY);
  struct stat status {};
  if (opened.fd < 0 || ::fstat(opened.fd, &status) != 0) return {};
  if (static_cast<uint64_t>(status.st_size) > list_bytes_max)
    throw InputError("has " + std::to_string(status.st_size) + " bytes", file.string(), "delete it");
  std::string text(static_cast<size_t>(status.st_size), '\0');
  for (size_t at = 0; at < text.size();) {
    const ssize_t some = ::read(opened.fd, text.data() + at, text.size() - at);
    if (some < 0 && errno == EINTR) continue;
    if (some < 0) fail(file, "cannot be read", errno);
    if (some == 0) text.resize(at);
    at += static_cast<size_t>(some);
  }
  return text;
}

fs::path file_of(const fs::path& folder, const std::string& digest) { return folder / "tensors" / digest; }

struct Found {
  fs::path file;
  std::string digest;
  uint64_t bytes;
  int64_t used_ns;
};

/// Whole tensors and parts of them.
std::vector<Found> list_tensors(const fs::path& folder) {
  std::vector<Found> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    struct stat status {};
    if (::lstat(entry.path().c_str(), &status) != 0) continue;  // it went meanwhile
    found.push_back({entry.path(), entry.path().filename().string().substr(0, digest_chars),
                     static_cast<uint64_t>(status.st_size),
                     status.st_mtim.tv_sec * 1'000'000'000 + status.st_mtim.tv_nsec});
  }
  if (error) fail(folder, "cannot be listed", error.value());
  return found;
}

}  // namespace

bool is_digest(std::string_view text) {
  return text.size() == digest_chars && text.find_first_not_of("0123456789abcdef") == text.npos;
}

/// Of what concerns all of the store's processes; held for as long as files are listed.
struct WeightStore::Lock : StoreFile {
  explicit Lock(const fs::path& file) : StoreFile(file, O_RDWR | O_CREAT) {
    while (::flock(fd, LOCK_EX) != 0)
      if (errno != EINTR) fail(file, "cannot be locked", errno);
  }
};

std::unique_ptr<const WeightStore::Lock> WeightStore::lock() const {
  return std::make_unique<Lock>(folder_ / "lock");
}

WeightStore::WeightStore(fs::path folder, uint64_t bytes_max)
    : folder_(std::move(folder)), bytes_max_(bytes_max) {
  make_private_folder(folder_, "store.dir");
  for (const char* inner : {"tensors", "models", "uses"}) make_private_folder(folder_ / inner, "store.dir");
  const auto locked = lock();   // nobody takes our list for a dead one's
  for (uint32_t n = 0;; ++n) {  // more than one of a process: only in tests
    use_ = folder_ / "uses" / (std::to_string(::getpid()) + "-" + std::to_string(n));
    use_descriptor_ = open_private(use_, O_RDWR | O_CREAT);
    if (use_descriptor_ < 0) fail(use_, "cannot be opened", errno);
    if (::flock(use_descriptor_, LOCK_EX | LOCK_NB) == 0) return;
    ::close(use_descriptor_);
  }
}

WeightStore::~WeightStore() {
  ::unlink(use_.c_str());
  ::close(use_descriptor_);
}

std::vector<std::string> WeightStore::models() const {
  std::vector<std::string> models;
  for (const Found& found : list_tensors(folder_ / "models"))
    if (const std::string name = found.file.filename(); is_digest(name)) models.push_back(name);
  return models;
}

schema::Frame<schema::ModelOutline> WeightStore::outline(const std::string& model) const {
  const std::string text = read_all(folder_ / "models" / model);
  auto buffer = std::make_shared<schema::FrameBuffer>(text.size());
  std::memcpy(buffer->data(), text.data(), text.size());
  if (const auto refused = schema::refuse_frame({buffer->data(), buffer->size()}))
    throw InputError(*refused, (folder_ / "models" / model).string(), "delete it");
  return schema::Frame<schema::ModelOutline>{std::move(buffer)};
}

void WeightStore::keep(const std::string& model, const schema::Frame<schema::ModelOutline>& outline) const {
  assert(is_digest(model));
  auto known = list_tensors(folder_ / "models");
  std::ranges::sort(known, {}, &Found::used_ns);
  for (size_t i = 0; i + models_max < known.size(); ++i) ::unlink(known[i].file.c_str());
  const auto& bytes = outline.bytes();
  replace_private(folder_ / "models" / model,
                  std::string(reinterpret_cast<const char*>(bytes->data()), bytes->size()));
}

model::TensorDigests WeightStore::digests(const std::string& model) const {
  model::TensorDigests digests;
  std::istringstream lines(read_all(folder_ / "models" / (model + std::string(digests_suffix))));
  // A line that a killed process left half is none.
  for (std::string line; std::getline(lines, line);)
    if (line.size() > digest_chars + 1 && line[digest_chars] == ' ' &&
        is_digest(line.substr(0, digest_chars)))
      digests[line.substr(digest_chars + 1)] = line.substr(0, digest_chars);
  return digests;
}

void WeightStore::learn(const std::string& model, const model::TensorDigests& digests) const {
  const fs::path path = folder_ / "models" / (model + std::string(digests_suffix));
  const StoreFile file(path, O_WRONLY | O_CREAT | O_APPEND);
  std::string text = "\n";  // ends what a killed process left half
  for (const auto& [name, digest] : digests)
    if (name.find('\n') == name.npos) text += digest + " " + name + "\n";
  write_all(file.fd, path, text);
}

std::optional<fs::path> find_tensor(const fs::path& folder, const StoredTensor& tensor) {
  struct stat status {};
  fs::path file = file_of(folder, tensor.digest);
  if (::lstat(file.c_str(), &status) != 0 || !S_ISREG(status.st_mode) ||
      static_cast<uint64_t>(status.st_size) != tensor.bytes)
    return std::nullopt;
  return file;
}

void WeightStore::need(const std::vector<StoredTensor>& tensors) {
  const auto locked = lock();
  std::string text;
  for (const StoredTensor& tensor : tensors)
    text += tensor.digest + " " + std::to_string(tensor.bytes) + "\n";
  if (::ftruncate(use_descriptor_, 0) != 0 || ::lseek(use_descriptor_, 0, SEEK_SET) != 0)
    fail(use_, "cannot be written", errno);
  write_all(use_descriptor_, use_, text);
  for (const StoredTensor& tensor : tensors)
    ::utimensat(AT_FDCWD, file_of(folder_, tensor.digest).c_str(), nullptr, 0);
  make_room(needed_by_all());
}

/// Whoever holds the lock on a list lives.
std::map<std::string, uint64_t> WeightStore::needed_by_all() const {
  std::map<std::string, uint64_t> needed;
  for (const Found& found : list_tensors(folder_ / "uses")) {
    if (found.file != use_) {
      const StoreFile list(found.file, O_RDONLY);
      if (list.fd >= 0 && ::flock(list.fd, LOCK_SH | LOCK_NB) == 0) {
        ::unlink(found.file.c_str());
        continue;
      }
    }
    std::istringstream lines(read_all(found.file));
    std::string digest;
    for (uint64_t bytes; lines >> digest >> bytes;) needed[digest] = bytes;
  }
  return needed;
}

void WeightStore::make_room(const std::map<std::string, uint64_t>& needed) const {
  uint64_t bytes = 0;
  for (const auto& [digest, size] : needed) bytes += size;
  if (bytes > bytes_max_)
    throw InputError("the layers of this machine's stages have " + std::to_string(bytes >> 20) +
                         " MiB of weights, and store.bytes_max allows " + std::to_string(bytes_max_ >> 20) +
                         " MiB",
                     folder_.string(), "raise store.bytes_max, or give this machine fewer stages");
  std::vector<Found> others = list_tensors(folder_ / "tensors");
  std::erase_if(others, [&](const Found& found) { return needed.contains(found.digest); });
  std::ranges::sort(others, std::greater<>(), &Found::used_ns);  // what was used last stays
  for (const Found& found : others) {
    bytes += found.bytes;
    if (bytes <= bytes_max_) continue;
    log::info("store.removed", {{"tensor", found.digest}, {"bytes", found.bytes}});
    if (::unlink(found.file.c_str()) != 0 && errno != ENOENT) fail(found.file, "cannot be deleted", errno);
  }
}

// ---- parts ----

std::unique_ptr<WeightStore::Part> WeightStore::begin(const StoredTensor& tensor) const {
  const fs::path path = file_of(folder_, tensor.digest).string() + std::string(part_suffix);
  const int descriptor = open_private(path, O_RDWR | O_CREAT);
  if (descriptor < 0) fail(path, "cannot be opened", errno);
  std::unique_ptr<Part> part(new Part(path, tensor, descriptor));  // which closes it
  if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0) return nullptr;
  struct stat ours {
  }, there{};
  // Whoever had the lock before may have finished, and what is open here is the whole tensor.
  if (::fstat(descriptor, &ours) != 0 || ::lstat(path.c_str(), &there) != 0 || ours.st_ino != there.st_ino)
    return nullptr;
  if (find(tensor)) {
    ::unlink(path.c_str());
    return nullptr;
  }
  part->read_what_is_there();
  return part;
}

WeightStore::Part::Part(fs::path file, StoredTensor tensor, int descriptor)
    : file_(std::move(file)), tensor_(std::move(tensor)), descriptor_(descriptor) {}

WeightStore::Part::~Part() { ::close(descriptor_); }

void WeightStore::Part::read_what_is_there() {
  std::vector<std::byte> piece(read_bytes);
  for (;;) {
    const ssize_t some = ::read(descriptor_, piece.data(), piece.size());
    if (some < 0 && errno == EINTR) continue;
    if (some < 0) fail(file_, "cannot be read", errno);
    if (some == 0) break;
    bytes_ += static_cast<uint64_t>(some);
    sha_.update({piece.data(), static_cast<size_t>(some)});
  }
  if (bytes_ <= tensor_.bytes) return;
  if (::ftruncate(descriptor_, 0) != 0 || ::lseek(descriptor_, 0, SEEK_SET) != 0)
    fail(file_, "cannot be written", errno);
  bytes_ = 0;
  sha_ = model::Sha256();
}

void WeightStore::Part::append(std::span<const std::byte> bytes) {
  assert(bytes_ + bytes.size() <= tensor_.bytes);
  write_all(descriptor_, file_, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  sha_.update(bytes);
  bytes_ += bytes.size();
}

bool WeightStore::Part::finish() {
  assert(whole());
  if (sha_.hex() != tensor_.digest) {
    ::unlink(file_.c_str());
    return false;
  }
  // So that no power cut leaves a whole file without its bytes.
  if (::fdatasync(descriptor_) != 0) fail(file_, "cannot be written", errno);
  const fs::path whole = file_.parent_path() / tensor_.digest;
  if (::rename(file_.c_str(), whole.c_str()) != 0) fail(whole, "cannot be written", errno);
  return true;
}

}  // namespace convoy::actors
