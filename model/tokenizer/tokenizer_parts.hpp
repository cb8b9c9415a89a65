#pragma once
// What a tokenizer file says, whatever its format, and the tokenizer built from it. Used by the readers of
// tokenizer.json and of GGUF metadata, at loading.

#include <array>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/format/gguf.hpp"
#include "model/tokenizer/added_tokens.hpp"
#include "model/tokenizer/alphabet.hpp"
#include "model/tokenizer/normalizer.hpp"
#include "model/tokenizer/pretokenizer.hpp"
#include "model/tokenizer/tokenizer.hpp"

namespace convoy::model {

struct TokenizerParts {
  std::string where;  // the file, for errors
  Alphabet alphabet = Alphabet::byte_level;
  /// The byte-pair vocabulary, written in its alphabet, and its ids.
  std::vector<std::pair<std::string, int32_t>> vocabulary;
  /// By rank, best first. A vocabulary with scores has none: there any two tokens merge whose texts together
  /// are a token, the one with the highest score first.
  std::vector<std::pair<std::string, std::string>> merges;
  std::vector<float> scores;  // of vocabulary's entries, in their order
  std::vector<AddedToken> added;
  std::vector<NormalStep> normalizer;
  std::vector<SplitRule> rules;
  bool ignore_merges = false;  // a word that is a token is not merged
  /// A character that has no token becomes its bytes' tokens, else `unknown` (a run of them one, if fused),
  /// else nothing.
  bool byte_fallback = false, fuse_unknown = false;
  std::optional<std::string> unknown;
  bool drops_leading_blank = false;                         // when decoding
  std::optional<std::string> chat_template, bos, eos, pad;  // bos, eos, pad: their tokens
};

/// Checks the parts against each other. Throws InputError.
std::shared_ptr<const Tokenizer> make_tokenizer(TokenizerParts parts);

/// What a directory's tokenizer is made of: names of files, of which the first has to be there.
inline constexpr std::array tokenizer_files{"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"};
/// A file's text, by its path; nothing: there is none.
using FindText = std::function<std::optional<std::string>(const std::filesystem::path&)>;
/// On disk. Throws InputError for one that cannot be read, or is too long.
std::optional<std::string> find_tokenizer_file(const std::filesystem::path& path);

/// From a tokenizer.json and what is beside it.
TokenizerParts read_tokenizer_json(const std::filesystem::path& path,
                                   const FindText& find = find_tokenizer_file);
/// From the text of a tokenizer.json alone; `where` names it in errors.
TokenizerParts parse_tokenizer_json(std::string_view text, std::string where);
/// Whether a GGUF has a tokenizer: not if it names none, or the kind "none", as llama.cpp calls it.
bool has_tokenizer_gguf(const GgufMetadata& metadata);
/// From a GGUF's metadata.
TokenizerParts read_tokenizer_gguf(const GgufMetadata& metadata, std::string where);

/// The name that GGUF has for the rules by which a tokenizer cuts words.
std::optional<std::string> pre_tokenizer_name(const TokenizerParts& parts);

/// Ids lie below this: a hostile file must not make us allocate.
constexpr int64_t token_ids_max = int64_t{1} << 22;

}  // namespace convoy::model
