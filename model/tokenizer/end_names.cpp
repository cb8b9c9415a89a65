#include "model/tokenizer/end_names.hpp"

#include <algorithm>

namespace convoy::model {

namespace {

/// Ends of a text, of a turn and of a message; and what follows a gap that was filled in code.
constexpr std::string_view ends[] = {"<|eot_id|>",
                                     "<|eom_id|>",
                                     "<|end_of_text|>",
                                     "<|im_end|>",
                                     "<|endoftext|>",
                                     "<|end|>",
                                     "<｜end▁of▁sentence｜>",
                                     "</s>",
                                     "<end_of_turn>",
                                     "<end_of_utterance>",
                                     "<EOT>",
                                     "_<EOT>",
                                     "[EOT]",
                                     "[EOS]",
                                     "<eos>",
                                     "<turn|>",
                                     "<|return|>",
                                     "<|call|>",
                                     "<|fim_pad|>",
                                     "<fim-pad>",
                                     "<fim_pad>",
                                     "<PAD>",
                                     "[PAD]",
                                     "<|fim_repo|>",
                                     "<|repo_name|>",
                                     "<fim-repo>",
                                     "<REPO>",
                                     "<reponame>",
                                     "<|file_sep|>"};

}  // namespace

bool names_an_end(std::string_view token) { return std::ranges::find(ends, token) != std::end(ends); }

}  // namespace convoy::model
