#include "model/tokenizer/byte_level_tokenizer.hpp"

#include <algorithm>
#include <cassert>

#include "model/digest.hpp"
#include "model/error.hpp"
#include "model/json.hpp"
#include "model/tokenizer/bpe.hpp"
#include "model/tokenizer/token_bound.hpp"
#include "model/utf8.hpp"

namespace convoy::model {
namespace {

/// The characters that stand for bytes in a vocabulary: printable ones of Latin-1 for themselves, the others
/// in order from U+0100.
struct ByteAlphabet {
  std::array<char32_t, 256> character;
  std::array<int16_t, 0x144> byte;  // -1: not of the alphabet

  ByteAlphabet() {
    byte.fill(-1);
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      character[static_cast<size_t>(b)] = printable ? static_cast<char32_t>(b) : next++;
      byte[character[static_cast<size_t>(b)]] = static_cast<int16_t>(b);
    }
    assert(next == byte.size());
  }

  /// The bytes that a token's text stands for; the text itself if not all of it is of the alphabet.
  std::string bytes(std::string_view text) const {
    std::string out;
    for (size_t at = 0; at < text.size();) {
      const Utf8Character c = character_at(text, at);
      if (!c.valid || c.value >= byte.size() || byte[c.value] < 0) return std::string(text);
      out += static_cast<char>(byte[c.value]);
      at += c.bytes;
    }
    return out;
  }
};

bool is_in_utf8(size_t byte) { return byte != 0xC0 && byte != 0xC1 && byte < 0xF5; }

constexpr size_t nfc_shrinks_by_max = 3;

class ByteLevelTokenizer final : public Tokenizer {
 public:
  explicit ByteLevelTokenizer(TokenizerParts parts)
      : where_(parts.where),
        nfc_(parts.nfc),
        ignore_merges_(parts.ignore_merges),
        chat_template_(std::move(parts.chat_template)) {
    add_vocabulary(parts);
    add_added_tokens(parts);
    add_merges(parts);
    pretokenizer_.emplace(parts.rules, where_);
    bound_ = bound_of(parts);
    if (ignore_merges_) {
      for (const auto& [text, id] : parts.vocabulary) {
        if (kinds_[static_cast<size_t>(id)] == Kind::text)
          words_.emplace(bytes_[static_cast<size_t>(id)], id);
      }
    }
    auto named = [&](const std::optional<std::string>& token,
                     std::string_view what) -> std::optional<int32_t> {
      if (!token) return std::nullopt;
      const std::optional<int32_t> id = id_of(*token);
      if (!id) fail("the " + std::string(what) + " token " + in_quotes(*token) + " is not in the vocabulary");
      return id;
    };
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

    std::vector<Part> parts, inner;
    added_.split(text, {0, text.size()}, trusted, parts);
    std::vector<int32_t> ids;
    ids.reserve(text.size() / 3);
    Work work{stop, Expression::Scratch(text.size())};
    for (const Part& part : parts) {
      if (part.id >= 0) {
        ids.push_back(part.id);
        continue;
      }
      inner.clear();
      normalized_added_.split(text, {part.begin, part.end}, trusted, inner);
      for (const Part& p : inner) {
        if (p.id >= 0) {
          ids.push_back(p.id);
        } else {
          encode_plain(std::string_view(text).substr(p.begin, p.end - p.begin), work, ids);
        }
      }
    }
    return ids;
  }

  size_t tokens_min(std::span<const Segment> text) const override { return bound_.tokens_min(text); }

  std::string decode(std::span<const int32_t> ids, bool skip_control) const override {
    std::string text;
    for (const int32_t id : ids) {
      if (!(skip_control && is_control(id))) text += bytes(id);
    }
    return replace_invalid_utf8(text);
  }

  std::string_view bytes(int32_t id) const override {
    return id >= 0 && id < size() ? std::string_view(bytes_[static_cast<size_t>(id)]) : std::string_view();
  }
  bool is_control(int32_t id) const override {
    return id >= 0 && id < size() && kinds_[static_cast<size_t>(id)] == Kind::control;
  }
  std::optional<int32_t> id_of(std::string_view token) const override {
    const auto found = ids_.find(token);
    return found == ids_.end() ? std::nullopt : std::optional(found->second);
  }
  int64_t size() const override { return static_cast<int64_t>(bytes_.size()); }
  const std::string& digest() const override { return digest_; }
  const std::optional<std::string>& chat_template() const override { return chat_template_; }
  std::optional<int32_t> bos() const override { return bos_; }
  std::optional<int32_t> eos() const override { return eos_; }

