#include "model/tokenizer/tokenizer.hpp"

#include "model/error.hpp"
#include "model/format/gguf_parts.hpp"
#include "model/tokenizer/tokenizer_parts.hpp"

namespace convoy::model {

std::shared_ptr<const Tokenizer> Tokenizer::load(const std::filesystem::path& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    const std::filesystem::path file = path / "tokenizer.json";
    if (!std::filesystem::exists(file, error)) {
      throw InputError("there is no tokenizer.json", path.string(),
                       "name a checkpoint's directory, a GGUF file or a tokenizer.json");
    }
    return make_tokenizer(read_tokenizer_json(file));
  }
  if (path.extension() == ".json") return make_tokenizer(read_tokenizer_json(path));
  return make_tokenizer(read_tokenizer_gguf(read_gguf_metadata(path), path.string()));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool recognise_control) const {
  const Segment segment{std::string(text), recognise_control};
  return encode(std::span(&segment, 1));
}

}  // namespace convoy::model
