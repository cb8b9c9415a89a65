// Reads tokenizer.json (and tokenizer_config.json beside it). What it does not know it refuses by name.

#include <boost/json.hpp>

#include "model/error.hpp"
#include "model/json.hpp"
#include "model/text_file.hpp"
#include "model/tokenizer/byte_level_tokenizer.hpp"

namespace convoy::model {
namespace {

namespace json = boost::json;

constexpr uintmax_t file_bytes_max = 256 << 20;

/// The objects of one file, read with errors that name the file and the key.
class Reader {
 public:
  explicit Reader(std::string where) : where_(std::move(where)) {}

  [[noreturn]] void fail(const std::string& what) const {
    throw InputError(what, where_, "check that the file is whole and a byte-level BPE tokenizer");
  }
  [[noreturn]] void unsupported(std::string_view part, std::string_view name) const {
    throw InputError("the " + std::string(part) + " " + in_quotes(name) + " is not supported", where_,
                     "use a model with a byte-level BPE tokenizer");
  }

  const json::object& object(const json::value& value, std::string_view name) const {
    if (!value.is_object()) fail(std::string(name) + " is not an object");
    return value.get_object();
  }
  const json::array& array(const json::value& value, std::string_view name) const {
    if (!value.is_array()) fail(std::string(name) + " is not an array");
    return value.get_array();
  }
  std::string_view string(const json::value& value, std::string_view name) const {
    if (!value.is_string()) fail(std::string(name) + " is not a string");
    return value.get_string();
  }
  int32_t id(const json::value& value, std::string_view name) const {
    if (!value.is_int64() || value.get_int64() < 0 || value.get_int64() >= token_ids_max) {
      fail("the id of " + in_quotes(name) + " is not a number in 0.." + std::to_string(token_ids_max - 1));
    }
    return static_cast<int32_t>(value.get_int64());
  }
  const json::value& field(const json::object& object, std::string_view key) const {
    const json::value* value = object.if_contains(key);
    if (!value) fail("there is no " + std::string(key));
    return *value;
  }
  /// Null counts as absent.
  bool flag(const json::object& object, std::string_view key, bool absent) const {
    const json::value* value = object.if_contains(key);
    if (!value || value->is_null()) return absent;
    if (!value->is_bool()) fail(std::string(key) + " is neither true nor false");
    return value->get_bool();
  }
  std::string_view type(const json::object& object, std::string_view name) const {
    return string(field(object, "type"), std::string(name) + "'s type");
  }

