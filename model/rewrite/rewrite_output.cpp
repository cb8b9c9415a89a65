#include "model/rewrite/rewrite_output.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cassert>
#include <cerrno>
#include <system_error>

#include "model/error.hpp"
#include "model/format/safetensors_writer.hpp"
#include "model/json.hpp"

namespace convoy::model {

namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr size_t hash_bytes = 8 << 20;  // read at once when a tensor is checked

[[noreturn]] void fail(const fs::path& path, const char* action) {
  const int error = errno;
  throw InputError(std::string("cannot ") + action + ": " + std::generic_category().message(error),
                   path.string(), "the output needs a folder that this user may write, with room");
}

std::string line_of(const std::string& key, const std::string& value, json::object more = {}) {
  json::object line{{key, value}};
  for (const auto& [name, number] : more) line[name] = number;
  return json::serialize(line) + "\n";
}

/// A tensor as safetensors has it.
struct ShardEntry {
  std::string name;
  std::vector<int64_t> shape;
  DType type;
  uint64_t bytes() const { return *byte_size(type, shape); }
};

std::vector<ShardEntry> entries_of(const std::vector<PlannedTensor>& group) {
  std::vector<ShardEntry> entries;
  for (const PlannedTensor& tensor : group) {
    entries.push_back({tensor.name, tensor.shape, tensor.type});
    if (const std::string scales = tensor.scales_name(); !scales.empty())
      entries.push_back({scales, tensor.scales_shape(), DType::f32});
  }
  return entries;
}

uint64_t bytes_of(const std::vector<ShardEntry>& entries) {
  uint64_t bytes = 0;
  for (const ShardEntry& entry : entries) bytes += entry.bytes();
  return bytes;
}

/// Wider elements first, so that each tensor lies on a multiple of its element's size.
OutputFile shard_of(std::vector<ShardEntry> entries) {
  std::ranges::stable_sort(entries, std::greater(),
                           [](const ShardEntry& entry) { return info(entry.type).block_bytes; });
  std::vector<SafetensorsEntry> described;
  uint64_t at = 0;
  for (const ShardEntry& entry : entries) {
    described.push_back({entry.name, entry.type, entry.shape, at, at + entry.bytes()});
    at += entry.bytes();
  }
  OutputFile file;
  file.header = safetensors_header(described);
  file.bytes = file.header.size() + at;
  at = file.header.size();
  for (const ShardEntry& entry : entries) {
    file.places.emplace(entry.name, Place{at, entry.bytes()});
    at += entry.bytes();
  }
  return file;
}

}  // namespace

std::vector<OutputFile> safetensors_files(const std::vector<std::vector<PlannedTensor>>& groups,
                                          uint64_t shard_bytes_max) {
  std::vector<std::vector<ShardEntry>> shards;
  for (const auto& group : groups) {
    std::vector<ShardEntry> entries = entries_of(group);
    if (shards.empty() || bytes_of(shards.back()) + bytes_of(entries) > shard_bytes_max)
      shards.emplace_back();
    shards.back().insert(shards.back().end(), entries.begin(), entries.end());
  }
  std::vector<OutputFile> files;
  for (std::vector<ShardEntry>& shard : shards) files.push_back(shard_of(std::move(shard)));
  std::map<std::string, std::string> shard_of_tensor;
  uint64_t bytes = 0;
  for (size_t i = 0; i < files.size(); ++i) {
    files[i].name = shard_name(i, files.size());
    for (const auto& [tensor, place] : files[i].places) {
      shard_of_tensor[tensor] = files[i].name;
      bytes += place.bytes;
    }
  }
  if (files.size() == 1) return files;
  OutputFile file;
  file.name = "model.safetensors.index.json";
  file.header = shard_index_json(shard_of_tensor, bytes);
  file.bytes = file.header.size();
  files.push_back(std::move(file));
  return files;
}

Output::Descriptor::~Descriptor() {
  if (fd >= 0) ::close(fd);
}

Output::Output(const fs::path& out, Kind kind, std::vector<OutputFile> files, const std::string& plan)
    : out_(out), kind_(kind), files_(std::move(files)) {
  if (!out_.has_filename()) out_ = out_.parent_path();  // a directory may end in a slash
  if (fs::exists(out_)) throw InputError("exists", out_.string(), "give another --out, or remove it");
  partial_ = out_.string() + ".partial";
  journal_path_ = partial_.string() + ".journal";
  for (const OutputFile& file : files_) bytes_ += file.bytes;
  journal_ = open(journal_path_, O_RDWR | O_CREAT);
  if (::flock(journal_.fd, LOCK_EX | LOCK_NB) != 0)
    throw InputError("is being written by another process", out_.string(), "wait for it, or end it");
  if (!take_up(plan)) lay_out(plan);
  for (size_t i = 0; i < files_.size(); ++i)
    for (const auto& [tensor, place] : files_[i].places)
      spots_.emplace(tensor, Spot{open_files_[i].fd, place});
}

Output::~Output() = default;

fs::path Output::path_of(const OutputFile& file) const {
  return kind_ == Kind::file ? partial_ : partial_ / file.name;
}

Output::Descriptor Output::open(const fs::path& path, int flags) const {
  Descriptor file;
  file.fd = ::open(path.c_str(), flags | O_CLOEXEC, 0644);
  if (file.fd < 0) fail(path, "open");
  return file;
}

void Output::put(int fd, uint64_t at, std::span<const std::byte> bytes) const {
  if (!write_all(fd, bytes, at)) fail(partial_, "write");
}

