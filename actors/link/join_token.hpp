#pragma once
// Join tokens: what `convoy token create` prints and a new machine is given. A token names the authority that
// the machine is to trust, and holds a secret that it proves. The head keeps the secret's digest, how often
// it may be used yet, and until when. Pure but for the drawing.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace convoy::actors {

struct JoinToken {
  std::string authority;  // fingerprint of its certificate, 32 raw bytes
  std::string secret;     // 16 raw bytes
};

/// A new one. authority: fingerprint_of() its certificate.
JoinToken draw_token(std::string authority);
/// As one word: "cvj1_" and 64 letters, digits, '-' and '_'.
std::string text_of(const JoinToken& token);
/// Nothing: it is none.
std::optional<JoinToken> read_token(std::string_view text);

/// SHA-256 of the secret, 32 raw bytes: what the head keeps, and what the proof is made with.
std::string verifier_of(const JoinToken& token);
/// By which a machine says which token it has: 8 raw bytes that tell nothing of the secret.
std::string token_id(const std::string& verifier);

/// One that the head gave out.
struct KnownToken {
  std::string verifier;
  uint32_t uses = 0;    // that are left
  int64_t until_s = 0;  // Unix time
};

inline constexpr size_t tokens_max = 64;  // kept at once, used up and expired ones included

/// As they lie in their file, a line each. Lines that are none are left out: somebody edited them.
std::vector<KnownToken> read_known_tokens(std::string_view text);
std::string text_of(const std::vector<KnownToken>& tokens);

enum class TokenState : uint8_t { good, unknown, used, expired };
struct FoundToken {
  TokenState state = TokenState::unknown;
  size_t index = 0;  // unless it is unknown
};
FoundToken find_token(const std::vector<KnownToken>& tokens, std::string_view id, int64_t now_s);

/// One more, in place of those that say nothing any more: expired for a day. False: there are tokens_max.
bool add_token(std::vector<KnownToken>& tokens, const KnownToken& token, int64_t now_s);

}  // namespace convoy::actors
