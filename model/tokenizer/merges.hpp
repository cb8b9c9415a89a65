#pragma once
// What may merge with what, from a tokenizer's parts. Used by the tokenizer alone, at loading.

#include <vector>

#include "model/tokenizer/bpe.hpp"
#include "model/tokenizer/speller.hpp"
#include "model/tokenizer/vocabulary.hpp"

namespace convoy::model {

/// A sentencepiece-like token costs as many bytes' time as it has places to cut it, each of which is tried:
/// the square of its length. Sentencepiece's default is 16 characters.
constexpr size_t piece_bytes_max = 512;

/// As the file lists them. Throws InputError for a merge that makes no sense.
std::vector<Bpe::Merge> listed_merges(const TokenizerParts& parts, const Vocabulary& vocabulary);

/// Sentencepiece's: any two tokens whose texts together are one, the best score first. Characters that occur
/// in tokens and have none get stand-ins, with ids from the vocabulary's size on.
std::vector<Bpe::Merge> scored_merges(const TokenizerParts& parts, const Vocabulary& vocabulary,
                                      Speller& speller, std::vector<std::vector<int32_t>>& stand_ins);

}  // namespace convoy::model
