// What stands beside a tokenizer.json: tokenizer_config.json and the chat template.

#include <algorithm>
#include <boost/json.hpp>
#include <boost/unordered/unordered_flat_map.hpp>
#include <iterator>

#include "model/error.hpp"
#include "model/json.hpp"
#include "model/text_file.hpp"
#include "model/tokenizer/json_reader.hpp"

namespace convoy::model {
namespace {

constexpr uintmax_t file_bytes_max = 256 << 20;

std::string file_text(const std::filesystem::path& path) {
  std::string text = read_text_file(path, file_bytes_max + 1, "check the path and its permissions");
  if (text.size() > file_bytes_max)
    throw InputError("has more than " + std::to_string(file_bytes_max) + " bytes", path.string(),
                     "check that it is a tokenizer's file");
  return text;
}

/// A token in tokenizer_config.json: its text, or an object with its text as content; null for none.
std::optional<std::string> config_token(const json::object& config, std::string_view key,
                                        const JsonReader& read) {
  const json::value* value = config.if_contains(key);
  if (!value || value->is_null()) return std::nullopt;
  if (value->is_object()) value = &read.field(value->get_object(), "content");
  return std::string(read.string(*value, key));
}

/// The template's text; of several named ones the one called "default".
std::optional<std::string> config_template(const json::object& config, const JsonReader& read) {
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

/// Tokens that tokenizer.json may lack, and flags that go before its own. A token that it has keeps its id
/// there.
void add_decoder_tokens(const json::object& config, const JsonReader& read, TokenizerParts& parts) {
  const json::value* value = config.if_contains("added_tokens_decoder");
  if (!value || value->is_null()) return;
  boost::unordered_flat_map<std::string, AddedToken*> added;
  boost::unordered_flat_map<std::string_view, int32_t> vocabulary;
  std::vector<AddedToken> fresh;
  for (AddedToken& token : parts.added) added.emplace(token.content, &token);
  for (const auto& [text, id] : parts.vocabulary) vocabulary.emplace(text, id);
  for (const auto& [key, entry] : read.object(*value, "added_tokens_decoder")) {
    AddedToken token =
        read_added_token(read.object(entry, "an entry of added_tokens_decoder"), read.id(key), read);
    if (const auto at = vocabulary.find(token.content); at != vocabulary.end()) token.id = at->second;
    if (const auto at = added.find(token.content); at != added.end()) {
      token.id = at->second->id;
      *at->second = std::move(token);
    } else {
      fresh.push_back(std::move(token));
    }
  }
  std::ranges::move(fresh, std::back_inserter(parts.added));
}

}  // namespace

std::optional<std::string> find_tokenizer_file(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return std::nullopt;
  return file_text(path);
}

TokenizerParts read_tokenizer_json(const std::filesystem::path& path, const FindText& find) {
  const auto text = find(path);
  TokenizerParts parts = parse_tokenizer_json(text ? *text : file_text(path), path.string());
  const std::filesystem::path config_path = path.parent_path() / "tokenizer_config.json";
  if (const auto config_text = find(config_path)) {
    const JsonReader read(config_path.string());
    const json::value value = parse_json(*config_text, config_path.string());
    const json::object& config = read.object(value, "the file");
    parts.bos = config_token(config, "bos_token", read);
    parts.eos = config_token(config, "eos_token", read);
    parts.pad = config_token(config, "pad_token", read);
    parts.chat_template = config_template(config, read);
    add_decoder_tokens(config, read, parts);
  }
  // Newer checkpoints keep the template in a file of its own.
  const std::filesystem::path template_path = path.parent_path() / "chat_template.jinja";
  if (auto chat_template = find(template_path)) parts.chat_template = std::move(chat_template);
  return parts;
}

}  // namespace convoy::model