 private:
  enum class Kind : uint8_t { none, text, added, control };
  /// Finds by string_view without a copy.
  struct TextHash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };

  /// One call of encode().
  struct Work {
    const std::stop_token& stop;
    Expression::Scratch scratch;
  };

  [[noreturn]] void fail(const std::string& what) const {
    throw InputError(what, where_, "check that the file is whole and a byte-level BPE tokenizer");
  }

  void encode_plain(std::string_view part, Work& work, std::vector<int32_t>& ids) const {
    if (letters_.empty()) return encode_words(part, work, ids);
    const ByteRange all{0, part.size()};
    std::vector<Part> parts;
    letters_.split(part, all, std::span(&all, 1), parts);
    for (const Part& p : parts) {
      if (p.id >= 0) {
        ids.push_back(p.id);
      } else {
        encode_words(part.substr(p.begin, p.end - p.begin), work, ids);
      }
    }
  }

  void encode_words(std::string_view part, Work& work, std::vector<int32_t>& ids) const {
    if (work.stop.stop_requested()) return;
    std::string text = nfc_ ? normalise_nfc(part) : std::string(part);
    for (const Piece& piece : pretokenizer_->split(text, work.scratch)) {
      if (work.stop.stop_requested()) return;
      const std::string_view word = std::string_view(text).substr(piece.begin, piece.end - piece.begin);
      if (ignore_merges_) {
        const auto whole = words_.find(word);
        if (whole != words_.end()) {
          ids.push_back(whole->second);
          continue;
        }
      }
      bpe_->encode(word, ids, work.stop);
    }
  }

  /// Makes room for an id and gives it its text.
  void place(int32_t id, const std::string& text, std::string bytes, Kind kind) {
    if (id < 0 || id >= token_ids_max) {
      fail("the token " + in_quotes(text) + " has id " + std::to_string(id) + ", which is not in 0.." +
           std::to_string(token_ids_max - 1));
    }
    const size_t at = static_cast<size_t>(id);
    if (at >= bytes_.size()) {
      bytes_.resize(at + 1);
      kinds_.resize(at + 1, Kind::none);
    }
    if (kinds_[at] != Kind::none)
      fail("two tokens have id " + std::to_string(id) + ", one is " + in_quotes(text));
    if (!ids_.emplace(text, id).second) fail("the token " + in_quotes(text) + " stands twice");
    bytes_[at] = std::move(bytes);
    kinds_[at] = kind;
  }

  void add_vocabulary(const TokenizerParts& parts) {
    if (parts.vocabulary.empty()) fail("the vocabulary is empty");
    ids_.reserve(parts.vocabulary.size() + parts.added.size());
    for (const auto& [text, id] : parts.vocabulary) {
      if (text.empty()) fail("the token " + std::to_string(id) + " is empty");
      if (find_invalid_utf8(text) != text.npos) fail("the token " + std::to_string(id) + " is not UTF-8");
      place(id, text, alphabet_.bytes(text), Kind::text);
    }
  }

  /// DeepSeek V1 and V2 have the 13 characters whose bytes no text has (À, Á, õ to ÿ) not in the vocabulary
  /// but as added tokens: letters, which are found in anyone's text, as they are no markup.
  bool is_letter(const AddedToken& token) const {
    const std::string bytes = alphabet_.bytes(token.content);
    return !token.special && token.content.size() == 2 && bytes.size() == 1 &&
           !is_in_utf8(static_cast<uint8_t>(bytes[0])) && !id_of(token.content);
  }

  void add_added_tokens(const TokenizerParts& parts) {
    for (const AddedToken& token : parts.added) {
      if (token.content.empty()) fail("the added token " + std::to_string(token.id) + " is empty");
      if (find_invalid_utf8(token.content) != token.content.npos) {
        fail("the added token " + std::to_string(token.id) + " is not UTF-8");
      }
      if (token.normalized && nfc_) {
        fail("the added token " + in_quotes(token.content) +
             " is normalized, beside a normalizer: this is not supported");
      }
      if (is_letter(token)) {
        place(token.id, token.content, token.content, Kind::added);
        letters_.insert(token);
        continue;
      }
      const Kind kind = token.special ? Kind::control : Kind::added;
      const std::optional<int32_t> known = id_of(token.content);
      if (!known) {
        place(token.id, token.content, alphabet_.bytes(token.content), kind);
      } else if (*known != token.id || kinds_[static_cast<size_t>(*known)] != Kind::text) {
        fail("the added token " + in_quotes(token.content) + " stands twice, with ids " +
             std::to_string(*known) + " and " + std::to_string(token.id));
      } else {
        kinds_[static_cast<size_t>(token.id)] = kind;
      }
      (token.normalized ? normalized_added_ : added_).insert(token);
    }
  }

