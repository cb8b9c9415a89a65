#include "model/format/safetensors_writer.hpp"

#include <unistd.h>

#include <boost/json.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>

namespace convoy::model {

namespace json = boost::json;

std::string safetensors_header(std::span<const SafetensorsEntry> entries) {
  json::object root{{"__metadata__", json::object{{"format", "pt"}}}};
  for (const SafetensorsEntry& e : entries)
    root[e.name] = json::object{{"dtype", info(e.type).name},
                                {"shape", json::value_from(e.shape)},
                                {"data_offsets", json::array{e.begin, e.end}}};
  std::string text = json::serialize(root);
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t length = text.size();
  std::string header(sizeof length, '\0');
  std::memcpy(header.data(), &length, sizeof length);
  return header + text;
}

std::string shard_name(size_t index, size_t count) {
  if (count == 1) return "model.safetensors";
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", index + 1, count);
  return name;
}

std::string shard_index_json(const std::map<std::string, std::string>& shards, uint64_t total_bytes) {
  json::object map;
  for (const auto& [tensor, shard] : shards) map[tensor] = shard;
  return json::serialize(
      json::object{{"metadata", json::object{{"total_size", total_bytes}}}, {"weight_map", std::move(map)}});
}

bool write_all(int fd, std::span<const std::byte> bytes, uint64_t at) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(at));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    at += static_cast<uint64_t>(written);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  return true;
}

}  // namespace convoy::model
