#pragma once
// The tokenizers and cases under test/golden/tokenizers, for the tests of this folder.

#include <boost/json.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>

#include "test/model/files.hpp"

namespace convoy::test {

namespace fs = std::filesystem;

inline std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  if (!file) throw std::runtime_error("cannot read " + path.string());
  return std::move(text).str();
}

inline std::string read_xz(const fs::path& path) {
  if (!fs::exists(path)) throw std::runtime_error("there is no " + path.string());
  std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(("xz -dc '" + path.string() + "'").c_str(), "r"), pclose);
  if (!pipe) throw std::runtime_error("cannot run xz");
  std::string text, chunk(1 << 16, '\0');
  while (const size_t bytes = std::fread(chunk.data(), 1, chunk.size(), pipe.get()))
    text.append(chunk, 0, bytes);
  if (pclose(pipe.release()) != 0) throw std::runtime_error("xz failed on " + path.string());
  return text;
}

/// Where a tokenizer's files are: in the repository, or beside it where its licence does not allow a copy.
/// Empty if there are none.
inline fs::path golden_tokenizer_dir(const std::string& name) {
  for (const fs::path& root :
       {source_dir() / "test/golden/tokenizers", source_dir() / "../shared/golden/tokenizers"}) {
    if (fs::exists(root / name)) return root / name;
  }
  return {};
}

/// {"vocab_size", "encode", "chat"}
inline boost::json::object golden_cases(const std::string& name) {
  const fs::path dir = golden_tokenizer_dir(name);
  if (fs::exists(dir / "cases.json")) return boost::json::parse(read_file(dir / "cases.json")).as_object();
  return boost::json::parse(read_file(dir / "../cases.json")).at(name).as_object();
}

}  // namespace convoy::test
