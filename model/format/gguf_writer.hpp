#pragma once
// What stands before the data of a GGUF file that we write: keys, descriptions of tensors, their places. Used
// by the rewriter; one thread.

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/tensor.hpp"

namespace convoy::model {

/// Keys keep their order. Integers are written as the format's readers want them: counts as u32.
class GgufWriter {
 public:
  GgufWriter& key(std::string_view name, uint32_t value);
  GgufWriter& key(std::string_view name, float value);
  GgufWriter& key(std::string_view name, bool value);
  GgufWriter& key(std::string_view name, std::string_view value);
  GgufWriter& key(std::string_view name, const char* value) { return key(name, std::string_view(value)); }
  GgufWriter& key(std::string_view name, std::span<const std::string> values);
  GgufWriter& key(std::string_view name, std::span<const int32_t> values);
  GgufWriter& key(std::string_view name, std::span<const float> values);

  /// Behind the tensors before it; shape: outermost first.
  void tensor(std::string_view name, std::span<const int64_t> shape, DType type);

  /// Everything before the data, padded.
  std::string header() const;
  /// Where a tensor begins, counted from the header's end.
  uint64_t offset(std::string_view name) const { return offsets_.find(name)->second; }
  uint64_t data_bytes() const { return data_bytes_; }

 private:
  uint64_t keys_ = 0, data_bytes_ = 0;
  std::string metadata_, descriptions_;
  std::map<std::string, uint64_t, std::less<>> offsets_;
};

}  // namespace convoy::model
