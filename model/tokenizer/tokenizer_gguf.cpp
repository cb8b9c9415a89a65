// Reads the tokenizer in a GGUF's metadata. The format names the pre-tokenizer instead of writing it down:
// the rules of the names that are known stand here.

#include <algorithm>
#include <charconv>

#include "model/error.hpp"
#include "model/format/gguf.hpp"
#include "model/json.hpp"
#include "model/tokenizer/tokenizer_parts.hpp"
#include "model/utf8.hpp"

namespace convoy::model {
namespace {

constexpr std::string_view llama3_expression =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view qwen2_expression =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view deepseek_v3_expression =
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
    " ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
// DeepSeek V1 and V2, as published: letters that have a case, though not all of them.
constexpr std::string_view deepseek_llm_letters =
    "\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af"
    "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5"
    "\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba"
    "\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45"
    "\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe"
    "\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102"
    "\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3"
    "\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06"
    "\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943]+";
// Between : and ~ lie the Latin letters as well; the rules apply one after the other, so this one cuts words
// again.
constexpr std::string_view deepseek_llm_punctuation =
    "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+";
constexpr std::string_view deepseek_cjk = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+";

struct Known {
  std::string_view pre;
  std::vector<std::string> expressions;
  bool nfc = false, ignore_merges = false;
};

const std::vector<Known>& known_pre_tokenizers() {
  static const std::vector<Known> known = {
      {"gpt-2", {std::string(gpt2_expression)}},
      {"smollm", {"\\p{N}", std::string(gpt2_expression)}},
      {"llama-bpe", {std::string(llama3_expression)}, false, true},
      {"qwen2", {std::string(qwen2_expression)}, true, false},
      {"deepseek-r1-qwen", {std::string(qwen2_expression)}, true, false},
      {"deepseek-v3",
       {"\\p{N}{1,3}", "[\\u4e00-\\u9fa5\\u3040-\\u309f\\u30a0-\\u30ff]+",
        std::string(deepseek_v3_expression)}},
      {"deepseek-llm",
       {"[\r\n]", std::string(deepseek_llm_letters), std::string(deepseek_llm_punctuation), "\\s+$",
        std::string(deepseek_cjk), "\\p{N}"}},
      {"deepseek-coder", {"[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", std::string(deepseek_cjk), "\\p{N}"}},
  };
  return known;
}

/// Four digits from `at` on.
bool read_hex(const std::string& text, size_t at, uint32_t& value) {
  if (at + 4 > text.size()) return false;
  const char* const end = text.data() + at + 4;
  return std::from_chars(text.data() + at, end, value, 16).ptr == end;
}

/// With \r, \n and \uXXXX as the characters they stand for: files write an expression either way.
std::string unescaped(const std::string& expression) {
  std::string out;
  for (size_t i = 0; i < expression.size(); ++i) {
    const char next = i + 1 < expression.size() ? expression[i + 1] : '\0';
    if (expression[i] != '\\' || next == '\0') {
      out += expression[i];
      continue;
    }
    ++i;
    if (next == 'r' || next == 'n') {
      out += next == 'r' ? '\r' : '\n';
    } else if (uint32_t character = 0; next == 'u' && read_hex(expression, i + 1, character)) {
      append_utf8(character, out);
      i += 4;
    } else {
      out += '\\';
      out += next;
    }
  }
  return out;
}

/// GGUF's kinds of token.
enum TokenType : uint64_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

class Reader {
 public:
  Reader(const GgufMetadata& metadata, std::string where) : metadata_(metadata), where_(std::move(where)) {}

  [[noreturn]] void fail(const std::string& what,
                         const std::string& mend = "check that the file is whole") const {
    throw InputError(what, where_, mend);
  }

