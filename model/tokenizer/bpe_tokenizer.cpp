// The tokenizer: byte-level or sentencepiece-like BPE, from parts that a reader gathered.

#include <algorithm>
#include <bit>
#include <deque>

#include "model/digest.hpp"
#include "model/error.hpp"
#include "model/json.hpp"
#include "model/tokenizer/bpe.hpp"
#include "model/tokenizer/merges.hpp"
#include "model/tokenizer/speller.hpp"
#include "model/tokenizer/token_bound.hpp"
#include "model/tokenizer/tokenizer_parts.hpp"
#include "model/tokenizer/vocabulary.hpp"
#include "model/utf8.hpp"

namespace convoy::model {
namespace {

/// Letters, marks, digits and blanks only.
bool is_words(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Character c = character_at(text, at);
    const bool blank = text.substr(at).starts_with(blank_mark);
    if (!c.valid || !(blank || is_word_character(c.value) || is_white_space(c.value))) return false;
    at += c.bytes;
  }
  return true;
}

/// Some fine-tunes fill up batches with a plain word. It remains that word; a GGUF does not have it twice.
void keep_padding_word(TokenizerParts& parts) {
  if (!parts.pad || parts.pad == parts.bos || parts.pad == parts.eos || parts.pad == parts.unknown) return;
  const auto padding = std::ranges::find(parts.added, *parts.pad, &AddedToken::content);
  if (padding == parts.added.end() || !is_words(padding->content)) return;
  const auto is_it = [&](const auto& t) { return t.first == padding->content; };
  const auto makes_it = [&](const auto& merge) { return merge.first + merge.second == padding->content; };
  if (std::ranges::any_of(parts.vocabulary, is_it)) {
    padding->special = false;
  } else if (std::ranges::any_of(parts.merges, makes_it)) {
    padding->special = false;
    parts.vocabulary.emplace_back(padding->content, padding->id);
  }
}

/// Whoever writes an added token that is no markup means text, and the reference reads it as the token: plain
/// words, blanks, and the letters whose bytes no text has (À, Á, õ to ÿ), which DeepSeek V1 and V2 do not
/// have in the vocabulary.
void mark_text(TokenizerParts& parts) {
  keep_padding_word(parts);
  for (AddedToken& token : parts.added)
    token.anywhere =
        !token.special &&
        (is_words(token.content) || (parts.alphabet == Alphabet::byte_level && is_lone_byte(token.content)));
}

class BpeTokenizer final : public Tokenizer {
 public:
  explicit BpeTokenizer(TokenizerParts parts)
      : where_(parts.where),
        alphabet_(parts.alphabet),
        ignore_merges_(parts.ignore_merges),
        drops_leading_blank_(parts.drops_leading_blank),
        normalizer_(parts.normalizer),
        vocabulary_(parts, normalizer_),
        pretokenizer_(parts.rules, where_),
        speller_(parts, vocabulary_),
        chat_template_(std::move(parts.chat_template)) {
    for (const AddedToken& token : parts.added) add(token);
    std::vector<std::vector<int32_t>> stand_ins;
    const std::vector<Bpe::Merge> merges = parts.scores.empty()
                                               ? listed_merges(parts, vocabulary_)
                                               : scored_merges(parts, vocabulary_, speller_, stand_ins);
    bpe_.emplace(merges);
    spell_out_added(merges, parts.added);
    for (size_t i = 0; i < stand_ins.size(); ++i)
      spelled_.emplace(size() + static_cast<int32_t>(i), std::move(stand_ins[i]));
    bound_ = bound_of(parts);
    if (ignore_merges_) {
      // Words are looked up as the alphabet writes them, so what it cannot write is never found.
      for (const auto& [text, id] : parts.vocabulary)
        if (vocabulary_.kind(id) == TokenKind::text &&
            (alphabet_ != Alphabet::byte_level || is_byte_level(text)))
          words_.emplace(alphabet_ == Alphabet::byte_level ? bytes(id) : std::string_view(text), id);
    }
    bos_ = named(parts.bos, "bos");
    eos_ = named(parts.eos, "eos");
    digest_ = digest_of(parts);
  }

  using Tokenizer::encode;
  std::vector<int32_t> encode(std::span<const Segment> segments, const std::stop_token& stop) const override {
    std::string text;
    std::vector<ByteRange> trusted;
    for (const Segment& segment : segments) {
      const size_t invalid = find_invalid_utf8(segment.text);
      if (invalid != std::string_view::npos) {
        throw InputError("the text is not UTF-8 at its byte " + std::to_string(text.size() + invalid), "text",
                         "send it as UTF-8");
      }
      const size_t begin = text.size();
      text += segment.text;
      if (!segment.trusted) continue;
      if (!trusted.empty() && trusted.back().end == begin) {
        trusted.back().end = text.size();
      } else {
        trusted.push_back({begin, text.size()});
      }
    }
    Work work{stop, Expression::Scratch(text.size()), {}, {}};
    work.ids.reserve(text.size() / 3);
    std::vector<Part> parts;
    added_.split(text, {0, text.size()}, trusted, parts);
    for (const Part& part : parts) {
      if (part.id >= 0) {
        work.ids.push_back(part.id);
      } else {
        encode_part(text, part, trusted, work);
      }
    }
    return std::move(work.ids);
  }

