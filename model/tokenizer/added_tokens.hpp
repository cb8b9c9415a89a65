#pragma once
// The tokens that stand beside the byte-pair vocabulary (control tokens and their like) and where they occur
// in a text. Used by the tokenizer alone; immutable, any thread.

#include <boost/unordered/unordered_flat_map.hpp>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace convoy::model {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;  // only where no character of a word stands beside it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // takes the white space behind it along
  bool normalized = false;   // sought after the others, in what they left
  bool special = false;      // a control token: not shown in an answer's text
  bool anywhere = false;     // no markup: found in text that is not trusted, too
};

/// Stretch of a text: an added token, or plain (id -1).
struct Part {
  size_t begin = 0, end = 0;
  int32_t id = -1;
};

/// Half-open range of bytes.
struct ByteRange {
  size_t begin = 0, end = 0;
};

/// Finds the longest token at the leftmost place, then goes on behind it.
class AddedTokens {
 public:
  /// Of several with one content (two may have one normal form) the first is found.
  void insert(const AddedToken& token);
  bool empty() const { return tokens_.empty(); }
  /// Cuts text[range] into added tokens and plain parts; appends them, none empty. A token that is not found
  /// anywhere is seen only where it lies within one of `trusted` (ascending, disjoint); the white space it
  /// strips may lie outside.
  void split(std::string_view text, ByteRange range, std::span<const ByteRange> trusted,
             std::vector<Part>& parts) const;

 private:
  /// The longest token at text[at] that ends by `end`, by `trusted_end` if it is not found anywhere; null if
  /// there is none.
  const AddedToken* longest(std::string_view text, size_t at, size_t trusted_end, size_t end) const;
  struct Progress {
    size_t done = 0;    // up to here parts were appended
    size_t sought = 0;  // up to here tokens were sought: before `done` where one took white space along
  };
  /// Those that begin in one stretch of the range, all of it trusted or none of it.
  void seek(std::string_view text, ByteRange range, ByteRange stretch, bool trusted, Progress& progress,
            std::vector<Part>& parts) const;

  std::vector<AddedToken> tokens_;
  // A trie over bytes: edges from (node, byte), node 0 is the root; ends_[node] is an index of tokens_ or -1.
  boost::unordered_flat_map<uint64_t, uint32_t> edges_;
  std::vector<int32_t> ends_ = {-1};
  bool anywhere_ = false;  // any token is found anywhere
};

}  // namespace convoy::model
