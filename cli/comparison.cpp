#include "cli/comparison.hpp"

#include <algorithm>
#include <cmath>
#include <random>

#include "cli/comparison_text.hpp"
#include "model/error.hpp"
#include "model/text_file.hpp"
#include "model/tokenizer/tokenizer.hpp"

namespace convoy::cli {

namespace {

constexpr uint64_t text_bytes_max = 16 << 20;
constexpr size_t random_tokens = 256;

std::string read_text(const std::string& path) {
  std::string text = model::read_text_file(path, text_bytes_max + 1, "give a text file");
  if (text.size() > text_bytes_max)
    throw InputError("has more than " + std::to_string(text_bytes_max) + " bytes", path,
                     "give a shorter text: so many are compared at most");
  return text;
}

}  // namespace

std::vector<int32_t> tokens_to_compare(const std::string& model, const model::Checkpoint& checkpoint,
                                       const std::string& text) {
  if (checkpoint.has_tokenizer()) {
    auto tokens = model::Tokenizer::load(model)->encode(
        text.empty() ? std::string(comparison_text) : read_text(text), false);
    if (tokens.size() < 2) throw InputError("has fewer than 2 tokens", text, "give a longer text");
    return tokens;
  }
  if (!text.empty()) throw InputError("has no tokenizer to read a text with", model, "leave --text away");
  std::mt19937 random(1);
  std::vector<int32_t> tokens(random_tokens);
  for (int32_t& id : tokens)
    id = static_cast<int32_t>(random() % static_cast<uint32_t>(checkpoint.config().vocab));
  return tokens;
}

void Comparison::add(std::span<const int32_t> tokens, int64_t window, LocalPipeline& reference,
                     LocalPipeline& other, bool replay) {
  for (size_t begin = 0; begin < tokens.size(); begin += static_cast<size_t>(window)) {
    const auto rest = tokens.subspan(begin);
    add_piece(rest.first(std::min(static_cast<size_t>(window), rest.size())), reference, other, replay);
  }
}

void Comparison::add_piece(std::span<const int32_t> piece, LocalPipeline& reference, LocalPipeline& other,
                           bool replay) {
  reference.start(piece.size(), piece.size());
  other.start(piece.size(), piece.size());
  // Step by step, so that only one step's logits are kept.
  size_t at = 0;
  for (const auto step : LocalPipeline::steps_of(piece)) {
    std::vector<std::vector<float>> expected;
    reference.feed(step, at, [&](size_t, std::span<const float> logits) {
      expected.emplace_back(logits.begin(), logits.end());
    });
    if (replay) other.replay(reference.routing());
    other.feed(step, at, [&](size_t position, std::span<const float> logits) {
      add_position(expected[position - at], logits);
      if (position + 1 == piece.size()) return;  // nothing to predict
      const auto next = static_cast<size_t>(piece[position + 1]);
      predicted_++;
      reference_loss_ += log_sum_exp(expected[position - at]) - expected[position - at][next];
      other_loss_ += log_sum_exp(logits) - logits[next];
    });
    differing_ += other.routing().differing_rows(reference.routing());
    at += step.size();
  }
}

void Comparison::add_position(std::span<const float> reference, std::span<const float> other) {
  errors_.add(reference, other);
  same_top_ += arg_max(reference) == arg_max(other);
}

double Comparison::top1_agreement() const {
  return static_cast<double>(same_top_) / static_cast<double>(positions());
}
double Comparison::reference_perplexity() const {
  return std::exp(reference_loss_ / static_cast<double>(predicted_));
}
double Comparison::other_perplexity() const {
  return std::exp(other_loss_ / static_cast<double>(predicted_));
}
double Comparison::experts_differ() const {
  return static_cast<double>(differing_) / static_cast<double>(positions());
}

}  // namespace convoy::cli
