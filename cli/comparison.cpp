#include "cli/comparison.hpp"

#include <algorithm>
#include <cmath>

#include "cli/verify.hpp"
#include "model/error.hpp"
#include "model/text_file.hpp"

namespace convoy::cli {

namespace {

constexpr uint64_t text_bytes_max = 16 << 20;

}  // namespace

std::string read_text(const std::string& path) {
  std::string text = model::read_text_file(path, text_bytes_max + 1, "give a text file");
  if (text.size() > text_bytes_max)
    throw InputError("has more than " + std::to_string(text_bytes_max) + " bytes", path,
                     "give a shorter text: so many are compared at most");
  return text;
}

std::vector<int32_t> tokens_of(const std::string& text, const model::Tokenizer& tokenizer,
                               const std::string& where) {
  auto tokens = tokenizer.encode(text, false);
  if (tokens.size() < 2) throw InputError("has fewer than 2 tokens", where, "give a longer text");
  return tokens;
}

void Comparison::add(std::span<const int32_t> tokens, int64_t window, LocalPipeline& reference,
                     LocalPipeline& other) {
  for (size_t begin = 0; begin < tokens.size(); begin += static_cast<size_t>(window)) {
    const auto rest = tokens.subspan(begin);
    add_piece(rest.first(std::min(static_cast<size_t>(window), rest.size())), reference, other);
  }
}

void Comparison::add_piece(std::span<const int32_t> piece, LocalPipeline& reference, LocalPipeline& other) {
  reference.start(piece.size(), piece.size());
  other.start(piece.size(), piece.size());
  // Step by step, so that only one step's logits are kept.
  for (size_t at = 0; at < piece.size(); at += LocalPipeline::rows_per_step) {
    const auto chunk = piece.subspan(at, std::min(LocalPipeline::rows_per_step, piece.size() - at));
    std::vector<std::vector<float>> expected;
    reference.feed(chunk, at, [&](size_t, std::span<const float> logits) {
      expected.emplace_back(logits.begin(), logits.end());
    });
    other.feed(chunk, at, [&](size_t position, std::span<const float> logits) {
      add_position(expected[position - at], logits);
      if (position + 1 == piece.size()) return;  // nothing to predict
      const auto next = static_cast<size_t>(piece[position + 1]);
      predicted_++;
      reference_loss_ += log_sum_exp(expected[position - at]) - expected[position - at][next];
      other_loss_ += log_sum_exp(logits) - logits[next];
    });
  }
}

void Comparison::add_position(std::span<const float> reference, std::span<const float> other) {
  positions_++;
  kl_ += kl_divergence(reference, other);
  same_top_ += arg_max(reference) == arg_max(other);
}

double Comparison::mean_kl() const { return kl_ / static_cast<double>(positions_); }
double Comparison::top1_agreement() const {
  return static_cast<double>(same_top_) / static_cast<double>(positions_);
}
double Comparison::reference_perplexity() const {
  return std::exp(reference_loss_ / static_cast<double>(predicted_));
}
double Comparison::other_perplexity() const {
  return std::exp(other_loss_ / static_cast<double>(predicted_));
}

}  // namespace convoy::cli
