#pragma once
// A pipeline is known by its name, everywhere and for good. Links address actors by a number: it follows from
// the name. Pure.

#include <cstdint>
#include <string_view>

namespace convoy::actors {

/// The instance of a pipeline's actor, and of who gives its model's weights, in a link's frames. 0, of no
/// name: those of the cluster's first pipeline. The configuration refuses two names with the same one.
constexpr uint32_t pipeline_instance(std::string_view name) {
  uint32_t hash = 2'166'136'261;  // FNV-1a
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 16'777'619;
  return name.empty() ? 0 : hash == 0 ? 1 : hash;
}

}  // namespace convoy::actors