  size_t tokens_min(std::span<const Segment> text) const override { return bound_.tokens_min(text); }

  std::string decode(std::span<const int32_t> ids, bool skip_control) const override {
    std::string text;
    for (const int32_t id : ids) {
      if (!(skip_control && is_control(id))) text += bytes(id);
    }
    if (drops_leading_blank_ && text.starts_with(' ')) text.erase(0, 1);
    return replace_invalid_utf8(text);
  }

  std::string_view bytes(int32_t id) const override { return vocabulary_.bytes(id); }
  bool is_control(int32_t id) const override { return vocabulary_.kind(id) == TokenKind::control; }
  std::optional<int32_t> id_of(std::string_view token) const override { return vocabulary_.id_of(token); }
  bool drops_leading_blank() const override { return drops_leading_blank_; }
  std::string_view kind() const override {
    return alphabet_ == Alphabet::byte_level ? "byte-level BPE" : "sentencepiece-like BPE";
  }
  int64_t size() const override { return vocabulary_.size(); }
  const std::string& digest() const override { return digest_; }
  const std::optional<std::string>& chat_template() const override { return chat_template_; }
  std::optional<int32_t> bos() const override { return bos_; }
  std::optional<int32_t> eos() const override { return eos_; }

 private:
  /// One call of encode().
  struct Work {
    const std::stop_token& stop;
    Expression::Scratch scratch;
    std::vector<int32_t> ids, symbols;
  };

  [[noreturn]] void fail(const std::string& what) const {
    throw InputError(what, where_, "check that the file is whole and a tokenizer");
  }

  /// Text between added tokens: normalised, and sought for those that are.
  void encode_part(std::string_view text, Part part, std::span<const ByteRange> trusted, Work& work) const {
    if (work.stop.stop_requested()) return;
    const std::string_view raw = text.substr(part.begin, part.end - part.begin);
    std::vector<ByteRange> ranges;
    if (!normalized_added_.empty()) {
      for (auto t = std::ranges::partition_point(trusted, [&](ByteRange r) { return r.end <= part.begin; });
           t != trusted.end() && t->begin < part.end; ++t)
        ranges.push_back(
            {std::max(t->begin, part.begin) - part.begin, std::min(t->end, part.end) - part.begin});
    }
    const std::string normal = normalizer_.apply(raw, ranges);
    std::vector<Part> parts;
    normalized_added_.split(normal, {0, normal.size()}, ranges, parts);
    for (const Part& p : parts) {
      if (p.id >= 0) {
        work.ids.push_back(p.id);
      } else {
        encode_words(normal.substr(p.begin, p.end - p.begin), part.begin == 0 && p.begin == 0, work);
      }
    }
  }

  void encode_words(std::string text, bool begins, Work& work) const {
    for (const Piece& piece : pretokenizer_.split(text, work.scratch, begins)) {
      if (work.stop.stop_requested()) return;
      const std::string_view word = std::string_view(text).substr(piece.begin, piece.end - piece.begin);
      if (ignore_merges_) {
        const auto whole = words_.find(word);
        if (whole != words_.end()) {
          work.ids.push_back(whole->second);
          continue;
        }
      }
      speller_.spell(word, work.symbols);
      if (work.symbols.size() > 1) bpe_->merge(work.symbols, work.stop);
      append(work.symbols, work.ids);
    }
  }

  /// Symbols that are no tokens become what they are spelled with.
  void append(std::span<const int32_t> symbols, std::vector<int32_t>& ids) const {
    if (spelled_.empty()) {
      ids.insert(ids.end(), symbols.begin(), symbols.end());
      return;
    }
    for (const int32_t symbol : symbols) {
      const auto spelled = spelled_.find(symbol);
      if (spelled == spelled_.end()) {
        ids.push_back(symbol);
      } else {
        ids.insert(ids.end(), spelled->second.begin(), spelled->second.end());
      }
    }
  }

  void add(const AddedToken& token) {
    if (!token.normalized) return added_.insert(token);
    AddedToken normal = token;
    normal.content = normalizer_.apply(token.content);
    if (normal.content.empty()) fail("nothing is left of the added token " + in_quotes(token.content));
    normalized_added_.insert(normal);
  }

  std::optional<int32_t> named(const std::optional<std::string>& token, std::string_view what) const {
    if (!token) return std::nullopt;
    const std::optional<int32_t> id = id_of(*token);
    if (!id) fail("the " + std::string(what) + " token " + in_quotes(*token) + " is not in the vocabulary");
    return id;
  }

