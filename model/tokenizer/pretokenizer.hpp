#pragma once
// Cuts text into the words that BPE merges within, by the rules of a tokenizer file. Used by the
// tokenizer alone; immutable, any thread.

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer/expression.hpp"

namespace convoy::model {

/// What becomes of a match and the text between matches.
enum class SplitBehaviour { isolated, removed, contiguous, merged_with_previous, merged_with_next };

/// Which pieces get a leading blank before they are cut, unless they have one: the first is that of a text.
enum class Prefix { none, each, first };

/// One step; the rules apply one after the other, each to every piece that the one before left.
struct SplitRule {
  std::string expression;  // empty: does not split
  SplitBehaviour behaviour = SplitBehaviour::isolated;
  bool invert = false;  // matches and the text between them change places
  Prefix prefix = Prefix::none;
  std::string blank = " ";  // how blanks are written; if not so, each becomes that before anything else
};

struct Piece {
  size_t begin = 0, end = 0;  // bytes of the text
};

/// GPT-2's expression, which ByteLevel with use_regex stands for.
extern const std::string_view gpt2_expression;

class Pretokenizer {
 public:
  Pretokenizer(std::vector<SplitRule> rules, std::string_view where);
  /// The words of `text`, in order, none empty. `text` is UTF-8; rules that write blanks change it.
  /// scratch: made for a text at least as long; a caller with many texts makes it once. begins: no text or
  /// token stands before this text.
  std::vector<Piece> split(std::string& text, Expression::Scratch& scratch, bool begins = true) const;
  const std::vector<SplitRule>& rules() const { return rules_; }

 private:
  std::vector<SplitRule> rules_;
  std::vector<Expression> expressions_;  // one for each rule that has one, in order
};

}  // namespace convoy::model
