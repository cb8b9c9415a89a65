#pragma once
// Reads the text of cluster.conf, in CAF's configuration syntax and with CAF's own parser, into a tree that
// remembers the line and column of every key, duplicates included. Pure; called by cluster_config.cpp only.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace convoy::actors {

struct ConfigProblem {
  int line = 0;    // from 1; 0: the file as a whole
  int column = 0;  // from 1
  std::string text;
};

inline constexpr size_t config_bytes_max = 1 << 20;
inline constexpr size_t config_depth_max = 8;  // lists and maps inside each other

struct ConfigEntry {
  enum class Kind { integer, real, boolean, text, timespan, atom, uri, list, map };

  std::string key;  // empty for a list's element
  int line = 0, column = 0;
  Kind kind = Kind::map;
  int64_t integer = 0;
  bool boolean = false;
  bool complete = true;               // false: a syntax error cut it off
  std::string text;                   // of a text, an atom or a uri
  std::vector<ConfigEntry> children;  // of a list or a map, in the file's order
};

struct ParsedConfig {
  ConfigEntry root;  // a map of sections; keys before the first section stand in one called "global"
  std::optional<ConfigProblem> syntax_error;  // the parser stops at the first; root holds what came before it
};

ParsedConfig parse_config(std::string_view text);

}  // namespace convoy::actors