  /// Nothing is known where a rule removes text, a step rewrites it, or one token may stand for any text.
  TokenBound bound_of(const TokenizerParts& parts) const {
    const bool pieces = alphabet_ == Alphabet::sentencepiece;
    if (pieces && speller_.is_lossy()) return {};
    for (const SplitRule& rule : parts.rules)
      if (rule.behaviour == SplitBehaviour::removed) return {};
    for (const NormalStep& step : normalizer_.steps())
      if (step.kind == NormalStep::Kind::replace && !(step.from == " " && step.to == blank_mark)) return {};
    std::vector<std::string_view> tokens;
    for (int32_t id = 0; id < size(); ++id) tokens.push_back(bytes(id));
    for (const AddedToken& token : parts.added) tokens.emplace_back(token.content);
    std::deque<std::string> with_blanks;
    if (pieces) {  // a text may have the mark itself, which is longer than the blank it stands for
      for (const auto& [text, id] : parts.vocabulary) {
        tokens.emplace_back(text);
        if (text.find(blank_mark) == text.npos) continue;
        std::string& blanks = with_blanks.emplace_back(text);
        for (size_t at = 0; (at = blanks.find(blank_mark, at)) != blanks.npos; at += blank_mark.size())
          blanks.replace(at, blank_mark.size(), blank_mark.size(), ' ');
        tokens.emplace_back(blanks);
      }
    }
    return {tokens,
            {.shrinks_by_max = normalizer_.shrinks_by_max(),
             .takes_blanks = std::ranges::any_of(
                 parts.added, [](const AddedToken& token) { return token.lstrip || token.rstrip; })}};
  }

  /// Plain text must never become an added token: what merging can make of them is spelled with what merging
  /// makes without them. In text that is trusted they are found before it is merged.
  void spell_out_added(std::span<const Bpe::Merge> merges, std::span<const AddedToken> added) {
    const auto is_text = [&](int32_t id) { return vocabulary_.kind(id) == TokenKind::text; };
    std::vector<Bpe::Merge> plain;
    for (const Bpe::Merge& merge : merges)
      if (is_text(merge.result)) plain.push_back(merge);
    if (plain.size() == merges.size()) return;
    const Bpe without(plain);
    for (const AddedToken& token : added) {
      if (is_text(token.id) || token.id == speller_.unknown()) continue;
      std::vector<int32_t> symbols;
      speller_.spell(alphabet_ == Alphabet::byte_level ? bytes(token.id) : std::string_view(token.content),
                     symbols);
      without.merge(symbols);
      spelled_.emplace(token.id, std::move(symbols));
    }
  }

  std::string digest_of(const TokenizerParts& parts) const {
    std::string all;
    auto number = [&](int64_t value) { all += std::to_string(value) + ' '; };
    auto text = [&](std::string_view value) {
      number(static_cast<int64_t>(value.size()));
      all += value;
    };
    text("BPE 2");
    number(static_cast<int>(alphabet_));
    number(ignore_merges_ << 3 | parts.byte_fallback << 2 | parts.fuse_unknown << 1 |
           parts.drops_leading_blank);
    number(speller_.unknown());
    number(size());
    std::vector<std::pair<std::string_view, float>> tokens(vocabulary_.size());
    for (size_t i = 0; i < parts.vocabulary.size(); ++i)
      tokens[static_cast<size_t>(parts.vocabulary[i].second)] = {parts.vocabulary[i].first,
                                                                 parts.scores.empty() ? 0 : parts.scores[i]};
    for (int32_t id = 0; id < size(); ++id) {
      const auto& [token, score] = tokens[static_cast<size_t>(id)];
      number(static_cast<int64_t>(vocabulary_.kind(id)));
      text(bytes(id));
      text(token);
      number(std::bit_cast<int32_t>(score));
    }
    number(static_cast<int64_t>(parts.added.size()));
    for (const AddedToken& t : parts.added) {
      number(t.id);
      number(t.single_word << 3 | t.lstrip << 2 | t.rstrip << 1 | t.normalized);
    }
    number(static_cast<int64_t>(parts.merges.size()));
    for (const auto& [left, right] : parts.merges) {
      text(left);
      text(right);
    }
    for (const NormalStep& step : parts.normalizer) {
      number(static_cast<int>(step.kind));
      text(step.from);
      text(step.to);
    }
    for (const SplitRule& rule : parts.rules) {
      text(rule.expression);
      number(static_cast<int>(rule.behaviour) << 3 | rule.invert << 2 | static_cast<int>(rule.prefix));
      text(rule.blank);
    }
    Sha256 digest;
    digest.update(all);
    return digest.hex();
  }

  std::string where_;
  Alphabet alphabet_;
  bool ignore_merges_, drops_leading_blank_;
  Normalizer normalizer_;
  Vocabulary vocabulary_;
  Pretokenizer pretokenizer_;
  Speller speller_;
  AddedTokens added_, normalized_added_;
  std::optional<Bpe> bpe_;
  boost::unordered_flat_map<int32_t, std::vector<int32_t>> spelled_;  // symbols that are no tokens
  TextMap<int32_t> words_;                                            // only with ignore_merges
  TokenBound bound_;
  std::string digest_;
  std::optional<std::string> chat_template_;
  std::optional<int32_t> bos_, eos_;
};

}  // namespace

std::shared_ptr<const Tokenizer> make_tokenizer(TokenizerParts parts) {
  mark_text(parts);
  return std::make_shared<const BpeTokenizer>(std::move(parts));
}

}  // namespace convoy::model
