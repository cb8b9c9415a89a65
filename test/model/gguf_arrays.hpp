#pragma once
// Arrays of a GGUF's metadata, made of values as a writer of such files makes them.

#include <concepts>
#include <span>
#include <string>
#include <vector>

#include "model/format/gguf.hpp"
#include "model/format/gguf_writer.hpp"
#include "test/model/files.hpp"

namespace convoy::test {

/// T: std::string, int32_t or float.
template <class T>
model::GgufArray gguf_values(const std::vector<T>& values) {
  model::GgufWriter writer;
  writer.key("values", std::span<const T>(values));
  return std::get<model::GgufArray>(
      model::GgufFile::parse(in_memory(writer.header())).metadata.at("values").value);
}

template <class T>
std::vector<T> values_of(const model::GgufArray& array) {
  std::vector<T> values;
  for (const model::GgufValue& v : array) {
    if constexpr (std::same_as<T, std::string>)
      values.push_back(std::get<std::string>(v.value));
    else if constexpr (std::floating_point<T>)
      values.push_back(static_cast<T>(std::get<double>(v.value)));
    else
      values.push_back(static_cast<T>(std::get<int64_t>(v.value)));
  }
  return values;
}

/// Puts what `change` makes of an array's values in its place.
template <class T, class Change>
void change_values(model::GgufMetadata& metadata, const char* key, Change change) {
  std::vector<T> values = values_of<T>(std::get<model::GgufArray>(metadata.at(key).value));
  change(values);
  metadata[key].value = gguf_values(values);
}

}  // namespace convoy::test
