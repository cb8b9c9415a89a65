#pragma once
// Small files, read whole: configurations, tokenizers, texts. Weights are mapped (mapping.hpp). Any thread;
// blocks while it reads.

#include <cstddef>
#include <filesystem>
#include <string>

namespace convoy::model {

/// The bytes of a file, of which at most so many are read. Throws InputError with the system's own reason.
std::string read_text_file(const std::filesystem::path& path, size_t bytes_max, const std::string& mend);

}  // namespace convoy::model
