#pragma once
// The cluster's secret and the keys made from it: one 32-byte file by which processes of a cluster know each
// other, and that keys the answer cache's names and its sealing. Read when a process starts; the functions
// are pure otherwise. Any thread.

#include <cstddef>
#include <string>
#include <string_view>

namespace convoy::actors {

inline constexpr size_t secret_bytes = 32;
inline constexpr const char* secret_file = "cluster.secret";  // in run_dir

/// Reads the secret, or draws one and writes it (mode 0600, all or nothing; of two processes that start
/// together both get the same one). Throws InputError if the file has another size, others may read it, or it
/// cannot be made.
std::string load_or_create_secret(const std::string& path);

/// HMAC-SHA-256: 32 raw bytes.
std::string hmac_sha256(std::string_view key, std::string_view message);

/// A 32-byte key for one purpose. Different purposes give unrelated keys, so that no two uses share one.
std::string derive_key(std::string_view secret, std::string_view purpose);

}  // namespace convoy::actors
