#pragma once
// The small sentencepiece-like vocabulary under test/golden/tokenizers, as a tokenizer.json and as a GGUF.

#include <boost/json.hpp>
#include <memory>
#include <string>

#include "model/tokenizer/tokenizer_parts.hpp"
#include "test/model/gguf_arrays.hpp"
#include "test/model/golden_tokenizer.hpp"

namespace convoy::test {

inline boost::json::object sentencepiece_json() {
  return boost::json::parse(read_file(golden_tokenizer_dir("sentencepiece") / "tokenizer.json")).as_object();
}

/// With `changes` of its keys; of "model" with the changed keys within.
inline boost::json::object changed(boost::json::object document, const boost::json::object& changes) {
  for (const auto& [key, value] : changes) {
    if (key != "model") {
      document[key] = value;
      continue;
    }
    for (const auto& [option, setting] : value.as_object()) document["model"].as_object()[option] = setting;
  }
  return document;
}

inline std::shared_ptr<const model::Tokenizer> tokenizer_of(const boost::json::object& document) {
  return model::make_tokenizer(
      model::parse_tokenizer_json(boost::json::serialize(document), "sentencepiece"));
}

/// As llama.cpp's converter writes it; `vocabulary` is the "gguf" of cases.json.
inline model::GgufMetadata sentencepiece_gguf(const boost::json::object& vocabulary) {
  using Tokens = std::vector<std::string>;
  using Scores = std::vector<float>;
  using Types = std::vector<int32_t>;
  model::GgufMetadata metadata;
  metadata["tokenizer.ggml.model"].value = "llama";
  metadata["tokenizer.ggml.pre"].value = "default";
  metadata["tokenizer.ggml.tokens"].value =
      gguf_values(boost::json::value_to<Tokens>(vocabulary.at("tokens")));
  metadata["tokenizer.ggml.scores"].value =
      gguf_values(boost::json::value_to<Scores>(vocabulary.at("scores")));
  metadata["tokenizer.ggml.token_type"].value =
      gguf_values(boost::json::value_to<Types>(vocabulary.at("types")));
  metadata["tokenizer.ggml.bos_token_id"].value = uint64_t{1};
  metadata["tokenizer.ggml.eos_token_id"].value = uint64_t{2};
  return metadata;
}

}  // namespace convoy::test
