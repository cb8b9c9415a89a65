#include "actors/link/join_token.hpp"

#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/sha.h>

#include <algorithm>
#include <charconv>
#include <stdexcept>

namespace convoy::actors {

namespace {

constexpr std::string_view prefix = "cvj1_";
constexpr size_t authority_bytes = 32, token_secret_bytes = 16, verifier_bytes = 32, id_bytes = 8;
constexpr size_t token_bytes = authority_bytes + token_secret_bytes;  // a multiple of 3: base64 needs no end
constexpr size_t digits_count = token_bytes / 3 * 4;
constexpr int64_t remembered_s = 86'400;
constexpr std::string_view base64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
constexpr std::string_view hex_digits = "0123456789abcdef";

std::string sha256(std::string_view bytes) {
  std::string digest(SHA256_DIGEST_LENGTH, '\0');
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(),
         reinterpret_cast<unsigned char*>(digest.data()));
  return digest;
}

std::string to_hex(std::string_view bytes) {
  std::string text;
  for (const unsigned char byte : bytes) text += {hex_digits[byte >> 4], hex_digits[byte & 15]};
  return text;
}

std::optional<std::string> of_hex(std::string_view text) {
  if (text.size() % 2 != 0) return std::nullopt;
  std::string bytes;
  for (size_t i = 0; i < text.size(); i += 2) {
    const size_t high = hex_digits.find(text[i]), low = hex_digits.find(text[i + 1]);
    if (high == text.npos || low == text.npos) return std::nullopt;
    bytes += static_cast<char>(high << 4 | low);
  }
  return bytes;
}

/// The next word of a line, which it is taken from.
std::string_view word(std::string_view& line) {
  const std::string_view first = line.substr(0, line.find(' '));
  line.remove_prefix(std::min(line.size(), first.size() + 1));
  return first;
}

template <class Number>
bool read(std::string_view text, Number& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

JoinToken draw_token(std::string authority) {
  std::string secret(token_secret_bytes, '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(secret.data()), static_cast<int>(secret.size())) != 1)
    throw std::runtime_error("OpenSSL has no random bytes");
  return {std::move(authority), std::move(secret)};
}

std::string text_of(const JoinToken& token) {
  const std::string bytes = token.authority + token.secret;
  std::string text(prefix);
  for (size_t i = 0; i + 2 < bytes.size(); i += 3) {
    const auto at = [&](size_t k) { return static_cast<unsigned char>(bytes[i + k]); };
    const unsigned three = at(0) << 16 | at(1) << 8 | at(2);
    for (const int shift : {18, 12, 6, 0}) text += base64[three >> shift & 63];
  }
  return text;
}

std::optional<JoinToken> read_token(std::string_view text) {
  if (!text.starts_with(prefix) || text.size() != prefix.size() + digits_count) return std::nullopt;
  text.remove_prefix(prefix.size());
  std::string bytes;
  for (size_t i = 0; i < text.size(); i += 4) {
    size_t four = 0;
    for (size_t k = 0; k < 4; ++k) {
      const size_t digit = base64.find(text[i + k]);
      if (digit == base64.npos) return std::nullopt;
      four = four << 6 | digit;
    }
    for (const int shift : {16, 8, 0}) bytes += static_cast<char>(four >> shift);
  }
  return JoinToken{bytes.substr(0, authority_bytes), bytes.substr(authority_bytes)};
}

std::string verifier_of(const JoinToken& token) { return sha256(token.secret); }

std::string token_id(const std::string& verifier) { return sha256("id:" + verifier).substr(0, id_bytes); }

std::vector<KnownToken> read_known_tokens(std::string_view text) {
  std::vector<KnownToken> tokens;
  while (!text.empty() && tokens.size() < tokens_max) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    KnownToken token;
    const auto verifier = of_hex(word(line));
    const bool good = verifier && verifier->size() == verifier_bytes && read(word(line), token.uses) &&
                      read(word(line), token.until_s) && line.empty();
    if (!good) continue;
    token.verifier = *verifier;
    tokens.push_back(std::move(token));
  }
  return tokens;
}

std::string text_of(const std::vector<KnownToken>& tokens) {
  std::string text;
  for (const KnownToken& token : tokens)
    text += to_hex(token.verifier) + " " + std::to_string(token.uses) + " " + std::to_string(token.until_s) +
            "\n";
  return text;
}

FoundToken find_token(const std::vector<KnownToken>& tokens, std::string_view id, int64_t now_s) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (token_id(tokens[i].verifier) != id) continue;
    return {tokens[i].until_s < now_s ? TokenState::expired
            : tokens[i].uses == 0     ? TokenState::used
                                      : TokenState::good,
            i};
  }
  return {};
}

bool add_token(std::vector<KnownToken>& tokens, const KnownToken& token, int64_t now_s) {
  std::erase_if(tokens, [&](const KnownToken& old) { return old.until_s + remembered_s < now_s; });
  if (tokens.size() >= tokens_max) return false;
  tokens.push_back(token);
  return true;
}

}  // namespace convoy::actors
