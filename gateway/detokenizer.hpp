#pragma once
// Detokenizer: turns the bytes of tokens, in whatever pieces they come, into UTF-8 text that is never cut
// inside a character, and ends the text at the first stop string. Pure; each answer has its own, on its
// session's strand.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace convoy::gateway {

/// Whole characters out of bytes; what is not UTF-8 becomes U+FFFD, one for each maximal ill-formed piece.
class Utf8Decoder {
 public:
  void push(std::string_view bytes, std::string& text);
  /// The end: a character that is still incomplete becomes U+FFFD.
  void finish(std::string& text);

 private:
  bool continues(unsigned char byte) const;
  std::string pending_;  // the first bytes of a character
  size_t size_ = 0;      // of that character
};

/// Finds the stop string whose end comes first (of several ending there, the longest). The result depends on
/// the text alone, not on the pieces in which it comes.
class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops);
  /// Appends to `text` what can no longer become part of a stop string. True: one was found, `text` ends
  /// before it. may_stop false: a stop string that ends within this piece is text like any other.
  bool push(std::string_view piece, std::string& text, bool may_stop = true);
  /// The end: what was held back is text after all.
  void finish(std::string& text);

 private:
  struct Pattern {
    std::string text;
    std::vector<size_t> border;  // [i]: longest proper prefix of text that is a suffix of text[0..i]
    size_t matched = 0;          // how much of it the text ends with
  };
  size_t advance(char byte, bool may_stop);  // returns the length of the stop string that ends here, or 0
  size_t held() const;
  std::vector<Pattern> patterns_;
  std::string buffer_;  // text that is held back
  bool found_ = false;
};

class Detokenizer {
 public:
  /// drops_blank: a blank that begins the text is not written.
  explicit Detokenizer(std::vector<std::string> stops, bool drops_blank = false)
      : drops_blank_(drops_blank), matcher_(std::move(stops)) {}
  /// Appends to `text` what the token makes certain. True: a stop string ended the text; push no more.
  /// may_stop false (min_tokens): no stop string ends with this token.
  bool push(std::string_view token_bytes, std::string& text, bool may_stop = true);
  /// The end of the tokens. True: what was left of a character completed a stop string.
  bool finish(std::string& text);
  /// Characters decoded so far, held-back ones included.
  uint64_t characters() const { return characters_; }

 private:
  bool drops_blank_;  // until the first byte
  Utf8Decoder decoder_;
  StopMatcher matcher_;
  uint64_t characters_ = 0;
};

}  // namespace convoy::gateway