/// What the journal says, if it is of the same plan and the files are there. A last line that was cut short
/// counts for nothing; nor does any other, until kept() has read the bytes.
bool Output::take_up(const std::string& plan) {
  for (const OutputFile& file : files_) {
    std::error_code missing;
    if (fs::file_size(path_of(file), missing) != file.bytes || missing) return false;
  }
  std::string text(static_cast<size_t>(fs::file_size(journal_path_)), '\0');
  if (::pread(journal_.fd, text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) return false;
  const std::string first = line_of("plan", plan);
  if (!text.starts_with(first)) return false;
  for (size_t at = first.size(), end; (end = text.find('\n', at)) != text.npos; at = end + 1) {
    const json::value line = parse_json(std::string_view(text).substr(at, end - at), journal_path_.string());
    const json::object* object = line.if_object();
    const auto field = [&](const char* name) { return object ? object->if_contains(name) : nullptr; };
    const json::value *tensor = field("tensor"), *sha256 = field("sha256"), *error = field("error"),
                      *power = field("power");
    if (!tensor || !tensor->is_string() || !sha256 || !sha256->is_string() || !error || !error->is_number() ||
        !power || !power->is_number())
      return false;
    finished_.insert_or_assign(json::value_to<std::string>(*tensor),
                               Finished{json::value_to<std::string>(*sha256),
                                        {error->to_number<double>(), power->to_number<double>()}});
  }
  const size_t whole = text.rfind('\n') + 1;
  if (::ftruncate(journal_.fd, static_cast<off_t>(whole)) != 0) fail(journal_path_, "shorten");
  ::lseek(journal_.fd, 0, SEEK_END);
  for (const OutputFile& file : files_) open_files_.push_back(open(path_of(file), O_RDWR));
  return true;
}

void Output::lay_out(const std::string& plan) {
  fs::remove_all(partial_);
  finished_.clear();
  const auto parent = fs::absolute(out_).parent_path();
  if (const auto room = fs::space(parent).available; room < bytes_)
    throw InputError(
        "has room for " + std::to_string(room) + " bytes; the output takes " + std::to_string(bytes_),
        parent.string(), "give another --out, or make room");
  if (kind_ == Kind::directory) fs::create_directory(partial_);
  for (const OutputFile& file : files_) {
    open_files_.push_back(open(path_of(file), O_RDWR | O_CREAT | O_TRUNC));
    if (::ftruncate(open_files_.back().fd, static_cast<off_t>(file.bytes)) != 0) fail(partial_, "enlarge");
    put(open_files_.back().fd, 0, std::as_bytes(std::span(file.header)));
  }
  if (::ftruncate(journal_.fd, 0) != 0) fail(journal_path_, "empty");
  ::lseek(journal_.fd, 0, SEEK_SET);
  note(line_of("plan", plan));
}

void Output::note(const std::string& line) {
  if (::write(journal_.fd, line.data(), line.size()) != static_cast<ssize_t>(line.size()))
    fail(journal_path_, "write");
}

void Output::hash(const Spot& spot, Sha256& digest) const {
  std::vector<std::byte> chunk(std::min<uint64_t>(spot.place.bytes, hash_bytes));
  for (uint64_t at = 0; at < spot.place.bytes;) {
    const size_t wanted = std::min<uint64_t>(chunk.size(), spot.place.bytes - at);
    const ssize_t read = ::pread(spot.fd, chunk.data(), wanted, static_cast<off_t>(spot.place.begin + at));
    if (read <= 0) fail(partial_, "read");
    digest.update(std::span(chunk).first(static_cast<size_t>(read)));
    at += static_cast<uint64_t>(read);
  }
}

bool Output::kept(const std::string& tensor, const std::string& scales) {
  const auto finished = finished_.find(tensor);
  if (finished == finished_.end()) return false;
  Sha256 digest;
  hash(spots_.find(tensor)->second, digest);
  if (!scales.empty()) hash(spots_.find(scales)->second, digest);
  return digest.hex() == finished->second.sha256;
}

void Output::Writing::write(std::span<const std::byte> bytes) {
  const Spot& spot = output_.spots_.find(tensor_)->second;
  assert(written_ + bytes.size() <= spot.place.bytes);
  output_.put(spot.fd, spot.place.begin + written_, bytes);
  written_ += bytes.size();
  digest_.update(bytes);
}

void Output::Writing::write_scales(const std::string& tensor, std::span<const std::byte> bytes) {
  const Spot& spot = output_.spots_.find(tensor)->second;
  assert(bytes.size() == spot.place.bytes);
  output_.put(spot.fd, spot.place.begin, bytes);
  digest_.update(bytes);
}

void Output::Writing::finish(const RewriteLoss& loss) {
  assert(written_ == output_.bytes_of(tensor_));
  const std::string sha256 = digest_.hex();
  output_.note(
      line_of("tensor", tensor_, {{"sha256", sha256}, {"error", loss.error}, {"power", loss.power}}));
  output_.finished_.insert_or_assign(tensor_, Finished{sha256, loss});
}

void Output::write_file(const std::string& name, std::string_view content) {
  const Descriptor file = open(partial_ / name, O_WRONLY | O_CREAT | O_TRUNC);
  put(file.fd, 0, std::as_bytes(std::span(content)));
  if (::fsync(file.fd) != 0) fail(partial_ / name, "write");
}

void Output::finish() {
  for (const Descriptor& file : open_files_)
    if (::fsync(file.fd) != 0) fail(partial_, "write");
  const Descriptor parent = open(fs::absolute(out_).parent_path(), O_RDONLY | O_DIRECTORY);
  fs::rename(partial_, out_);
  if (::fsync(parent.fd) != 0) fail(out_, "write");
  fs::remove(journal_path_);
}

}  // namespace convoy::model
