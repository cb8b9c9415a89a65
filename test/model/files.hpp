#pragma once
// What the tests of model files share: where files lie, and files made in memory.

#include <boost/test/unit_test.hpp>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "model/error.hpp"
#include "model/mapping.hpp"

namespace convoy::test {

inline std::filesystem::path source_dir() {
  const char* directory = std::getenv("CONVOY_SOURCE_DIR");
  BOOST_REQUIRE_MESSAGE(directory, "CONVOY_SOURCE_DIR is not set: run through ctest");
  return directory;
}

inline std::filesystem::path golden(const std::string& name) {
  return source_dir() / "test/golden/models" / name;
}

/// The default model, if it was fetched.
inline std::filesystem::path default_model() {
  if (const char* path = std::getenv("CONVOY_MODEL")) return path;
  return source_dir() / "models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

inline boost::test_tools::assertion_result has_default_model(boost::unit_test::test_unit_id) {
  boost::test_tools::assertion_result result(std::filesystem::exists(default_model()));
  result.message() << "needs the default model: run scripts/fetch-model or set CONVOY_MODEL";
  return result;
}

inline std::shared_ptr<const model::Mapping> in_memory(const std::string& bytes) {
  return model::Mapping::copy_of(std::as_bytes(std::span(bytes)), "in memory");
}

/// Little-endian bytes of a number.
template <class T>
std::string raw(T value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

inline std::string counted(const std::string& text) { return raw(uint64_t{text.size()}) + text; }

/// Expects an InputError whose message holds `part`.
#define CHECK_INPUT_ERROR(expression, part)                                                    \
  BOOST_CHECK_EXCEPTION(expression, convoy::InputError, [&](const convoy::InputError& error) { \
    const bool found = std::string_view(error.what()).find(part) != std::string_view::npos;    \
    if (!found) BOOST_TEST_MESSAGE("message was: " << error.what());                           \
    return found;                                                                              \
  })

/// A folder that is gone when the test ends.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "convoy-test-XXXXXX").string();
    BOOST_REQUIRE(::mkdtemp(name.data()));
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;  // a destructor must not throw, and a folder left over spoils no result
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path write(const std::string& name, const std::string& content) const {
    std::ofstream file(path_ / name, std::ios::binary);
    file << content;
    file.close();
    BOOST_REQUIRE(file.good());
    return path_ / name;
  }

 private:
  std::filesystem::path path_;
};

}  // namespace convoy::test
