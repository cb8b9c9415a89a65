#pragma once
// What stands beside the weights of a checkpoint written anew: its configuration and its tokenizer, in either
// layout. Internal to model/.

#include <string>
#include <vector>

#include "model/checkpoint/checkpoint_parts.hpp"
#include "model/format/gguf_writer.hpp"
#include "model/rewrite/rewrite.hpp"
#include "model/rewrite/rewrite_scores.hpp"
#include "model/tokenizer/tokenizer_parts.hpp"

namespace convoy::model {

/// config.json of the output: the source's own with another quantization_config, or one made of a GGUF's
/// metadata.
std::string rewritten_config_json(const CheckpointParts& source, RewriteTarget target);

/// The architecture's keys, as llama.cpp reads them.
void write_gguf_config(const CheckpointParts& source, RewriteTarget target, GgufWriter& gguf);

/// A tokenizer on its way into a GGUF. A sentencepiece-like one has scores there: its own, or those made of
/// its list of merges, which take a while and are made once.
struct GgufTokenizer {
  GgufTokenizer(std::optional<TokenizerParts> tokenizer);  // NOLINT(google-explicit-constructor)

  std::optional<TokenizerParts> parts;
  ListScores scores;
};

/// What a GGUF has no words for, each named. write_gguf_tokenizer leaves it out.
std::vector<std::string> lost_in_gguf(const GgufTokenizer& tokenizer, const Config& config);

/// The tokenizer as GGUF keys, or that there is none, and the tokens that begin and end a text. Throws
/// InputError if the format has no name for how the tokenizer cuts words.
void write_gguf_tokenizer(const GgufTokenizer& tokenizer, const Config& config, GgufWriter& gguf);

/// Whether the source says that its texts begin with the first token; Convoy leaves that to the template.
std::optional<bool> begins_with_bos(const CheckpointParts& source);

/// tokenizer.json, and tokenizer_config.json beside it, of a tokenizer that came in a GGUF.
std::string tokenizer_json(const TokenizerParts& parts);
std::string tokenizer_config_json(const TokenizerParts& parts, std::optional<bool> with_bos);

}  // namespace convoy::model
