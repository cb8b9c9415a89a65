#pragma once
// How far one way of computing a model is from another, over a text: for `convoy verify --against` and
// `convoy quantize`. One thread calls it.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "cli/local_pipeline.hpp"
#include "cli/logit_errors.hpp"
#include "model/checkpoint/checkpoint.hpp"

namespace convoy::cli {

/// A longer text is cut into pieces that know nothing of each other.
inline constexpr int64_t window_tokens_max = 1024;

class Comparison {
 public:
  /// All of the tokens, in pieces of up to `window`.
  /// replay: rows of `other` go to the experts that the reference's went to.
  void add(std::span<const int32_t> tokens, int64_t window, LocalPipeline& reference, LocalPipeline& other,
           bool replay = false);

  const LogitErrors& errors() const { return errors_; }
  size_t positions() const { return errors_.positions(); }
  /// The part of the positions whose likeliest token is the same, 0 … 1.
  double top1_agreement() const;
  double reference_perplexity() const;
  double other_perplexity() const;
  /// The part of the positions that went to another expert in some layer, 0 … 1.
  double experts_differ() const;

 private:
  void add_piece(std::span<const int32_t> piece, LocalPipeline& reference, LocalPipeline& other, bool replay);
  void add_position(std::span<const float> reference, std::span<const float> other);

  LogitErrors errors_;
  double reference_loss_ = 0, other_loss_ = 0;
  size_t same_top_ = 0, predicted_ = 0, differing_ = 0;
};

/// The tokens to compare over, at least two: those of a text, of ours if none is named. Of a model without a
/// tokenizer random ones, the same every time. Throws InputError.
std::vector<int32_t> tokens_to_compare(const std::string& model, const model::Checkpoint& checkpoint,
                                       const std::string& text);

}  // namespace convoy::cli
