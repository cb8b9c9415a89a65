// A tokenizer in the other layout than the one it came in.

#include <algorithm>
#include <boost/json.hpp>
#include <functional>

#include "model/error.hpp"
#include "model/json.hpp"
#include "model/rewrite/rewrite_config.hpp"
#include "model/rewrite/rewrite_scores.hpp"
#include "model/tokenizer/end_names.hpp"

namespace convoy::model {

namespace {

namespace json = boost::json;

// GGUF's kinds of token.
constexpr int32_t normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6;

std::optional<int32_t> id_of(const TokenizerParts& parts, const std::optional<std::string>& token) {
  if (!token) return std::nullopt;
  for (const AddedToken& added : parts.added)
    if (added.content == *token) return added.id;
  for (const auto& [text, id] : parts.vocabulary)
    if (text == *token) return id;
  return std::nullopt;
}

json::array added_tokens(const TokenizerParts& parts) {
  json::array tokens;
  for (const AddedToken& added : parts.added)
    tokens.push_back({{"id", added.id},
                      {"content", added.content},
                      {"single_word", added.single_word},
                      {"lstrip", added.lstrip},
                      {"rstrip", added.rstrip},
                      {"normalized", added.normalized},
                      {"special", added.special}});
  return tokens;
}

/// A GGUF's rules all split off what matches, and none adds a blank.
json::value pre_tokenizer(const TokenizerParts& parts) {
  json::array steps;
  for (const SplitRule& rule : parts.rules)
    steps.push_back({{"type", "Split"},
                     {"pattern", json::object{{"Regex", rule.expression}}},
                     {"behavior", "Isolated"},
                     {"invert", false}});
  steps.push_back(
      {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}});
  return json::object{{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
}

/// What a GGUF names instead of the rules by which texts are cut.
void write_gguf_rules(const TokenizerParts& parts, GgufWriter& gguf) {
  const auto pre = pre_tokenizer_name(parts);
  if (!pre)
    throw InputError("cuts words by rules that GGUF has no name for", parts.where,
                     "write safetensors instead");
  std::vector<std::string> merges;
  for (const auto& [left, right] : parts.merges) merges.push_back(left + ' ' + right);
  gguf.key("tokenizer.ggml.model", "gpt2")
      .key("tokenizer.ggml.pre", *pre)
      .key("tokenizer.ggml.merges", std::span<const std::string>(merges));
}

/// A GGUF says of blanks whether one stands before every text, whether it begins with one or not, a text
/// being what no control token cuts. A tokenizer that puts one before the first alone is nearer to none: a
/// chat begins with a control token.
bool prepends_blank(const TokenizerParts& parts) {
  const auto prepends = [](const NormalStep& step) { return step.kind == NormalStep::Kind::prepend; };
  return std::ranges::any_of(parts.normalizer, prepends) ||
         std::ranges::any_of(parts.rules, [](const SplitRule& rule) { return rule.prefix == Prefix::each; });
}

/// Whether that is all that becomes of blanks, and no word is cut.
bool writes_blanks_as_gguf(const TokenizerParts& parts) {
  const NormalStep prepend{NormalStep::Kind::prepend, "", std::string(blank_mark)},
      replace{NormalStep::Kind::replace, " ", std::string(blank_mark)};
  if (parts.rules.empty())
    return parts.normalizer == (prepends_blank(parts) ? std::vector{prepend, replace} : std::vector{replace});
  const SplitRule& only = parts.rules.front();  // a Metaspace that neither adds nor splits
  return parts.rules.size() == 1 && parts.normalizer.empty() && only.expression.empty() &&
         only.prefix == Prefix::none && only.blank == blank_mark;
}

/// A Metaspace that adds a blank to the first word of a text, and does no more.
bool prepends_to_first(const TokenizerParts& parts) {
  TokenizerParts without;
  without.normalizer = parts.normalizer;
  without.rules = parts.rules;
  if (without.rules.size() != 1 || without.rules.front().prefix != Prefix::first) return false;
  without.rules.front().prefix = Prefix::none;
  return writes_blanks_as_gguf(without);
}

/// What sentencepiece, by which a GGUF's vocabulary with scores goes, does in one way only.
void add_lost_pieces(const TokenizerParts& parts, const ListScores& scores, std::vector<std::string>& lost) {
  const auto lacks = [&](bool it, const char* what) {
    if (it) lost.emplace_back(what);
  };
  const bool to_first = prepends_to_first(parts);
  lacks(to_first, "the blank before the first word of a text that begins with no control token");
  lacks(!to_first && !writes_blanks_as_gguf(parts), "where a pre-tokenizer adds blanks or cuts words");
  lacks(parts.drops_leading_blank != prepends_blank(parts), "whether an answer's first blank is written");
  const auto bytes = std::ranges::count_if(parts.vocabulary,
                                           [](const auto& t) { return byte_of_piece(t.first).has_value(); });
  lacks(!parts.byte_fallback || (bytes < 256 && !parts.fuse_unknown),
        "how characters without a token are unknown");
  lacks(parts.ignore_merges, "that words which are tokens are not merged");
  for (const std::string& token : scores.differing)
    lost.push_back("how the token " + in_quotes(token) + " is merged");
}

void write_gguf_scores(const TokenizerParts& parts, const std::vector<float>& of_vocabulary, size_t tokens,
                       GgufWriter& gguf) {
  std::vector<float> scores(tokens, 0.0F);
  for (size_t i = 0; i < of_vocabulary.size(); ++i)
    scores[static_cast<size_t>(parts.vocabulary[i].second)] = of_vocabulary[i];
  gguf.key("tokenizer.ggml.model", "llama")
      .key("tokenizer.ggml.pre", "default")
      .key("tokenizer.ggml.scores", std::span<const float>(scores))
      .key("tokenizer.ggml.add_space_prefix", prepends_blank(parts));
  if (const auto id = id_of(parts, parts.unknown))
    gguf.key("tokenizer.ggml.unknown_token_id", static_cast<uint32_t>(*id));
}

void write_gguf_vocabulary(const GgufTokenizer& tokenizer, const Config& config, GgufWriter& gguf) {
  const TokenizerParts& parts = *tokenizer.parts;
  std::vector<std::string> tokens;
  std::vector<int32_t> types(static_cast<size_t>(config.vocab), unused);
  for (int64_t id = 0; id < config.vocab; ++id) tokens.push_back("[PAD" + std::to_string(id) + "]");
  const auto put = [&](const std::string& text, int32_t id, int32_t type) {
    if (id >= config.vocab)
      throw InputError("has the token " + in_quotes(text) + " with the id " + std::to_string(id) +
                           "; the model has " + std::to_string(config.vocab) + " rows",
                       parts.where, "the tokenizer belongs to another model");
    tokens[static_cast<size_t>(id)] = text;
    types[static_cast<size_t>(id)] = type;
  };
  const bool sentencepiece = parts.alphabet == Alphabet::sentencepiece;
  for (const auto& [text, id] : parts.vocabulary)
    put(text, id, sentencepiece && byte_of_piece(text) ? byte : normal);
  for (const AddedToken& added : parts.added)
    put(added.content, added.id,
        added.content == parts.unknown ? unknown
        : added.special                ? control
                                       : user_defined);
  if (sentencepiece) {
    write_gguf_scores(parts, tokenizer.scores.scores, tokens.size(), gguf);
  } else {
    write_gguf_rules(parts, gguf);
  }
  gguf.key("tokenizer.ggml.tokens", std::span<const std::string>(tokens))
      .key("tokenizer.ggml.token_type", std::span<const int32_t>(types));
  if (parts.chat_template) gguf.key("tokenizer.chat_template", *parts.chat_template);
}

constexpr const char* end_keys[] = {"eos", "eot", "eom"};

/// The tokenizer's own first; where there are more than keys, those that a reader knows by their text go.
std::vector<int32_t> ends_of(const std::optional<TokenizerParts>& parts, const Config& config) {
  std::vector<int32_t> ends = config.end_tokens;
  if (!parts) return ends;
  if (const auto eos = id_of(*parts, parts->eos)) {
    std::erase(ends, *eos);
    ends.insert(ends.begin(), *eos);
  }
  if (ends.size() <= std::size(end_keys)) return ends;
  const auto known = [&](int32_t id) {
    return std::ranges::any_of(parts->added, [&](const AddedToken& added) {
      return added.id == id && added.special && names_an_end(added.content);
    });
  };
  const auto rest = std::stable_partition(ends.begin() + 1, ends.end(), std::not_fn(known));
  ends.erase(std::max(rest, ends.begin() + std::size(end_keys)), ends.end());
  return ends;
}

/// Whether the two can stand in one text so that they share a character.
bool can_overlap(std::string_view a, std::string_view b) {
  if (a.size() < b.size()) std::swap(a, b);
  if (a.find(b) != a.npos) return true;
  for (size_t shared = 1; shared < b.size(); ++shared)
    if (a.ends_with(b.substr(0, shared)) || b.ends_with(a.substr(0, shared))) return true;
  return false;
}

/// In a GGUF all added tokens are sought together, in the text as it came.
bool order_matters(const AddedToken& token, const TokenizerParts& parts) {
  if (!token.normalized) return false;
  return !parts.normalizer.empty() || std::ranges::any_of(parts.added, [&](const AddedToken& other) {
    return !other.normalized && can_overlap(token.content, other.content);
  });
}

}  // namespace

GgufTokenizer::GgufTokenizer(std::optional<TokenizerParts> tokenizer) : parts(std::move(tokenizer)) {
  if (!parts || parts->alphabet != Alphabet::sentencepiece) return;
  scores = parts->scores.empty() ? scores_of_list(*parts) : ListScores{parts->scores, {}};
}

std::vector<std::string> lost_in_gguf(const GgufTokenizer& tokenizer, const Config& config) {
  const std::optional<TokenizerParts>& parts = tokenizer.parts;
  std::vector<std::string> lost;
  if (const size_t ends = ends_of(parts, config).size(); ends > std::size(end_keys))
    lost.push_back(std::to_string(ends - std::size(end_keys)) + " of " + std::to_string(ends) +
                   " tokens that end an answer");
  if (!parts) return lost;
  if (parts->alphabet == Alphabet::sentencepiece) add_lost_pieces(*parts, tokenizer.scores, lost);
  for (const AddedToken& token : parts->added) {
    std::string words;
    for (const auto& [is, word] : {std::pair{token.lstrip, "lstrip"},
                                   {token.rstrip, "rstrip"},
                                   {token.single_word, "single_word"},
                                   {order_matters(token, *parts), "normalized"}})
      if (is) words += (words.empty() ? "" : " and ") + std::string(word);
    if (!words.empty()) lost.push_back(words + " of the token " + in_quotes(token.content));
  }
  return lost;
}

void write_gguf_tokenizer(const GgufTokenizer& tokenizer, const Config& config, GgufWriter& gguf) {
  const std::optional<TokenizerParts>& parts = tokenizer.parts;
  if (parts)
    write_gguf_vocabulary(tokenizer, config, gguf);
  else
    gguf.key("tokenizer.ggml.model", "none");
  // The configuration's, as the end of generation goes by them; else the tokenizer's own.
  std::optional<int32_t> bos;
  if (parts) bos = id_of(*parts, parts->bos);
  if (config.bos_token >= 0) bos = config.bos_token;
  if (bos) gguf.key("tokenizer.ggml.bos_token_id", static_cast<uint32_t>(*bos));
  const std::vector<int32_t> ends = ends_of(parts, config);
  for (size_t i = 0; i < std::min(ends.size(), std::size(end_keys)); ++i)
    gguf.key("tokenizer.ggml." + std::string(end_keys[i]) + "_token_id", static_cast<uint32_t>(ends[i]));
}

std::optional<bool> begins_with_bos(const CheckpointParts& source) {
  if (source.naming == Naming::gguf) {
    const auto found = source.metadata.find("tokenizer.ggml.add_bos_token");
    const bool* truth = found == source.metadata.end() ? nullptr : std::get_if<bool>(&found->second.value);
    return truth ? std::optional(*truth) : std::nullopt;
  }
  const std::filesystem::path path = source.path / "tokenizer_config.json";
  if (!std::filesystem::exists(path)) return std::nullopt;
  const auto file = Mapping::open(path);
  const json::value root = parse_json(file->text(), path.string());
  const json::value* value = root.is_object() ? root.get_object().if_contains("add_bos_token") : nullptr;
  return value && value->is_bool() ? std::optional(value->get_bool()) : std::nullopt;
}

std::string tokenizer_json(const TokenizerParts& parts) {
  if (parts.alphabet == Alphabet::sentencepiece)
    throw InputError("merges sentencepiece-like tokens by scores, where tokenizer.json has a list",
                     parts.where, "write a GGUF instead");
  json::object vocabulary;
  vocabulary.reserve(parts.vocabulary.size());
  for (const auto& [text, id] : parts.vocabulary) vocabulary[text] = id;
  json::array merges;
  for (const auto& [left, right] : parts.merges) merges.push_back(json::string(left + ' ' + right));
  const json::object byte_level{
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  const json::object root{
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", added_tokens(parts)},
      {"normalizer", parts.normalizer.empty() ? json::value() : json::value(json::object{{"type", "NFC"}})},
      {"pre_tokenizer", pre_tokenizer(parts)},
      {"post_processor", byte_level},
      {"decoder", byte_level},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"continuing_subword_prefix", nullptr},
        {"end_of_word_suffix", nullptr},
        {"fuse_unk", false},
        {"byte_fallback", false},
        {"ignore_merges", parts.ignore_merges},
        {"vocab", std::move(vocabulary)},
        {"merges", std::move(merges)}}}};
  return json::serialize(root);
}

std::string tokenizer_config_json(const TokenizerParts& parts, std::optional<bool> with_bos) {
  json::object root{{"tokenizer_class", "PreTrainedTokenizerFast"}};
  if (with_bos) root["add_bos_token"] = *with_bos;
  if (parts.bos) root["bos_token"] = *parts.bos;
  if (parts.eos) root["eos_token"] = *parts.eos;
  if (parts.chat_template) root["chat_template"] = *parts.chat_template;
  return json::serialize(root);
}

}  // namespace convoy::model
