#pragma once
// What a tokenizer file says, whatever its format, and the tokenizer built from it. Used by the readers of
// tokenizer.json and of GGUF metadata, at loading.

#include <array>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/format/gguf.hpp"
#include "model/tokenizer/added_tokens.hpp"
#include "model/tokenizer/pretokenizer.hpp"
#include "model/tokenizer/tokenizer.hpp"

namespace convoy::model {

struct TokenizerParts {
  std::string where;  // the file, for errors
  /// The byte-pair vocabulary, each byte written as one printable character (a blank as Ġ), and its ids.
  std::vector<std::pair<std::string, int32_t>> vocabulary;
  std::vector<std::pair<std::string, std::string>> merges;  // by rank, best first
  std::vector<AddedToken> added;
  std::vector<SplitRule> rules;
  bool nfc = false;                                    // texts are brought to Unicode's form C first
  bool ignore_merges = false;                          // a word that is a token is not merged
  std::optional<std::string> chat_template, bos, eos;  // bos, eos: their tokens
};

/// Checks the parts against each other. Throws InputError.
std::shared_ptr<const Tokenizer> make_tokenizer(TokenizerParts parts);

/// From a tokenizer.json and the tokenizer_config.json beside it, if there is one.
TokenizerParts read_tokenizer_json(const std::filesystem::path& path);
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

/// The characters that stand for the bytes 0 to 255 in a vocabulary.
std::array<char32_t, 256> byte_characters();

}  // namespace convoy::model
