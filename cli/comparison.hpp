#pragma once
// How far one way of computing a model is from another, over a text: for `convoy verify --against` and
// `convoy quantize`. One thread calls it.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "cli/local_pipeline.hpp"
#include "model/tokenizer/tokenizer.hpp"

namespace convoy::cli {

/// A longer text is cut into pieces that know nothing of each other.
inline constexpr int64_t window_tokens_max = 1024;

class Comparison {
 public:
  /// All of the tokens, in pieces of up to `window`.
  void add(std::span<const int32_t> tokens, int64_t window, LocalPipeline& reference, LocalPipeline& other);

  size_t positions() const { return positions_; }
  /// KL(reference ‖ other) at a position, in nats.
  double mean_kl() const;
  /// The part of the positions whose likeliest token is the same, 0 … 1.
  double top1_agreement() const;
  double reference_perplexity() const;
  double other_perplexity() const;

 private:
  void add_piece(std::span<const int32_t> piece, LocalPipeline& reference, LocalPipeline& other);
  void add_position(std::span<const float> reference, std::span<const float> other);

  double kl_ = 0, reference_loss_ = 0, other_loss_ = 0;
  size_t positions_ = 0, same_top_ = 0, predicted_ = 0;
};

/// The text to compare over. Throws InputError.
std::string read_text(const std::string& path);

/// Its tokens, of which there are two at least: one, and one to predict. Throws InputError at `where`.
std::vector<int32_t> tokens_of(const std::string& text, const model::Tokenizer& tokenizer,
                               const std::string& where);

}  // namespace convoy::cli
