#pragma once
// What becomes of a text before it is cut into words. Used by the tokenizer alone; immutable, any thread.

#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer/added_tokens.hpp"

namespace convoy::model {

/// One step; they apply one after the other.
struct NormalStep {
  enum class Kind { nfc, prepend, replace };
  Kind kind = Kind::nfc;
  std::string from, to;  // prepend: `to` before a text that is not empty; replace: each `from` by `to`

  bool operator==(const NormalStep&) const = default;
};

class Normalizer {
 public:
  explicit Normalizer(std::vector<NormalStep> steps) : steps_(std::move(steps)) {}
  const std::vector<NormalStep>& steps() const { return steps_; }

  /// The normalised text, which is UTF-8. `ranges` of it (ascending, disjoint) follow it: a range keeps what
  /// came of its own characters alone.
  std::string apply(std::string_view text, std::vector<ByteRange>& ranges) const;
  std::string apply(std::string_view text) const;

  /// How many bytes of text may stand behind one byte of normalised text; 0: any number.
  size_t shrinks_by_max() const;

 private:
  std::vector<NormalStep> steps_;
};

}  // namespace convoy::model
