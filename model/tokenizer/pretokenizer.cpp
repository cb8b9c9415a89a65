#include "model/tokenizer/pretokenizer.hpp"

#include <optional>

#include "model/utf8.hpp"

namespace convoy::model {

const std::string_view gpt2_expression =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

namespace {

/// Gathers the pieces of one rule. add() gets the matches and the text between them, in order, and joins
/// neighbours as the behaviour says; empty stretches count as matches (they end a run) but are not kept.
class Cutter {
 public:
  Cutter(SplitBehaviour behaviour, std::vector<Piece>& out) : behaviour_(behaviour), out_(out) {}

  void start() { first_ = true; }

  void add(Piece piece, bool is_match) {
    const bool joins = !first_ && joins_previous(is_match);
    const bool previous_kept = kept_;
    kept_ = piece.begin != piece.end;
    if (behaviour_ == SplitBehaviour::removed && is_match) {
      kept_ = false;
    } else if (joins && previous_kept) {
      out_.back().end = piece.end;
      kept_ = true;
    } else if (kept_) {
      out_.push_back(piece);
    }
    first_ = false;
    previous_match_ = is_match;
  }

 private:
  bool joins_previous(bool is_match) const {
    switch (behaviour_) {
      case SplitBehaviour::contiguous:
        return is_match == previous_match_;
      case SplitBehaviour::merged_with_previous:
        return is_match && !previous_match_;
      case SplitBehaviour::merged_with_next:
        return !is_match && previous_match_;
      default:
        return false;
    }
  }

  SplitBehaviour behaviour_;
  std::vector<Piece>& out_;
  bool first_ = true, previous_match_ = false, kept_ = false;
};

/// What a rule does before it cuts: blanks become its own, and pieces get one in front.
void write_blanks(std::string& text, std::vector<Piece>& pieces, const SplitRule& rule, bool begins) {
  const bool same = rule.blank == " ";
  if (same && rule.prefix == Prefix::none) return;
  std::string out;
  out.reserve(text.size() + pieces.size() * rule.blank.size());
  for (Piece& piece : pieces) {
    const bool prefix = rule.prefix == Prefix::each || (rule.prefix == Prefix::first && begins &&
                                                        &piece == &pieces.front() && piece.begin == 0);
    const std::string_view old = std::string_view(text).substr(piece.begin, piece.end - piece.begin);
    const size_t begin = out.size();
    if (prefix && !old.starts_with(' ') && !old.starts_with(rule.blank)) out += rule.blank;
    if (same) {
      out += old;
    } else {
      for (const char c : old) c == ' ' ? out.append(rule.blank) : out.append(1, c);
    }
    piece = {begin, out.size()};
  }
  text = std::move(out);
}

void split_piece(std::string_view text, Piece piece, const Expression& expression, bool invert,
                 Expression::Scratch& scratch, Cutter& cutter) {
  const std::string_view part = text.substr(piece.begin, piece.end - piece.begin);
  size_t done = 0;  // up to here matches and gaps were handed out
  size_t from = 0;
  std::optional<size_t> last;  // where the last match ended
  cutter.start();
  for (Expression::Match m; from <= part.size() && expression.find(part, from, scratch, m);) {
    // An empty match where one ended is none, or it would be found for ever.
    if (m.begin == m.end && m.end == last) {
      from = m.end + (m.end < part.size() ? character_at(part, m.end).bytes : 1);
      continue;
    }
    if (m.begin > done) cutter.add({piece.begin + done, piece.begin + m.begin}, invert);
    cutter.add({piece.begin + m.begin, piece.begin + m.end}, !invert);
    done = from = m.end;
    last = m.end;
  }
  if (done < part.size()) cutter.add({piece.begin + done, piece.end}, invert);
}

}  // namespace

Pretokenizer::Pretokenizer(std::vector<SplitRule> rules, std::string_view where) : rules_(std::move(rules)) {
  for (const SplitRule& rule : rules_) {
    if (!rule.expression.empty()) expressions_.emplace_back(rule.expression, where);
  }
}

std::vector<Piece> Pretokenizer::split(std::string& text, Expression::Scratch& scratch, bool begins) const {
  std::vector<Piece> pieces, next;
  if (!text.empty()) pieces.push_back({0, text.size()});
  size_t expression = 0;
  for (const SplitRule& rule : rules_) {
    write_blanks(text, pieces, rule, begins);
    if (rule.expression.empty()) continue;
    next.clear();
    next.reserve(pieces.size() + text.size() / 4);
    Cutter cutter(rule.behaviour, next);
    for (const Piece& piece : pieces) {
      split_piece(text, piece, expressions_[expression], rule.invert, scratch, cutter);
    }
    pieces.swap(next);
    ++expression;
  }
  return pieces;
}

}  // namespace convoy::model
