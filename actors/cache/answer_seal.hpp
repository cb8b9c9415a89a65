#pragma once
// Sealing of cached answers: AES-256-GCM before they leave the process, bound to their key, so that Redis can
// neither read an answer nor pass one off as another's. Used by the answer cache alone; pure but for random
// bytes, any thread.

#include <optional>
#include <string>
#include <string_view>

#include "schema/frame.hpp"

namespace convoy::actors {

/// version, nonce, ciphertext, tag. seal_key: 32 bytes (derive_key). cache_key is authenticated, not
/// contained.
std::string seal_answer(std::string_view seal_key, std::string_view cache_key,
                        const schema::Frame<schema::Answer>& answer);

/// The answer, or nothing if the bytes are not exactly what seal_answer made with these keys.
std::optional<schema::Frame<schema::Answer>> open_answer(std::string_view seal_key,
                                                         std::string_view cache_key, std::string_view sealed);

}  // namespace convoy::actors