 private:
  std::string where_;
};

void read_normalizer(const json::value& value, const Reader& read, TokenizerParts& parts) {
  if (value.is_null()) return;
  const json::object& normalizer = read.object(value, "normalizer");
  const std::string_view type = read.type(normalizer, "normalizer");
  if (type == "NFC") {
    parts.nfc = true;
  } else if (type == "Sequence") {
    for (const json::value& v : read.array(read.field(normalizer, "normalizers"), "normalizers")) {
      read_normalizer(v, read, parts);
    }
  } else {
    read.unsupported("normalizer", type);
  }
}

SplitBehaviour behaviour_of(std::string_view name, const Reader& read) {
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

SplitRule read_split(const json::object& split, const Reader& read) {
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

/// Appends the rules of one pre-tokenizer. `whole` becomes true with ByteLevel, which has to be the last.
void read_pre_tokenizer(const json::value& value, const Reader& read, bool& whole,
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
    rule.prefix_space = read.flag(pre, "add_prefix_space", true);
    rules.push_back(std::move(rule));
    whole = true;
  } else {
    read.unsupported("pre-tokenizer", type);
  }
}

/// Post-processors add control tokens around a whole text, which here only a template does; so they are
/// known, not applied.
void check_post_processor(const json::value& value, const Reader& read) {
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

void check_decoder(const json::value& value, const Reader& read) {
  const json::object& decoder = read.object(value, "decoder");
  const std::string_view type = read.type(decoder, "decoder");
  if (type == "Sequence") {
    const json::array& decoders = read.array(read.field(decoder, "decoders"), "decoders");
    if (decoders.size() != 1) read.fail("the decoder has several parts");
    check_decoder(decoders[0], read);
  } else if (type != "ByteLevel") {
    read.unsupported("decoder", type);
  }
}

void read_merges(const json::array& merges, const Reader& read, TokenizerParts& parts) {
  parts.merges.reserve(merges.size());
  for (const json::value& v : merges) {
    if (v.is_array()) {
      if (v.get_array().size() != 2) read.fail("a merge does not name two tokens");
      parts.merges.emplace_back(read.string(v.get_array()[0], "a merge's token"),
                                read.string(v.get_array()[1], "a merge's token"));
      continue;
    }
    const std::string_view text = read.string(v, "a merge");
    const size_t blank = text.find(' ');
    if (blank == text.npos || text.find(' ', blank + 1) != text.npos) {
      read.fail("the merge " + in_quotes(text) + " does not name two tokens");
    }
    parts.merges.emplace_back(text.substr(0, blank), text.substr(blank + 1));
  }
}

void read_model(const json::object& model, const Reader& read, TokenizerParts& parts) {
  // Old files name no type; only BPE has merges.
  if (model.contains("type") && read.type(model, "model") != "BPE") {
    read.unsupported("model", read.type(model, "model"));
  }
  if (read.flag(model, "byte_fallback", false)) read.unsupported("option", "byte_fallback");
  for (const std::string_view key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const json::value* v = model.if_contains(key);
    if (v && !v->is_null() && !read.string(*v, key).empty()) read.unsupported("option", key);
  }
  for (const std::string_view key : {"dropout", "unk_token"}) {
    const json::value* v = model.if_contains(key);
    if (v && !v->is_null()) read.unsupported("option", key);
  }
  parts.ignore_merges = read.flag(model, "ignore_merges", false);
  const json::object& vocabulary = read.object(read.field(model, "vocab"), "vocab");
  parts.vocabulary.reserve(vocabulary.size());
  for (const auto& [text, id] : vocabulary) {
    parts.vocabulary.emplace_back(text, read.id(id, text));
  }
  read_merges(read.array(read.field(model, "merges"), "merges"), read, parts);
}

void read_added_tokens(const json::array& tokens, const Reader& read, TokenizerParts& parts) {
  parts.added.reserve(tokens.size());
  for (const json::value& v : tokens) {
    const json::object& token = read.object(v, "an added token");
    AddedToken added;
    added.content = read.string(read.field(token, "content"), "an added token's content");
    added.id = read.id(read.field(token, "id"), added.content);
    added.single_word = read.flag(token, "single_word", false);
    added.lstrip = read.flag(token, "lstrip", false);
    added.rstrip = read.flag(token, "rstrip", false);
    added.special = read.flag(token, "special", false);
    added.normalized = read.flag(token, "normalized", !added.special);
    parts.added.push_back(std::move(added));
  }
}

std::string file_text(const std::filesystem::path& path) {
  std::string text = read_text_file(path, file_bytes_max + 1, "check the path and its permissions");
  if (text.size() > file_bytes_max)
    throw InputError("has more than " + std::to_string(file_bytes_max) + " bytes", path.string(),
                     "check that it is a tokenizer's file");
  return text;
}

/// A token in tokenizer_config.json: its text, or an object with its text as content; null for none.
std::optional<std::string> config_token(const json::object& config, std::string_view key,
                                        const Reader& read) {
  const json::value* value = config.if_contains(key);
  if (!value || value->is_null()) return std::nullopt;
  if (value->is_object()) value = &read.field(value->get_object(), "content");
  return std::string(read.string(*value, key));
}

/// The template's text; of several named ones the one called "default".
std::optional<std::string> config_template(const json::object& config, const Reader& read) {
  const json::value* value = config.if_contains("chat_template");
  if (!value || value->is_null()) return std::nullopt;
  if (!value->is_array()) return std::string(read.string(*value, "chat_template"));
  for (const json::value& v : value->get_array()) {
    const json::object& entry = read.object(v, "an entry of chat_template");
    if (read.string(read.field(entry, "name"), "a template's name") == "default") {
      return std::string(read.string(read.field(entry, "template"), "a template"));
    }
  }
  return std::nullopt;
}

}  // namespace

TokenizerParts parse_tokenizer_json(std::string_view text, std::string where) {
  const Reader read(where);
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
  read_pre_tokenizer(part("pre_tokenizer"), read, byte_level, parts.rules);
  if (!byte_level) read.fail("there is no ByteLevel pre-tokenizer");
  check_post_processor(part("post_processor"), read);
  check_decoder(part("decoder"), read);
  read_model(read.object(read.field(root, "model"), "model"), read, parts);
  if (root.contains("added_tokens")) {
    read_added_tokens(read.array(read.field(root, "added_tokens"), "added_tokens"), read, parts);
  }
  return parts;
}

TokenizerParts read_tokenizer_json(const std::filesystem::path& path) {
  TokenizerParts parts = parse_tokenizer_json(file_text(path), path.string());
  std::error_code error;
  const std::filesystem::path config_path = path.parent_path() / "tokenizer_config.json";
  if (std::filesystem::exists(config_path, error)) {
    const Reader read(config_path.string());
    const json::value value = parse_json(file_text(config_path), config_path.string());
    const json::object& config = read.object(value, "the file");
    parts.bos = config_token(config, "bos_token", read);
    parts.eos = config_token(config, "eos_token", read);
    parts.chat_template = config_template(config, read);
  }
  // Newer checkpoints keep the template in a file of its own.
  const std::filesystem::path template_path = path.parent_path() / "chat_template.jinja";
  if (std::filesystem::exists(template_path, error)) parts.chat_template = file_text(template_path);
  return parts;
}

}  // namespace convoy::model
