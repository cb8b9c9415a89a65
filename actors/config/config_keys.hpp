#pragma once
// How an entry of the table of configuration keys is made from a field of a struct, without writing each
// getter and setter by hand. Part of config_table.cpp.

#include <cassert>
#include <utility>

#include "actors/config/config_table.hpp"

namespace convoy::actors {

template <class T>
Setting to_setting(const T& value) {
  if constexpr (std::is_same_v<T, bool>)
    return value;
  else if constexpr (std::is_integral_v<T>)
    return static_cast<int64_t>(value);
  else
    return value;
}

template <class T>
void from_setting(T& field, const Setting& setting) {
  if constexpr (std::is_same_v<T, bool> || !std::is_integral_v<T>) {
    field = std::get<T>(setting);
  } else {
    const int64_t value = std::get<int64_t>(setting);
    assert(std::in_range<T>(value));  // the table's range is wider than the field
    field = static_cast<T>(value);
  }
}

using ClusterKey = ConfigKey<ClusterConfig>;

template <auto Section, auto Field>
ClusterKey key(std::string_view section, std::string_view name, std::string_view help) {
  return {.section = section,
          .name = name,
          .get = [](const ClusterConfig& c) { return to_setting((c.*Section).*Field); },
          .set = [](ClusterConfig& c, const Setting& s) { from_setting((c.*Section).*Field, s); },
          .help = help};
}

template <auto Section, auto Field>
ClusterKey number(std::string_view section, std::string_view name, std::string_view unit, int64_t least,
                  int64_t most, std::string_view help) {
  ClusterKey k = key<Section, Field>(section, name, help);
  k.unit = unit;
  k.least = least;
  k.most = most;
  return k;
}

template <auto Section, auto Field>
ClusterKey choice(std::string_view section, std::string_view name, std::vector<std::string_view> choices,
                  std::string_view help) {
  ClusterKey k = key<Section, Field>(section, name, help);
  k.choices = std::move(choices);
  return k;
}

/// Of an entry of a list of maps.
template <class Owner, auto Field>
ConfigKey<Owner> entry_key(std::string_view name, std::string_view help, bool required) {
  return {.name = name,
          .get = [](const Owner& o) { return to_setting(o.*Field); },
          .set = [](Owner& o, const Setting& s) { from_setting(o.*Field, s); },
          .help = help,
          .required = required};
}

template <auto Field>
ConfigKey<NodeConfig> node_key(std::string_view name, std::string_view help, bool required = false) {
  return entry_key<NodeConfig, Field>(name, help, required);
}

}  // namespace convoy::actors
