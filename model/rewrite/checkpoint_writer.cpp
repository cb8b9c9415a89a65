#include "model/rewrite/checkpoint_writer.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <system_error>

#include "model/chat/chat_texts.hpp"
#include "model/config.hpp"
#include "model/error.hpp"
#include "model/format/safetensors_writer.hpp"
#include "model/parallel.hpp"
#include "model/tokenizer/tokenizer_parts.hpp"
#include "model/utf8.hpp"

namespace convoy::model {

namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

/// Made between two reports of progress; each is some megabytes.
constexpr size_t pieces_per_report = 64;

// As DeepSeek's families write them.
constexpr const char* begin_token = "<｜begin▁of▁sentence｜>";
constexpr const char* end_token = "<｜end▁of▁sentence｜>";

uint64_t scales_bytes(DType type, const WantedTensor& tensor) {
  if (tensor.shape.size() != 2) return 0;
  return scale_count(type, tensor.shape[0], tensor.shape[1]) * sizeof(float);
}

std::string header_of(const Shard& shard) {
  std::vector<SafetensorsEntry> entries;
  for (const Shard::Entry& e : shard.entries) {
    const WantedTensor& tensor = e.tensor;
    entries.push_back({tensor.name, e.type, tensor.shape, e.begin, e.end});
    if (const uint64_t bytes = scales_bytes(e.type, tensor))
      entries.push_back({tensor.name + std::string(scales_suffix(e.type)), DType::f32,
                         scales_shape(e.type, tensor.shape[0], tensor.shape[1]), e.scales_begin,
                         e.scales_begin + bytes});
  }
  return safetensors_header(entries);
}

/// Appends a tensor to the last shard, or begins another one.
void add(std::vector<Shard>& shards, const WantedTensor& tensor, DType type) {
  const uint64_t bytes = *byte_size(type, tensor.shape);
  const uint64_t scales = scales_bytes(type, tensor);
  if (shards.empty() || shards.back().data_bytes + bytes + scales > shard_bytes_max) shards.emplace_back();
  Shard& shard = shards.back();
  assert(shard.data_bytes % sizeof(float) == 0 && bytes % sizeof(float) == 0);
  const uint64_t begin = shard.data_bytes;
  shard.entries.push_back({tensor, type, begin, begin + bytes, begin + bytes});
  shard.data_bytes += bytes + scales;
}

[[noreturn]] void cannot(const fs::path& path, const char* action) {
  const int error = errno;
  throw InputError(std::string("cannot ") + action + ": " + std::generic_category().message(error),
                   path.string(), "give a directory on a disk with room that this user may write to");
}

void write_text(const fs::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) cannot(path, "write");
}

/// A file that is written in pieces, from several threads.
class NewFile {
 public:
  explicit NewFile(fs::path path)
      : path_(std::move(path)), fd_(::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644)) {
    if (fd_ < 0) cannot(path_, "create");
  }
  ~NewFile() { ::close(fd_); }
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  void write(std::span<const std::byte> bytes, uint64_t at) const {
    if (!write_all(fd_, bytes, at)) cannot(path_, "write");
  }

 private:
  fs::path path_;
  int fd_;
};

void write_part(const RandomModel& model, const Shard& shard, const Shard::Entry& entry,
                const TensorPart& part, const NewFile& file) {
  const auto columns = static_cast<uint64_t>(entry.tensor.shape.back());
  const uint64_t row_bytes = columns * info(entry.type).block_bytes;
  const auto first_row = static_cast<uint64_t>(part.first_row), rows = static_cast<uint64_t>(part.rows);
  std::vector<std::byte> bytes(rows * row_bytes);
  std::vector<float> scales(scale_count(entry.type, part.rows, entry.tensor.shape.back()));
  const int64_t across = fp8_blocks(entry.tensor.shape.back());
  generate(model, part, bytes, scales);
  const uint64_t data = shard.header.size();
  file.write(bytes, data + entry.begin + first_row * row_bytes);
  file.write(
      std::as_bytes(std::span(scales)),
      data + entry.scales_begin + first_row / fp8_block * static_cast<uint64_t>(across) * sizeof(float));
}

void write_shard(const RandomModel& model, const Shard& shard, const fs::path& path,
                 const std::function<void(uint64_t)>& progress) {
  const NewFile file(path);
  file.write(std::as_bytes(std::span(shard.header)), 0);
  struct Piece {
    const Shard::Entry* entry;
    TensorPart part;
  };
  std::vector<Piece> pieces;
  for (const Shard::Entry& entry : shard.entries) {
    const WantedTensor* const tensor = &entry.tensor;
    for (const TensorPart& part : divide({&tensor, 1})) pieces.push_back({&entry, part});
  }
  for (size_t at = 0; at < pieces.size(); at += pieces_per_report) {
    const auto some = std::span(pieces).subspan(at, std::min(pieces_per_report, pieces.size() - at));
    in_parallel(some.size(), all_cores(),
                [&](size_t i) { write_part(model, shard, *some[i].entry, some[i].part, file); });
    progress(at + some.size() == pieces.size() ? shard.data_bytes : some.back().entry->begin);
  }
}

