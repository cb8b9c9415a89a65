#pragma once
// Added tokens that end an answer by their name, for files whose metadata names only one end, or the wrong
// one. Pure; any thread.

#include <string_view>

namespace convoy::model {

/// Whether an added token of this text ends what a model says wherever it occurs. llama.cpp goes by such a
/// list for every GGUF, and publishers' files rely on that.
bool names_an_end(std::string_view token);

}  // namespace convoy::model
