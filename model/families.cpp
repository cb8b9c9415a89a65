#include "model/families.hpp"

#include <algorithm>
#include <cassert>
#include <vector>

namespace convoy::model {

namespace {

const Family* find(std::string_view Family::*key, std::string_view value) {
  const auto found = std::ranges::find(families, value, key);
  return found == std::end(families) ? nullptr : &*found;
}

std::string enumerate(std::string_view Family::*key) {
  std::vector<std::string_view> names;
  for (const Family& family : families)
    if (std::ranges::find(names, family.*key) == names.end()) names.push_back(family.*key);
  std::string text;
  for (size_t i = 0; i < names.size(); ++i)
    text += (i == 0 ? "" : i + 1 < names.size() ? ", " : " and ") + std::string(names[i]);
  return text;
}

}  // namespace

const Family* find_family(std::string_view name) { return find(&Family::name, name); }

const Family* find_gguf_family(std::string_view architecture) { return find(&Family::gguf, architecture); }

const Family& family_of(const Config& config) {
  const Family* const family = find_family(config.architecture);
  assert(family);
  return *family;
}

std::string family_names() { return enumerate(&Family::name); }

std::string gguf_family_names() { return enumerate(&Family::gguf); }

}  // namespace convoy::model
