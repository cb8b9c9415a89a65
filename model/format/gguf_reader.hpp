#pragma once
// GgufReader: goes forward through a GGUF's header and reads numbers, strings and values. Whatever is read is
// checked against the end of the file and the limits of gguf.hpp, each time: a file may change under its
// mapping. Internal to format/.

#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "model/error.hpp"
#include "model/format/gguf.hpp"

namespace convoy::model {

inline constexpr const char* gguf_mend = "the file is damaged or incomplete; fetch it again";

class GgufReader {
 public:
  /// file: outlives the reader.
  explicit GgufReader(const std::shared_ptr<const Mapping>& file, size_t position = 0)
      : file_(file), position_(position) {}

  size_t position() const { return position_; }
  size_t left() const { return file_->bytes().size() - position_; }

  /// Names what is being read, for messages.
  void reading(std::string what) { what_ = std::move(what); }
  [[noreturn]] void fail(const std::string& problem, const char* how = gguf_mend) const {
    const std::string path = file_->path().string();
    throw InputError(problem, what_.empty() ? path : path + ": " + what_, how);
  }

  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::string_view string(uint64_t bytes_max);

  GgufType type();
  /// An array is a view then: its values have been passed over.
  GgufValue value(GgufType type) { return value(type, gguf_array_depth_max); }
  /// Checks values without keeping any.
  void pass(GgufType type, uint64_t count) { pass(type, count, gguf_array_depth_max); }

 private:
  std::span<const std::byte> take(uint64_t bytes);
  bool truth();
  GgufValue value(GgufType type, int depth_left);
  GgufArray array(int depth_left);
  void pass(GgufType type, uint64_t count, int depth_left);

  const std::shared_ptr<const Mapping>& file_;
  size_t position_;
  uint64_t values_ = 0;  // of arrays, so far
  std::string what_;
};

}  // namespace convoy::model
