#include "actors/config/plain_name.hpp"

#include <algorithm>
#include <cctype>

namespace convoy::actors {

constexpr size_t name_bytes_max = 63;

bool is_plain_name(std::string_view name) {
  const auto letter = [](unsigned char c) { return std::isalnum(c) != 0; };
  const auto plain = [&](unsigned char c) { return letter(c) || c == '-' || c == '_' || c == '.'; };
  return !name.empty() && name.size() <= name_bytes_max && letter(static_cast<unsigned char>(name[0])) &&
         std::all_of(name.begin(), name.end(), plain);
}

bool is_node_name(std::string_view name) {
  return is_plain_name(name) && name != "ca" && name != "revoked" && name != "redis";
}

}  // namespace convoy::actors
