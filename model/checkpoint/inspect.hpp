#pragma once
// What a model is and what a part of it needs, from the headers of its files alone. `convoy inspect` prints
// it.

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "model/checkpoint/checkpoint.hpp"

namespace convoy::model {

struct Inspection {
  uint64_t parameters = 0;
  /// Those that one token is computed with: of the experts as many as a token goes to, of the embedding the
  /// one row that is looked up, the head whole. Published numbers of active parameters count so.
  uint64_t parameters_active = 0;
  uint64_t prediction_parameters = 0;  // in no other number here
  uint64_t bytes = 0;                  // of all weights that are run
  uint64_t bytes_active = 0;           // of those that one token is computed with
  std::vector<uint64_t> layer_bytes;
  uint64_t expert_bytes = 0;  // of the largest expert; 0: there are none
  /// Types with the bytes of their weights, the most first.
  std::vector<std::pair<DType, uint64_t>> types;
};
Inspection inspect(const Checkpoint& checkpoint);

/// What a stage of these layers reads of the checkpoint: the embedding too on the first stage, the head on
/// the last. A tied head on a stage with both counts once.
uint64_t stage_bytes(const Checkpoint& checkpoint, LayerRange range);

/// Of all layers, with keys and values kept as `type`.
uint64_t kv_bytes_per_token(const Config& config, int64_t layers, DType type);

/// What stands beside the weights: a name, "unknown" if it is there but not one that Convoy knows, or "none".
struct TextParts {
  std::string tokenizer, chat_template;
  std::vector<std::pair<int32_t, std::string>> ends;  // tokens that end an answer, with their text if known
};
TextParts inspect_text(const Checkpoint& checkpoint);

}  // namespace convoy::model
