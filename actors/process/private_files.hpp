#pragma once
// Files that no other user may read, write or put in place of ours: the run directory and what lies in it.
// Used by every command that starts a process of a cluster or talks to one.

#include <filesystem>
#include <string>

namespace convoy::actors {

/// Makes the folder, and those above it, if it is not there. Throws InputError with the command that mends it
/// unless it is a folder itself (no link to one), this user's, and closed to all others. key: what names it
/// in cluster.conf.
void make_private_folder(const std::filesystem::path& folder, const std::string& key = "cluster.run_dir");

/// open(2) of a file in such a folder, made with mode 0600 if flags say so, never inherited; -1 and errno if
/// it cannot be opened. Throws InputError with the command that mends it if it is a symbolic link, no
/// ordinary file, another user's, or open to others.
int open_private(const std::filesystem::path& file, int flags);

/// Writes such a file, all of it or nothing, in place of one of that name. Throws InputError if it cannot be.
void replace_private(const std::filesystem::path& file, const std::string& text);

/// Which file that is, and when it or its mode changed last, as a text: another one says that it has to be
/// read anew. Empty: it is not there.
std::string stamp_of(const std::filesystem::path& file);

}  // namespace convoy::actors
