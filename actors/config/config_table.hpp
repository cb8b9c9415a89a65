#pragma once
// The one table of cluster.conf's keys: type, unit, range, default and help of each. Reading, checking and
// the documentation all walk it. Called by cluster_config.cpp and config_docs.cpp only; pure.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "actors/config/cluster_config.hpp"

namespace convoy::actors {

/// A key's value, in any of the types that keys have.
using Setting = std::variant<int64_t, bool, std::string, std::vector<std::string>>;

/// One key of an Owner (ClusterConfig, or what the entries of its lists of maps are). Its type and its
/// default are those of the field behind get and set in a default-made Owner.
template <class Owner>
struct ConfigKey {
  std::string_view section;  // empty for all but ClusterConfig
  std::string_view name;
  Setting (*get)(const Owner&) = nullptr;  // null: a list of maps
  void (*set)(Owner&, const Setting&) = nullptr;
  std::string_view help;
  std::string_view unit;
  int64_t least = 0, most = 0;                  // integers: both inclusive
  std::vector<std::string_view> choices;        // texts and lists of texts; empty: any
  bool (*accepts)(std::string_view) = nullptr;  // instead of being one of the choices, which describe it
  bool required = false;
  std::string_view instead = {};  // another key of the section that may be given in place of a required one
};

std::span<const ConfigKey<ClusterConfig>> cluster_keys();
std::span<const ConfigKey<NodeConfig>> node_keys();
std::span<const ConfigKey<ModelConfig>> model_keys();
std::span<const ConfigKey<PipelineConfig>> pipeline_keys();

/// The sections in the order of the file, each with what it is about.
struct ConfigSection {
  std::string_view name, help;
};
std::span<const ConfigSection> config_sections();

/// "1 to 65535", "\"fast\" or \"reference\"", "true or false", "a text in double quotes".
template <class Owner>
std::string allowed_values(const ConfigKey<Owner>& key);

}  // namespace convoy::actors
