#pragma once
// API keys: who may ask the gateway, for which tenant. A key is shown once, when it is made; what is kept is
// its SHA-256. Values, and the lines in which they lie in their file (keys_file.hpp). Pure but for the
// drawing.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace convoy::gateway {

enum class KeyRole : uint8_t {
  user,     // asks the model
  admin,    // everything
  metrics,  // reads /metrics, and nothing else
};
std::string_view name_of(KeyRole role);
std::optional<KeyRole> role_named(std::string_view name);

struct ApiKey {
  std::string id;      // stands in the key: lists and logs may show it
  std::string digest;  // SHA-256 of the whole key, in hexadecimal digits
  KeyRole role = KeyRole::user;
  int64_t created_s = 0, until_s = 0;  // Unix time; until_s 0: it does not end
  std::string tenant;                  // a plain name (plain_name.hpp), and so is the next
  std::string name;                    // what people call it; may be empty

  bool has_ended(int64_t now_s) const { return until_s != 0 && now_s >= until_s; }
};
using ApiKeys = std::vector<ApiKey>;

inline constexpr size_t keys_max = 1024;  // each is compared with every key that somebody shows
inline constexpr size_t keys_file_bytes_max = 512 << 10;

/// A new one: the word that opens, and what of an ApiKey follows from it.
struct DrawnKey {
  std::string text;  // "cvk1_", the id, "_" and 64 hexadecimal digits: 256 bits
  std::string id, digest;
};
DrawnKey draw_key();

/// The one that this is, ended or not; null: none. Compares with all of them, each in constant time, so that
/// how long it takes tells nothing of them.
const ApiKey* find_key(const ApiKeys& keys, std::string_view shown);

/// As they lie in their file, a line each. Throws InputError naming the line in `where` that is none, or what
/// there is too much of: half of the keys are worse than those that were known before.
ApiKeys read_keys(std::string_view text, const std::string& where);
std::string text_of(const ApiKeys& keys);

}  // namespace convoy::gateway
