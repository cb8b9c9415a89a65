#pragma once
// What a GGUF says of itself beside its tensors. Plain data.

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <variant>
#include <vector>

namespace convoy::model {

/// One value of a GGUF's metadata.
struct GgufValue;
using GgufArray = std::vector<GgufValue>;
struct GgufValue {
  std::variant<uint64_t, int64_t, double, bool, std::string, GgufArray> value;
  bool operator==(const GgufValue& other) const { return value == other.value; }
};

using GgufMetadata = std::map<std::string, GgufValue, std::less<>>;

}  // namespace convoy::model