  template <typename T>
  const T* find(const std::string& key) const {
    const auto at = metadata_.find(key);
    if (at == metadata_.end()) return nullptr;
    const T* value = std::get_if<T>(&at->second.value);
    if (!value) fail(key + " has the wrong type");
    return value;
  }
  template <typename T>
  const T& get(const std::string& key) const {
    const T* value = find<T>(key);
    if (!value) fail("there is no " + key, "use a file with a BPE tokenizer");
    return *value;
  }
  std::string string(GgufValue value, const std::string& key) const {
    std::string* text = std::get_if<std::string>(&value.value);
    if (!text) fail(key + " has an entry that is not a string");
    return std::move(*text);
  }
  /// A whole number ≥ 0 of either sign's type.
  uint64_t number(const GgufValue& value, const std::string& key) const {
    if (const uint64_t* n = std::get_if<uint64_t>(&value.value)) return *n;
    const int64_t* n = std::get_if<int64_t>(&value.value);
    if (!n || *n < 0) fail(key + " is not a number ≥ 0");
    return static_cast<uint64_t>(*n);
  }
  const GgufMetadata& metadata() const { return metadata_; }

 private:
  const GgufMetadata& metadata_;
  std::string where_;
};

void read_pre(const Reader& read, TokenizerParts& parts) {
  const std::string& pre = read.get<std::string>("tokenizer.ggml.pre");
  const auto& known = known_pre_tokenizers();
  const auto found = std::find_if(known.begin(), known.end(), [&](const Known& k) { return k.pre == pre; });
  if (found == known.end()) {
    std::string names;
    for (const Known& k : known) names += (names.empty() ? "" : ", ") + std::string(k.pre);
    read.fail("the pre-tokenizer " + in_quotes(pre) + " (tokenizer.ggml.pre) is not supported",
              "known are " + names);
  }
  for (const std::string& expression : found->expressions) parts.rules.push_back({.expression = expression});
  if (found->nfc) parts.normalizer.push_back({NormalStep::Kind::nfc, "", ""});
  parts.ignore_merges = found->ignore_merges;
}

void read_tokens(const Reader& read, TokenizerParts& parts) {
  const std::string key = "tokenizer.ggml.tokens", type_key = "tokenizer.ggml.token_type";
  const GgufArray& tokens = read.get<GgufArray>(key);
  const GgufArray& types = read.get<GgufArray>(type_key);
  if (tokens.size() != types.size()) {
    read.fail(key + " has " + std::to_string(tokens.size()) + " entries and " + type_key + " " +
              std::to_string(types.size()));
  }
  if (tokens.size() > static_cast<size_t>(token_ids_max)) {
    read.fail(key + " has " + std::to_string(tokens.size()) + " entries, at most " +
              std::to_string(token_ids_max) + " are supported");
  }
  const bool sentencepiece = parts.alphabet == Alphabet::sentencepiece;
  auto entry = tokens.begin();
  auto entry_type = types.begin();
  for (size_t i = 0; i < tokens.size(); ++i, ++entry, ++entry_type) {
    const std::string text = read.string(*entry, key);
    const int32_t id = static_cast<int32_t>(i);
    const uint64_t type = read.number(*entry_type, type_key);
    if (type == TokenType::normal || (type == TokenType::byte && sentencepiece)) {
      if (type == TokenType::byte && !byte_of_piece(text))
        read.fail("the token " + in_quotes(text) + " is of a byte, but does not name it as <0x0A>");
      parts.vocabulary.emplace_back(text, id);
    } else if (type == TokenType::unknown || type == TokenType::control) {
      parts.added.push_back({.id = id, .content = text, .special = true});
      if (type == TokenType::unknown && sentencepiece) parts.unknown = text;
    } else if (type == TokenType::user_defined) {
      parts.added.push_back({.id = id, .content = text});
    } else if (type != TokenType::unused) {  // those fill up the matrix; no text becomes one
      read.fail("the token " + in_quotes(text) + " has the type " + std::to_string(type) +
                ", which is not known");
    }
  }
}

/// Sentencepiece's vocabulary, as llama.cpp reads it.
void read_sentencepiece(const Reader& read, TokenizerParts& parts) {
  parts.alphabet = Alphabet::sentencepiece;
  parts.byte_fallback = parts.fuse_unknown = true;
  read_tokens(read, parts);
  const std::string key = "tokenizer.ggml.scores";
  const GgufArray& scores = read.get<GgufArray>(key);
  for (const auto& [text, id] : parts.vocabulary) {
    const auto index = static_cast<size_t>(id);
    const GgufValue entry = index < scores.size() ? scores.at(index) : GgufValue{};
    const double* const score = std::get_if<double>(&entry.value);
    if (!score) read.fail(key + " has no number for the token " + in_quotes(text));
    parts.scores.push_back(static_cast<float>(*score));
  }
  const bool* const prefix = read.find<bool>("tokenizer.ggml.add_space_prefix");
  parts.drops_leading_blank = !prefix || *prefix;
  if (parts.drops_leading_blank)
    parts.normalizer.push_back({NormalStep::Kind::prepend, "", std::string(blank_mark)});
  parts.normalizer.push_back({NormalStep::Kind::replace, " ", std::string(blank_mark)});
}

void read_merges(const Reader& read, TokenizerParts& parts) {
  const std::string key = "tokenizer.ggml.merges";
  const GgufArray& merges = read.get<GgufArray>(key);
  parts.merges.reserve(merges.size());
  for (const GgufValue& v : merges) {
    const std::string text = read.string(v, key);
    if (text.starts_with("#version")) continue;  // the first line of the merges.txt that it was made of
    const size_t blank = text.find(' ');
    if (blank == text.npos || text.find(' ', blank + 1) != text.npos) {
      read.fail("the merge " + in_quotes(text) + " does not name two tokens");
    }
    parts.merges.emplace_back(text.substr(0, blank), text.substr(blank + 1));
  }
}

/// The text of the token whose id stands under the key.
std::optional<std::string> token_at(const Reader& read, const std::string& key) {
  const auto at = read.metadata().find(key);
  if (at == read.metadata().end()) return std::nullopt;
  const uint64_t id = read.number(at->second, key);
  const GgufArray& tokens = read.get<GgufArray>("tokenizer.ggml.tokens");
  if (id >= tokens.size()) read.fail(key + " is " + std::to_string(id) + ", beyond the vocabulary");
  return read.string(tokens.at(id), "tokenizer.ggml.tokens");
}

}  // namespace

std::optional<std::string> pre_tokenizer_name(const TokenizerParts& parts) {
  if (parts.alphabet != Alphabet::byte_level) return std::nullopt;
  const bool nfc = parts.normalizer == std::vector<NormalStep>{{NormalStep::Kind::nfc, "", ""}};
  if (!nfc && !parts.normalizer.empty()) return std::nullopt;
  std::vector<std::string> own;
  for (const SplitRule& rule : parts.rules) {
    if (rule.behaviour != SplitBehaviour::isolated || rule.invert || rule.prefix != Prefix::none ||
        rule.blank != " ")
      return std::nullopt;
    if (!rule.expression.empty()) own.push_back(unescaped(rule.expression));
  }
  for (const Known& known : known_pre_tokenizers())
    if (known.nfc == nfc && known.ignore_merges == parts.ignore_merges &&
        std::ranges::equal(known.expressions, own, {}, unescaped))
      return std::string(known.pre);
  return std::nullopt;
}

bool has_tokenizer_gguf(const GgufMetadata& metadata) {
  const auto model = metadata.find("tokenizer.ggml.model");
  if (model == metadata.end()) return false;
  const std::string* const kind = std::get_if<std::string>(&model->second.value);
  return !kind || *kind != "none";
}

TokenizerParts read_tokenizer_gguf(const GgufMetadata& metadata, std::string where) {
  const Reader read(metadata, where);
  const std::string& model = read.get<std::string>("tokenizer.ggml.model");
  TokenizerParts parts;
  parts.where = std::move(where);
  if (model == "gpt2") {
    read_pre(read, parts);
    read_tokens(read, parts);
    read_merges(read, parts);
  } else if (model == "llama") {
    read_sentencepiece(read, parts);
  } else {
    read.fail("the tokenizer " + in_quotes(model) + " (tokenizer.ggml.model) is not supported",
              "use a model with a byte-level (gpt2) or sentencepiece-like (llama) BPE tokenizer");
  }
  if (const std::string* text = read.find<std::string>("tokenizer.chat_template"))
    parts.chat_template = *text;
  parts.bos = token_at(read, "tokenizer.ggml.bos_token_id");
  parts.eos = token_at(read, "tokenizer.ggml.eos_token_id");
  parts.pad = token_at(read, "tokenizer.ggml.padding_token_id");
  return parts;
}

}  // namespace convoy::model
