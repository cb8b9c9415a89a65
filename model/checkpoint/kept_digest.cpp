#include "model/checkpoint/kept_digest.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sstream>
#include <thread>

namespace convoy::model {

namespace fs = std::filesystem;

namespace {

constexpr size_t hex_chars = 64;
constexpr off_t kept_bytes_max = 256 << 20;
/// What is kept, by the ends of the files' names.
constexpr const char *of_all = ".convoy-digest", *of_tensors = ".convoy-tensors";
constexpr std::chrono::milliseconds lock_poll{20};

struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

/// What the digest stands for: a kept one is good if it begins with the same text.
std::string describe_files(const Checkpoint& checkpoint) {
  std::string text = "convoy digest 1\n";
  for (const auto& [name, file] : checkpoint.files()) {
    const FileIdentity& is = file->identity();
    text += std::to_string(is.bytes) + " bytes, changed at " + std::to_string(is.changed_ns) + " ns, inode " +
            std::to_string(is.inode) + ": " + name + "\n";
  }
  return text + "sha256 ";
}

fs::path beside(const Checkpoint& checkpoint, const char* kept) {
  if (checkpoint.is_gguf()) return checkpoint.path().string() + kept;
  return checkpoint.path() / kept;
}

fs::path in_folder(const Checkpoint& checkpoint, const fs::path& folder, const char* kept) {
  return folder / (checkpoint.path().filename().string() + kept);
}

/// Whoever may write the model may say what its digest is; nobody else may.
bool is_trustworthy(const struct stat& status, const Checkpoint& checkpoint) {
  if (!S_ISREG(status.st_mode) || (status.st_mode & 022) != 0) return false;
  return status.st_uid == ::geteuid() || status.st_uid == checkpoint.files().front().second->identity().owner;
}

/// What stands behind the description, if that fits.
std::optional<std::string> read_kept(const fs::path& path, const Checkpoint& checkpoint) {
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)};
  struct stat status {};
  if (file.fd < 0 || ::fstat(file.fd, &status) != 0 || !is_trustworthy(status, checkpoint) ||
      status.st_size > kept_bytes_max)
    return std::nullopt;
  const std::string expected = describe_files(checkpoint);
  std::string text(static_cast<size_t>(status.st_size), '\0');
  if (::read(file.fd, text.data(), text.size()) != static_cast<ssize_t>(text.size()) ||
      !text.starts_with(expected))
    return std::nullopt;
  return text.substr(expected.size());
}

bool is_hex(std::string_view text) { return text.find_first_not_of("0123456789abcdef") == text.npos; }

std::optional<std::string> read_digest(const fs::path& path, const Checkpoint& checkpoint) {
  const auto kept = read_kept(path, checkpoint);
  if (!kept || kept->size() != hex_chars + 1 || !is_hex({kept->data(), hex_chars})) return std::nullopt;
  return kept->substr(0, hex_chars);
}

/// All or nothing. False if it cannot be written there.
bool write_kept(const fs::path& path, const std::string& text) {
  std::string draft = path.string() + ".XXXXXX";
  const Descriptor file{::mkostemp(draft.data(), O_CLOEXEC)};
  if (file.fd < 0) return false;
  const bool written = ::write(file.fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
                       ::fchmod(file.fd, 0644) == 0 && ::rename(draft.c_str(), path.c_str()) == 0;
  if (!written) ::unlink(draft.c_str());
  return written;
}

/// Waits for its turn to compute. It may be had without: then two may read the model at a time.
Descriptor wait_for_turn(const fs::path& folder, const std::stop_token& stop) {
  Descriptor lock{::open((folder / "convoy-digest.lock").c_str(),
                         O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600)};
  while (lock.fd >= 0 && !stop.stop_requested() && ::flock(lock.fd, LOCK_EX | LOCK_NB) != 0 &&
         (errno == EWOULDBLOCK || errno == EINTR))
    std::this_thread::sleep_for(lock_poll);
  return lock;
}

}  // namespace

std::optional<std::string> kept_digest(const Checkpoint& checkpoint, const fs::path& folder) {
  if (checkpoint.files().empty()) return checkpoint.weights_digest();  // not made from files: nothing is read
  if (auto digest = read_digest(beside(checkpoint, of_all), checkpoint)) return digest;
  return read_digest(in_folder(checkpoint, folder, of_all), checkpoint);
}

std::string find_digest(const Checkpoint& checkpoint, const fs::path& folder, std::stop_token stop) {
  if (auto digest = kept_digest(checkpoint, folder)) return *digest;
  const Descriptor turn = wait_for_turn(folder, stop);
  if (auto digest = kept_digest(checkpoint, folder)) return *digest;  // another one computed it meanwhile
  const std::string digest = checkpoint.weights_digest(stop);
  if (digest.empty()) return {};
  const std::string text = describe_files(checkpoint) + digest + "\n";
  // In neither place: then it is computed again next time.
  if (!write_kept(beside(checkpoint, of_all), text)) write_kept(in_folder(checkpoint, folder, of_all), text);
  return digest;
}

TensorDigests kept_tensor_digests(const Checkpoint& checkpoint, const fs::path& folder) {
  auto kept = read_kept(beside(checkpoint, of_tensors), checkpoint);
  if (!kept) kept = read_kept(in_folder(checkpoint, folder, of_tensors), checkpoint);
  TensorDigests digests;
  if (!kept) return digests;
  std::istringstream lines(*kept);
  for (std::string line; std::getline(lines, line);)
    if (line.size() > hex_chars + 1 && is_hex(std::string_view(line).substr(0, hex_chars)))
      digests[line.substr(hex_chars + 1)] = line.substr(0, hex_chars);
  return digests;
}

bool keep_tensor_digests(const Checkpoint& checkpoint, const fs::path& folder, const TensorDigests& digests) {
  std::string text = describe_files(checkpoint) + "\n";
  for (const auto& [name, digest] : digests)
    if (name.find('\n') == name.npos) text += digest + " " + name + "\n";
  return write_kept(beside(checkpoint, of_tensors), text) ||
         write_kept(in_folder(checkpoint, folder, of_tensors), text);
}

}  // namespace convoy::model
