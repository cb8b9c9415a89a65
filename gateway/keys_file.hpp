#pragma once
// The file of API keys (gateway.keys_file): changed by `convoy key`, read by the gateway, which sees changes
// within a second. This user's own, mode 0600.

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "gateway/api_keys.hpp"
#include "gateway/reread.hpp"

namespace convoy::gateway {

/// Throws InputError with what mends it if the file is not there, is open to others, another user's, or holds
/// anything but keys.
ApiKeys load_keys(const std::filesystem::path& file);

/// Lets `change` change what the file holds (nothing, if it is not there yet), while nobody else does; all of
/// it is written, or nothing. Throws InputError as load_keys() does, and what `change` throws.
void change_keys(const std::filesystem::path& file, const std::function<void(ApiKeys&)>& change);

/// Draws a key, and keeps all of it there but what opens, which it returns. wanted: without id and digest.
std::string make_key(const std::filesystem::path& file, ApiKey wanted);

/// The keys that count now.
using KeyRing = Reread<const ApiKeys>;

/// Null: file is empty, and nobody is asked for a key. Throws InputError as load_keys() does.
std::unique_ptr<KeyRing> open_keys(const std::filesystem::path& file);

}  // namespace convoy::gateway
