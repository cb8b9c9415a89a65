#pragma once
// A pre-tokenizer's regular expression, run by PCRE2 with limits, so that no text can hang it. Tokenizer
// files write for Oniguruma: what means the same there and here is translated, what might not is refused.

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace convoy::model {

class Expression {
 public:
  /// Throws InputError, with `where`, for an expression that does not compile or has no sure translation.
  Expression(std::string_view pattern, std::string_view where);
  ~Expression();
  Expression(Expression&&) noexcept;

  /// One caller's working memory; not shared between threads.
  class Scratch {
   public:
    /// text_bytes: length of the text that the matches are sought in; the match limit grows with it.
    explicit Scratch(size_t text_bytes);
    ~Scratch();
    Scratch(const Scratch&) = delete;

   private:
    friend class Expression;
    struct Memory;
    std::unique_ptr<Memory> memory_;
  };

  struct Match {
    size_t begin = 0, end = 0;
  };
  /// The first match at or after `from`; false if there is none. `text` is UTF-8, `from` on a character's
  /// start. Throws InputError when the match limit is reached.
  bool find(std::string_view text, size_t from, Scratch& scratch, Match& match) const;

 private:
  struct Code;
  std::unique_ptr<Code> code_;
  std::string where_;
};

/// Oniguruma's syntax to PCRE2's. Exposed for its tests.
std::string translate_expression(std::string_view pattern, std::string_view where);

}  // namespace convoy::model
