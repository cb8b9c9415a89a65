#pragma once
// Scores for a sentencepiece-like vocabulary whose file has a list of merges instead, as a GGUF wants them.
// Used by the writer of tokenizers; pure, any thread.

#include <string>
#include <vector>

#include "model/tokenizer/tokenizer_parts.hpp"

namespace convoy::model {

struct ListScores {
  std::vector<float> scores;  // of parts.vocabulary's entries, in their order
  /// Tokens into which texts merge by the list and not by these scores, or the other way round; of many the
  /// first. If there are none, every text has the same tokens by both.
  std::vector<std::string> differing;
};

/// A list made of scores, as those of published checkpoints are, gives them back: in the order in which it
/// makes its tokens.
ListScores scores_of_list(const TokenizerParts& parts);

}  // namespace convoy::model
