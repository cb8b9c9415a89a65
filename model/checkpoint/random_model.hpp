#pragma once
// Models with random weights but the dimensions of published ones: for measuring and for trying a cluster
// where nobody wants to fetch 700 GB. "random:NAME[:LAYERS]" stands wherever a model is named; make-model
// writes one to files. Values depend on seed and tensor name alone, so both have the same.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/checkpoint/checkpoint_weights.hpp"
#include "model/tensor.hpp"

namespace convoy::model {

struct RandomModel {
  std::string like;          // one of random_model_names()
  int64_t layers = 0;        // 0: as many as the model has
  DType type = DType::bf16;  // of matrices: bf16, f32, or f8_e4m3 in blocks
  uint64_t seed = 0;
};

std::vector<std::string_view> random_model_names();

/// Whether a model's name is not a path but random:….
bool names_random_model(std::string_view model);
/// Throws InputError that names the choices.
RandomModel parse_random_model(std::string_view name);
/// Relative to `folder` unless it is absolute already or names a random model.
std::string resolve_model(const std::string& model, const std::filesystem::path& folder);

/// The text of its config.json: the published model's, with the layers and the type that were asked for, and
/// without prediction layers. Throws InputError for an unknown name or more layers than there are.
std::string random_config_json(const RandomModel& model);

/// How it stores a tensor. Vectors and routers are never FP8, embedding and head neither.
DType stored_type(const RandomModel& model, const WantedTensor& tensor);

/// A part of a tensor: whole rows, and whole blocks of them if its type has blocks.
struct TensorPart {
  const WantedTensor* tensor = nullptr;
  int64_t first_row = 0, rows = 0;
};
/// A few megabytes each, together all of them, in order.
std::vector<TensorPart> divide(std::span<const WantedTensor* const> tensors);

/// Writes the part's values as the tensor stores them; scales: of f8_e4m3 only. Norms are 1, matrices uniform
/// with the standard deviation 1 / √columns, so that activations keep their size.
void generate(const RandomModel& model, const TensorPart& part, std::span<std::byte> out,
              std::span<float> scales = {});

}  // namespace convoy::model