/// A tokenizer for a model that nobody trained: a token for each byte, the model's own control tokens, and
/// names for all other ids, which no text encodes to.
std::string tokenizer_json(const Config& config) {
  std::vector<std::string> texts(static_cast<size_t>(config.vocab));
  json::array added;
  const auto control = [&](int32_t id, const char* text) {
    if (id < 0 || !texts[static_cast<size_t>(id)].empty()) return;
    texts[static_cast<size_t>(id)] = text;
    added.push_back({{"id", id},
                     {"content", text},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  };
  for (const int32_t end : config.end_tokens) control(end, end_token);
  control(config.bos_token, begin_token);
  size_t id = 0;
  json::object vocabulary;
  for (const char32_t character : byte_characters()) {
    while (!texts[id].empty()) id++;
    append_utf8(character, texts[id]);
  }
  for (size_t i = 0; i < texts.size(); ++i) {
    const bool is_control = texts[i] == begin_token || texts[i] == end_token;
    if (texts[i].empty()) texts[i] = "token" + std::to_string(i);
    if (!is_control) vocabulary[texts[i]] = i;
  }
  const json::object byte_level{
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
  return json::serialize(
      json::object{{"version", "1.0"},
                   {"added_tokens", added},
                   {"normalizer", nullptr},
                   {"pre_tokenizer", byte_level},
                   {"post_processor", nullptr},
                   {"decoder", byte_level},
                   {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", json::array()}}}});
}

std::string tokenizer_config_json(const Config& config) {
  const bool same = std::ranges::find(config.end_tokens, config.bos_token) != config.end_tokens.end();
  return json::serialize(json::object{{"tokenizer_class", "PreTrainedTokenizerFast"},
                                      {"bos_token", same ? end_token : begin_token},
                                      {"eos_token", end_token},
                                      {"chat_template", find_chat_text("made")->jinja},
                                      {"clean_up_tokenization_spaces", false}}) +
         "\n";
}

}  // namespace

uint64_t CheckpointPlan::bytes() const {
  uint64_t sum = 0;
  for (const Shard& shard : shards) sum += shard.header.size() + shard.data_bytes;
  return sum;
}

CheckpointPlan plan_checkpoint(const RandomModel& model) {
  CheckpointPlan plan;
  plan.config_json = random_config_json(model);
  const Config config = parse_config_json(plan.config_json, "", model.like);
  for (const WantedTensor& tensor : list_weights(config))
    add(plan.shards, tensor, stored_type(model, tensor));
  std::map<std::string, std::string> shard_of_tensor;
  uint64_t total = 0;
  for (size_t i = 0; i < plan.shards.size(); ++i) {
    Shard& shard = plan.shards[i];
    shard.file = shard_name(i, plan.shards.size());
    shard.header = header_of(shard);
    total += shard.data_bytes;
    for (const Shard::Entry& e : shard.entries) {
      shard_of_tensor[e.tensor.name] = shard.file;
      if (scales_bytes(e.type, e.tensor) > 0)
        shard_of_tensor[e.tensor.name + std::string(scales_suffix(e.type))] = shard.file;
    }
  }
  if (plan.shards.size() > 1) plan.index_json = shard_index_json(shard_of_tensor, total) + "\n";
  return plan;
}

void write_checkpoint(const RandomModel& model, const fs::path& directory,
                      const std::function<void(uint64_t, uint64_t)>& progress) {
  const CheckpointPlan plan = plan_checkpoint(model);
  std::error_code error;
  fs::create_directories(directory, error);
  if (error)
    throw InputError("cannot be made: " + error.message(), directory.string(), "give another directory");
  if (!fs::is_empty(directory))
    throw InputError("is not empty", directory.string(), "give a directory that is, or one to be made");
  const uint64_t free = fs::space(directory).available;
  if (free < plan.bytes())
    throw InputError("the model takes " + std::to_string(plan.bytes()) + " bytes, and " +
                         std::to_string(free) + " are free",
                     directory.string(), "give a directory on a larger disk, or ask for fewer layers");
  uint64_t done = 0;
  for (const Shard& shard : plan.shards) {
    write_shard(model, shard, directory / shard.file,
                [&](uint64_t of_shard) { progress(done + of_shard, plan.bytes()); });
    done += shard.data_bytes;
  }
  if (!plan.index_json.empty()) write_text(directory / "model.safetensors.index.json", plan.index_json);
  const Config config = parse_config_json(plan.config_json, "", model.like);
  write_text(directory / "tokenizer.json", tokenizer_json(config));
  write_text(directory / "tokenizer_config.json", tokenizer_config_json(config));
  write_text(directory / "config.json", plan.config_json);
}

}  // namespace convoy::model
