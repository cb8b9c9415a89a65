#include "model/format/gguf_parts.hpp"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <optional>
#include <string>

#include "model/error.hpp"
#include "model/json.hpp"

namespace convoy::model {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view number_key = "split.no", count_key = "split.count",
                           tensors_key = "split.tensors.count";
const char* const fetch_again = "the parts belong to different models, or one is damaged; fetch them again";

/// What a part says of the whole.
struct Split {
  uint64_t number = 0;  // of this part, from 0
  uint64_t count = 0, tensors = 0;
};

std::string part_text(uint64_t number, uint64_t count) {
  return "part " + std::to_string(number + 1) + " of " + std::to_string(count);
}

uint64_t need_number(const GgufMetadata& metadata, std::string_view key, const std::string& where) {
  const auto found = metadata.find(key);
  if (found != metadata.end()) {
    if (const auto* number = std::get_if<uint64_t>(&found->second.value)) return *number;
    const auto* number = std::get_if<int64_t>(&found->second.value);
    if (number && *number >= 0) return static_cast<uint64_t>(*number);
  }
  throw InputError(found == metadata.end() ? "is missing" : "is not a whole number from 0",
                   where + ": metadata " + std::string(key), fetch_again);
}

/// Nothing for a file that is whole: what was a split once may say that it has one part, or none.
std::optional<Split> split_of(const GgufMetadata& metadata, const std::string& where) {
  if (!metadata.contains(count_key)) return std::nullopt;
  const uint64_t count = need_number(metadata, count_key, where);
  if (count <= 1) return std::nullopt;
  if (count > gguf_parts_max)
    throw InputError("is part of a model in " + std::to_string(count) + " files; the limit is " +
                         std::to_string(gguf_parts_max),
                     where, "fetch it again, or use one in fewer files");
  const Split split{need_number(metadata, number_key, where), count,
                    need_number(metadata, tensors_key, where)};
  if (split.number >= count)
    throw InputError("says it is " + part_text(split.number, count), where, fetch_again);
  return split;
}

/// What its name ends with.
std::string suffix_of(uint64_t number, uint64_t count) {
  char text[64];
  std::snprintf(text, sizeof text, "-%05llu-of-%05llu", static_cast<unsigned long long>(number + 1),
                static_cast<unsigned long long>(count));
  return text;
}

/// The files of all parts, from the name of one.
std::vector<fs::path> part_paths(const fs::path& file, const Split& split) {
  const std::string stem = file.stem().string(), suffix = suffix_of(split.number, split.count);
  if (!stem.ends_with(suffix) || file.extension() != ".gguf")
    throw InputError(
        "is " + part_text(split.number, split.count) + " of a model, but its name does not say so",
        file.string(), "name it …" + suffix + ".gguf, as it was published, with the other parts beside it");
  const std::string name = stem.substr(0, stem.size() - suffix.size());
  std::vector<fs::path> paths;
  for (uint64_t n = 0; n < split.count; ++n)
    paths.push_back(file.parent_path() / (name + suffix_of(n, split.count) + ".gguf"));
  return paths;
}

[[noreturn]] void fail_missing(const std::vector<fs::path>& paths, uint64_t number) {
  throw InputError("is missing: " + part_text(number, paths.size()) + " of the model", paths[number].string(),
                   "put all parts into one folder; `scripts/fetch-model` brings them together");
}

std::shared_ptr<const Mapping> open_part(const std::vector<fs::path>& paths, uint64_t number,
                                         const OpenFile& open) {
  auto file = open(paths.at(number));
  if (!file) fail_missing(paths, number);
  return file;
}

/// given: the part that the whole is known by.
void check_part(const GgufFile& part, uint64_t number, const Split& whole, const fs::path& given) {
  const std::string where = part.file->path().string();
  const auto with_tensors = [](const Split& split) {
    return part_text(split.number, split.count) + " with " + std::to_string(split.tensors) +
           " tensors together";
  };
  const auto own = split_of(part.metadata, where);
  const Split wanted{number, whole.count, whole.tensors};
  if (!own || with_tensors(*own) != with_tensors(wanted))
    throw InputError("says it is " + (own ? with_tensors(*own) : "whole") + "; beside " +
                         in_quotes(given.filename().string()) + " it has to be " + with_tensors(wanted),
                     where, fetch_again);
}

/// A part behind the first need not repeat what that says of the model, and may not contradict it.
void check_same_model(const GgufFile& part, const GgufMetadata& first) {
  for (const auto& [key, value] : part.metadata) {
    if (key == number_key || key == "general.alignment") continue;  // of the file, not of the model
    const auto same = first.find(key);
    if (same == first.end() || !(same->second == value))
      throw InputError("differs from what the first part says",
                       part.file->path().string() + ": metadata " + in_quotes(key), fetch_again);
  }
}

void take_tensors(GgufFile& part, TensorMap& tensors) {
  for (auto& [name, tensor] : part.tensors) {
    const auto [other, added] = tensors.emplace(name, tensor);
    if (!added)
      throw InputError("is in " + in_quotes(other->second.owner->path().filename().string()) + " too",
                       part.file->path().string() + ": tensor " + in_quotes(name), fetch_again);
  }
}

}  // namespace

GgufModel read_gguf_model(std::shared_ptr<const Mapping> file, const OpenFile& open) {
  GgufFile given = GgufFile::parse(std::move(file));
  const auto split = split_of(given.metadata, given.file->path().string());
  if (!split) return {{given.file}, std::move(given.metadata), std::move(given.tensors)};
  const fs::path path = given.file->path();
  const std::vector<fs::path> paths = part_paths(path, *split);
  GgufModel model;
  for (uint64_t n = 0; n < split->count; ++n) {
    GgufFile part = n == split->number ? std::move(given) : GgufFile::parse(open_part(paths, n, open));
    check_part(part, n, *split, path);
    if (n == 0)
      model.metadata = std::move(part.metadata);
    else
      check_same_model(part, model.metadata);
    take_tensors(part, model.tensors);
    model.files.push_back(part.file);
  }
  if (model.tensors.size() != split->tensors)
    throw InputError("says that all parts have " + std::to_string(split->tensors) + " tensors; they have " +
                         std::to_string(model.tensors.size()),
                     paths.front().string(), fetch_again);
  return model;
}

GgufMetadata read_gguf_metadata(const fs::path& path) {
  GgufMetadata metadata = GgufFile::read_metadata(path);
  const auto split = split_of(metadata, path.string());
  if (!split || split->number == 0) return metadata;
  const auto paths = part_paths(path, *split);
  std::error_code ignored;  // a file that cannot be looked at is reported when it is opened
  for (uint64_t n = 0; n < paths.size(); ++n)
    if (fs::status(paths[n], ignored).type() == fs::file_type::not_found) fail_missing(paths, n);
  return GgufFile::read_metadata(paths.front());
}

std::string_view without_part(std::string_view stem) {
  constexpr std::string_view shape = "-00000-of-00000";
  if (stem.size() <= shape.size()) return stem;
  const std::string_view name = stem.substr(0, stem.size() - shape.size()), end = stem.substr(name.size());
  const bool is_part = std::ranges::equal(end, shape, [](char c, char wanted) {
    return wanted == '0' ? std::isdigit(static_cast<unsigned char>(c)) != 0 : c == wanted;
  });
  return is_part ? name : stem;
}

}  // namespace convoy::model
