// Reads tokenizer.json. What it does not know it refuses by name.

#include <boost/json.hpp>

#include "model/error.hpp"
#include "model/json.hpp"
#include "model/tokenizer/json_reader.hpp"
#include "model/tokenizer/tokenizer_parts.hpp"

namespace convoy::model {
namespace {

/// A pattern that is a text, not an expression.
std::string literal(const json::object& object, const JsonReader& read, std::string_view name) {
  const json::object& pattern = read.object(read.field(object, "pattern"), "pattern");
  if (pattern.contains("Regex")) read.unsupported(std::string(name) + " by an expression", "Regex");
  return std::string(read.string(read.field(pattern, "String"), "String"));
}

void read_normalizer(const json::value& value, const JsonReader& read, TokenizerParts& parts) {
  using Kind = NormalStep::Kind;
  if (value.is_null()) return;
  const json::object& normalizer = read.object(value, "normalizer");
  const std::string_view type = read.type(normalizer, "normalizer");
  if (type == "NFC") {
    parts.normalizer.push_back({Kind::nfc, "", ""});
  } else if (type == "Prepend") {
    parts.normalizer.push_back(
        {Kind::prepend, "", std::string(read.string(read.field(normalizer, "prepend"), "prepend"))});
  } else if (type == "Replace") {
    NormalStep step{Kind::replace, literal(normalizer, read, "Replace"), ""};
    if (step.from.empty()) read.fail("a Replace's pattern is empty");
    step.to = read.string(read.field(normalizer, "content"), "content");
    parts.normalizer.push_back(std::move(step));
  } else if (type == "Sequence") {
    for (const json::value& v : read.array(read.field(normalizer, "normalizers"), "normalizers")) {
      read_normalizer(v, read, parts);
    }
  } else {
    read.unsupported("normalizer", type);
  }
}

SplitBehaviour behaviour_of(std::string_view name, const JsonReader& read) {
  if (name == "Isolated") return SplitBehaviour::isolated;
  if (name == "Removed") return SplitBehaviour::removed;
  if (name == "Contiguous") return SplitBehaviour::contiguous;
  if (name == "MergedWithPrevious") return SplitBehaviour::merged_with_previous;
  if (name == "MergedWithNext") return SplitBehaviour::merged_with_next;
  read.unsupported("behavior", name);
}

/// An expression that matches the text itself.
std::string quoted(std::string_view literal) {
  std::string out;
  for (const char c : literal) {
    if (std::ispunct(static_cast<unsigned char>(c))) out += '\\';
    out += c;
  }
  return out;
}

SplitRule read_split(const json::object& split, const JsonReader& read) {
  SplitRule rule;
  const json::object& pattern = read.object(read.field(split, "pattern"), "pattern");
  if (const json::value* regex = pattern.if_contains("Regex")) {
    rule.expression = read.string(*regex, "Regex");
  } else {
    rule.expression = quoted(read.string(read.field(pattern, "String"), "String"));
  }
  if (rule.expression.empty()) read.fail("a Split's pattern is empty");
  rule.behaviour = behaviour_of(read.string(read.field(split, "behavior"), "behavior"), read);
  rule.invert = read.flag(split, "invert", false);
  return rule;
}

void check_blank_mark(std::string_view replacement, const JsonReader& read) {
  if (replacement != blank_mark) read.unsupported("replacement of a blank", replacement);
}

SplitRule read_metaspace(const json::object& metaspace, const JsonReader& read) {
  check_blank_mark(read.string(read.field(metaspace, "replacement"), "replacement"), read);
  SplitRule rule{.prefix = Prefix::each, .blank = std::string(blank_mark)};
  if (read.flag(metaspace, "split", true)) {
    rule.expression = blank_mark;
    rule.behaviour = SplitBehaviour::merged_with_next;
  }
  // Files older than prepend_scheme say add_prefix_space alone.
  if (!read.flag(metaspace, "add_prefix_space", true)) rule.prefix = Prefix::none;
  if (const json::value* scheme = metaspace.if_contains("prepend_scheme")) {
    const std::string_view name = read.string(*scheme, "prepend_scheme");
    if (name == "first") {
      rule.prefix = Prefix::first;
    } else if (name == "never") {
      rule.prefix = Prefix::none;
    } else if (name != "always") {
      read.unsupported("prepend_scheme", name);
    }
  }
  return rule;
}

/// Appends the rules of one pre-tokenizer. `whole` becomes true with ByteLevel, which has to be the last.
void read_pre_tokenizer(const json::value& value, const JsonReader& read, bool& whole,
                        std::vector<SplitRule>& rules) {
  const json::object& pre = read.object(value, "pre_tokenizer");
  const std::string_view type = read.type(pre, "pre_tokenizer");
  if (whole) read.unsupported("pre-tokenizer behind ByteLevel", type);
  if (type == "Sequence") {
    for (const json::value& v : read.array(read.field(pre, "pretokenizers"), "pretokenizers")) {
      read_pre_tokenizer(v, read, whole, rules);
    }
  } else if (type == "Split") {
    rules.push_back(read_split(pre, read));
  } else if (type == "Digits") {
    const bool individual = read.flag(pre, "individual_digits", false);
    rules.push_back({.expression = individual ? "\\p{N}" : "\\p{N}+"});
  } else if (type == "ByteLevel") {
    SplitRule rule;
    if (read.flag(pre, "use_regex", true)) rule.expression = gpt2_expression;
    if (read.flag(pre, "add_prefix_space", true)) rule.prefix = Prefix::each;
    rules.push_back(std::move(rule));
    whole = true;
  } else if (type == "Metaspace") {
    rules.push_back(read_metaspace(pre, read));
  } else {
    read.unsupported("pre-tokenizer", type);
  }
}

/// Post-processors add control tokens around a whole text, which here only a template does; so they are
/// known, not applied.
void check_post_processor(const json::value& value, const JsonReader& read) {
  if (value.is_null()) return;
  const json::object& post = read.object(value, "post_processor");
  const std::string_view type = read.type(post, "post_processor");
  if (type == "Sequence") {
    for (const json::value& v : read.array(read.field(post, "processors"), "processors"))
      check_post_processor(v, read);
  } else if (type != "ByteLevel" && type != "TemplateProcessing") {
    read.unsupported("post-processor", type);
  }
}

void check_byte_level_decoder(const json::value& value, const JsonReader& read) {
  const json::object& decoder = read.object(value, "decoder");
  const std::string_view type = read.type(decoder, "decoder");
  if (type == "Sequence") {
    const json::array& decoders = read.array(read.field(decoder, "decoders"), "decoders");
    if (decoders.size() != 1) read.fail("the decoder has several parts");
    check_byte_level_decoder(decoders[0], read);
  } else if (type != "ByteLevel") {
    read.unsupported("decoder", type);
  }
}

/// ▁ to blanks, bytes to characters, all in one; then, of some, the first blank away.
void read_sentencepiece_decoder(const json::value& value, const JsonReader& read, TokenizerParts& parts) {
  const json::object& decoder = read.object(value, "decoder");
  const std::string_view type = read.type(decoder, "decoder");
  if (type == "ByteLevel") read.fail("there is no ByteLevel pre-tokenizer");
  if (type != "Sequence") read.unsupported("decoder", type);
  const json::array& steps = read.array(read.field(decoder, "decoders"), "decoders");
  constexpr std::string_view known[] = {"Replace", "ByteFallback", "Fuse", "Strip"};
  std::string names;
  for (size_t i = 0; i < steps.size(); ++i) {
    const std::string_view name = read.type(read.object(steps[i], "decoder"), "decoder");
    names += (i ? ", " : "") + std::string(name);
    if (i >= std::size(known) || name != known[i]) read.unsupported("sequence of decoders", names);
  }
  if (steps.size() < 3) read.unsupported("sequence of decoders", names);
  const json::object& replace = steps[0].get_object();
  check_blank_mark(literal(replace, read, "Replace"), read);
  if (const auto to = read.string(read.field(replace, "content"), "content"); to != " ")
    read.unsupported("text for a blank", to);
  parts.drops_leading_blank = steps.size() == 4;
  if (!parts.drops_leading_blank) return;
  const json::object& strip = steps[3].get_object();
  const auto count = [&](std::string_view key) {
    const json::value& v = read.field(strip, key);
    return v.is_int64() ? v.get_int64() : -1;
  };
  if (read.string(read.field(strip, "content"), "content") != " " || count("start") != 1 ||
      count("stop") != 0)
    read.unsupported("decoder", json::serialize(strip));
}

void read_merges(const json::array& merges, const JsonReader& read, TokenizerParts& parts) {
  parts.merges.reserve(merges.size());
  for (const json::value& v : merges) {
    if (v.is_array()) {
      if (v.get_array().size() != 2) read.fail("a merge does not name two tokens");
      parts.merges.emplace_back(read.string(v.get_array()[0], "a merge's token"),
                                read.string(v.get_array()[1], "a merge's token"));
      continue;
    }
    const std::string_view text = read.string(v, "a merge");
    if (text.starts_with("#version")) continue;  // the first line of the merges.txt that it was made of
    const size_t blank = text.find(' ');
    if (blank == text.npos || text.find(' ', blank + 1) != text.npos) {
      read.fail("the merge " + in_quotes(text) + " does not name two tokens");
    }
    parts.merges.emplace_back(text.substr(0, blank), text.substr(blank + 1));
  }
}

void read_model(const json::object& model, const JsonReader& read, TokenizerParts& parts) {
  // Old files name no type; only BPE has merges.
  if (model.contains("type") && read.type(model, "model") != "BPE") {
    read.unsupported("model", read.type(model, "model"));
  }
  const bool byte_level = parts.alphabet == Alphabet::byte_level;
  parts.byte_fallback = read.flag(model, "byte_fallback", false);
  if (parts.byte_fallback && byte_level) read.unsupported("option", "byte_fallback");
  parts.fuse_unknown = read.flag(model, "fuse_unk", false);
  for (const std::string_view key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const json::value* v = model.if_contains(key);
    if (v && !v->is_null() && !read.string(*v, key).empty()) read.unsupported("option", key);
  }
  if (const json::value* v = model.if_contains("dropout"); v && !v->is_null())
    read.unsupported("option", "dropout");
  if (const json::value* v = model.if_contains("unk_token"); v && !v->is_null()) {
    if (byte_level) read.unsupported("option", "unk_token");
    parts.unknown = read.string(*v, "unk_token");
  }
  parts.ignore_merges = read.flag(model, "ignore_merges", false);
  const json::object& vocabulary = read.object(read.field(model, "vocab"), "vocab");
  parts.vocabulary.reserve(vocabulary.size());
  for (const auto& [text, id] : vocabulary) {
    parts.vocabulary.emplace_back(text, read.id(id, text));
  }
  read_merges(read.array(read.field(model, "merges"), "merges"), read, parts);
}

void read_added_tokens(const json::array& tokens, const JsonReader& read, TokenizerParts& parts) {
  parts.added.reserve(tokens.size());
  for (const json::value& v : tokens) {
    const json::object& token = read.object(v, "an added token");
    const std::string_view content = read.string(read.field(token, "content"), "an added token's content");
    parts.added.push_back(read_added_token(token, read.id(read.field(token, "id"), content), read));
  }
}

}  // namespace

AddedToken read_added_token(const json::object& token, int32_t id, const JsonReader& read) {
  AddedToken added;
  added.id = id;
  added.content = read.string(read.field(token, "content"), "an added token's content");
  added.single_word = read.flag(token, "single_word", false);
  added.lstrip = read.flag(token, "lstrip", false);
  added.rstrip = read.flag(token, "rstrip", false);
  added.special = read.flag(token, "special", false);
  added.normalized = read.flag(token, "normalized", !added.special);
  return added;
}

TokenizerParts parse_tokenizer_json(std::string_view text, std::string where) {
  const JsonReader read(where);
  const json::value value = parse_json(text, where);
  const json::object& root = read.object(value, "the file");
  TokenizerParts parts;
  parts.where = std::move(where);
  auto part = [&](std::string_view key) -> json::value {
    const json::value* v = root.if_contains(key);
    return v ? *v : json::value();
  };
  read_normalizer(part("normalizer"), read, parts);
  bool byte_level = false;
  if (const json::value pre = part("pre_tokenizer"); !pre.is_null())
    read_pre_tokenizer(pre, read, byte_level, parts.rules);
  parts.alphabet = byte_level ? Alphabet::byte_level : Alphabet::sentencepiece;
  check_post_processor(part("post_processor"), read);
  if (byte_level) {
    check_byte_level_decoder(part("decoder"), read);
  } else {
    read_sentencepiece_decoder(part("decoder"), read, parts);
  }
  read_model(read.object(read.field(root, "model"), "model"), read, parts);
  if (root.contains("added_tokens")) {
    read_added_tokens(read.array(read.field(root, "added_tokens"), "added_tokens"), read, parts);
  }
  return parts;
}

}  // namespace convoy::model
