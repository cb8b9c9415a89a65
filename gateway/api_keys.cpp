#include "gateway/api_keys.hpp"

#include <openssl/crypto.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "actors/config/plain_name.hpp"
#include "gateway/random_id.hpp"
#include "model/digest.hpp"
#include "model/error.hpp"

namespace convoy::gateway {

namespace {

constexpr std::string_view prefix = "cvk1_", no_name = "-";
constexpr size_t id_bytes = 6, secret_bytes = 32, digest_digits = 64;

constexpr std::array<std::pair<KeyRole, std::string_view>, 3> roles{
    {{KeyRole::user, "user"}, {KeyRole::admin, "admin"}, {KeyRole::metrics, "metrics"}}};

std::string digest_of(std::string_view key) {
  model::Sha256 hash;
  hash.update(key);
  return hash.hex();
}

bool is_hex(std::string_view text, size_t digits) {
  return text.size() == digits && text.find_first_not_of("0123456789abcdef") == text.npos;
}

/// The next word of a line, which it is taken from.
std::string_view word(std::string_view& line) {
  const std::string_view first = line.substr(0, line.find(' '));
  line.remove_prefix(std::min(line.size(), first.size() + 1));
  return first;
}

bool read_time(std::string_view text, int64_t& time_s) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), time_s);
  return error == std::errc() && end == text.data() + text.size() && time_s >= 0;
}

std::optional<ApiKey> read_key(std::string_view line) {
  ApiKey key;
  key.id = word(line);
  key.digest = word(line);
  const auto role = role_named(word(line));
  const bool times = read_time(word(line), key.created_s) && read_time(word(line), key.until_s);
  key.tenant = word(line);
  const std::string_view name = word(line);
  if (name != no_name) key.name = name;
  const bool good = is_hex(key.id, 2 * id_bytes) && is_hex(key.digest, digest_digits) && role && times &&
                    actors::is_plain_name(key.tenant) &&
                    (name == no_name || actors::is_plain_name(key.name)) && line.empty();
  if (!good) return std::nullopt;
  key.role = *role;
  return key;
}

}  // namespace

std::string_view name_of(KeyRole role) {
  return std::find_if(roles.begin(), roles.end(), [&](const auto& r) { return r.first == role; })->second;
}

std::optional<KeyRole> role_named(std::string_view name) {
  const auto role = std::find_if(roles.begin(), roles.end(), [&](const auto& r) { return r.second == name; });
  if (role == roles.end()) return std::nullopt;
  return role->first;
}

DrawnKey draw_key() {
  DrawnKey drawn;
  drawn.id = random_hex(id_bytes);
  drawn.text = std::string(prefix) + drawn.id + "_" + random_hex(secret_bytes);
  drawn.digest = digest_of(drawn.text);
  return drawn;
}

const ApiKey* find_key(const ApiKeys& keys, std::string_view shown) {
  const std::string digest = digest_of(shown);
  const ApiKey* found = nullptr;
  for (const ApiKey& key : keys)
    if (CRYPTO_memcmp(key.digest.data(), digest.data(), digest_digits) == 0) found = &key;
  return found;
}

ApiKeys read_keys(std::string_view text, const std::string& where) {
  ApiKeys keys;
  for (size_t number = 1; !text.empty(); ++number) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    auto key = read_key(line);
    const std::string at = where + ":" + std::to_string(number);
    if (!key) throw InputError("is no key", at, "delete this line; `convoy key create` makes another key");
    if (keys.size() == keys_max)
      throw InputError("is a key more than " + std::to_string(keys_max), at,
                       "`convoy key revoke` those that are not needed");
    keys.push_back(std::move(*key));
  }
  return keys;
}

std::string text_of(const ApiKeys& keys) {
  std::string text;
  for (const ApiKey& key : keys)
    text += key.id + " " + key.digest + " " + std::string(name_of(key.role)) + " " +
            std::to_string(key.created_s) + " " + std::to_string(key.until_s) + " " + key.tenant + " " +
            (key.name.empty() ? std::string(no_name) : key.name) + "\n";
  return text;
}

}  // namespace convoy::gateway
