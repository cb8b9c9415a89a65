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
inline constexpr size_t config_depth_max = 8;           // lists and maps inside each other
inline constexpr size_t config_syntax_errors_max = 20;  // each costs one more reading

struct ConfigEntry {
  enum class Kind { integer, real, boolean, text, timespan, atom, uri, list, map };

  std::string key;  // empty for a list's element
  int line = 0, column = 0;
  Kind kind = Kind::map;
  int64_t integer = 0;
  bool boolean = false;
  std::string text;                   // of a text, an atom or a uri
  std::vector<ConfigEntry> children;  // of a list or a map, in the file's order
};

struct ConfigSyntaxError : ConfigProblem {
  std::string key;        // whose value it is, as "log.json"; empty: that of none
  std::string bare_word;  // the value, where it is a text without quotes, as in `json = yes`
};

/// A syntax error is taken out of the text and the rest is read: what stands behind it is wrong or right for
/// itself.
struct ParsedConfig {
  ConfigEntry root;  // a map of sections; keys before the first section stand in one called "global"
  std::vector<ConfigSyntaxError> syntax_errors;  // in the order in which they were found
  bool given_up = false;                         // no configuration at all, or too many errors: root is empty
};

ParsedConfig parse_config(std::string_view text);

}  // namespace convoy::actors