  void add_merges(const TokenizerParts& parts) {
    std::array<int32_t, 256> byte_ids;
    for (size_t b = 0; b < 256; ++b) {
      std::string character;
      append_utf8(alphabet_.character[b], character);
      byte_ids[b] = id_of(character).value_or(-1);
      if (byte_ids[b] < 0) continue;
      if (!is_in_utf8(b) && kinds_[static_cast<size_t>(byte_ids[b])] == Kind::added) {
        byte_ids[b] = -1;  // a letter
      } else {
        refuse_added(byte_ids[b]);
      }
    }
    auto token = [&](const std::string& text) {
      const std::optional<int32_t> id = id_of(text);
      if (!id) fail("a merge names the token " + in_quotes(text) + ", which is not in the vocabulary");
      return *id;
    };
    std::vector<Bpe::Merge> merges;
    merges.reserve(parts.merges.size());
    boost::unordered_flat_map<uint64_t, bool> seen;
    seen.reserve(parts.merges.size());
    for (const auto& [left, right] : parts.merges) {
      merges.push_back({token(left), token(right), token(left + right)});
      const Bpe::Merge& merge = merges.back();
      refuse_added(merge.result);
      const uint64_t pair = static_cast<uint64_t>(merge.left) << 32 | static_cast<uint32_t>(merge.right);
      if (!seen.emplace(pair, true).second)
        fail("the merge of " + in_quotes(left) + " and " + in_quotes(right) + " stands twice");
    }
    bpe_.emplace(byte_ids, merges);
  }

  /// Form C may write a character in a third of its bytes: a Hangul syllable of three letters.
  TokenBound bound_of(const TokenizerParts& parts) const {
    for (const SplitRule& rule : parts.rules)
      if (rule.behaviour == SplitBehaviour::removed) return {};
    std::vector<std::string> tokens = bytes_;
    for (const AddedToken& token : parts.added) tokens.push_back(token.content);
    return {tokens,
            {.shrinks_by_max = nfc_ ? nfc_shrinks_by_max : 1,
             .takes_blanks = std::ranges::any_of(
                 parts.added, [](const AddedToken& token) { return token.lstrip || token.rstrip; })}};
  }

  /// Plain text must never become an added token: nothing that merging can make may be one.
  void refuse_added(int32_t id) const {
    const size_t at = static_cast<size_t>(id);
    if (kinds_[at] != Kind::text) fail("merging plain text makes the added token " + in_quotes(bytes_[at]));
  }

  std::string digest_of(const TokenizerParts& parts) const {
    std::string all;
    auto number = [&](int64_t value) { all += std::to_string(value) + ' '; };
    auto text = [&](std::string_view value) {
      number(static_cast<int64_t>(value.size()));
      all += value;
    };
    text("byte-level BPE 1");
    number(nfc_);
    number(ignore_merges_);
    number(size());
    for (size_t id = 0; id < bytes_.size(); ++id) {
      number(static_cast<int64_t>(kinds_[id]));
      text(bytes_[id]);
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
    for (const SplitRule& rule : parts.rules) {
      text(rule.expression);
      number(static_cast<int>(rule.behaviour) << 2 | rule.invert << 1 | rule.prefix_space);
    }
    Sha256 digest;
    digest.update(all);
    return digest.hex();
  }

  std::string where_;
  bool nfc_, ignore_merges_;
  ByteAlphabet alphabet_;
  std::vector<std::string> bytes_;  // by id; empty where there is no token
  std::vector<Kind> kinds_;         // by id
  boost::unordered_flat_map<std::string, int32_t, TextHash, std::equal_to<>> ids_;
  boost::unordered_flat_map<std::string_view, int32_t> words_;  // views into bytes_; only with ignore_merges
  TokenBound bound_;
  AddedTokens added_, normalized_added_, letters_;
  std::optional<Pretokenizer> pretokenizer_;
  std::optional<Bpe> bpe_;
  std::string digest_;
  std::optional<std::string> chat_template_;
  std::optional<int32_t> bos_, eos_;
};

}  // namespace

std::array<char32_t, 256> byte_characters() { return ByteAlphabet().character; }

std::shared_ptr<const Tokenizer> make_tokenizer(TokenizerParts parts) {
  return std::make_shared<const ByteLevelTokenizer>(std::move(parts));
}

}  // namespace convoy::model
