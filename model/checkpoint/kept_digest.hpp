#pragma once
// The digests of a checkpoint's weights, of all and of each tensor, kept with size, time and inode of every
// file that it was computed from, so that a start does not read hundreds of gigabytes. Asked by each process
// of a cluster before it says what it computes with. Blocks while it reads; any thread.

#include <filesystem>
#include <optional>
#include <stop_token>
#include <string>

#include "model/checkpoint/checkpoint.hpp"
#include "model/checkpoint/weight_outline.hpp"

namespace convoy::model {

/// Checkpoint::weights_digest() as it was kept beside the model or in `folder`, if every file is still the
/// one it was computed from.
std::optional<std::string> kept_digest(const Checkpoint& checkpoint, const std::filesystem::path& folder);

/// That, or else computes it and keeps it: beside the model, or in `folder` if that cannot be written. Of
/// several processes with one `folder` that ask at a time one computes, the others wait for it. Empty if it
/// was stopped.
std::string find_digest(const Checkpoint& checkpoint, const std::filesystem::path& folder,
                        std::stop_token stop = {});

/// Those of the tensors as they stand in its files, as they were kept there; none if nobody did.
TensorDigests kept_tensor_digests(const Checkpoint& checkpoint, const std::filesystem::path& folder);
/// False if they can be kept in neither place: then they are computed again next time.
bool keep_tensor_digests(const Checkpoint& checkpoint, const std::filesystem::path& folder,
                         const TensorDigests& digests);

}  // namespace convoy::model
