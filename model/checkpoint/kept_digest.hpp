#pragma once
// The digest of a checkpoint's weights, kept with size, time and inode of every file that it was computed
// from, so that a start does not read hundreds of gigabytes. Asked by each process of a cluster before it
// says what it computes with. Blocks while it reads; any thread.

#include <filesystem>
#include <optional>
#include <stop_token>
#include <string>

#include "model/checkpoint/checkpoint.hpp"

namespace convoy::model {

/// Checkpoint::weights_digest() as it was kept beside the model or in `folder`, if every file is still the
/// one it was computed from.
std::optional<std::string> kept_digest(const Checkpoint& checkpoint, const std::filesystem::path& folder);

/// That, or else computes it and keeps it: beside the model, or in `folder` if that cannot be written. Of
/// several processes with one `folder` that ask at a time one computes, the others wait for it. Empty if it
/// was stopped.
std::string find_digest(const Checkpoint& checkpoint, const std::filesystem::path& folder,
                        std::stop_token stop = {});

}  // namespace convoy::model
