#pragma once
// Authority: the folder on the head's machine where a cluster's certificates are made: its authority's key,
// which certificates there are, which of them count no more, and the join tokens that were given out. Used by
// the commands that ask for certificates, and by the head when a machine joins; what changes a file holds the
// folder's lock meanwhile. Every function throws InputError if a file cannot be read or written.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "actors/link/certificates.hpp"
#include "actors/link/join_token.hpp"

namespace convoy::actors {

inline constexpr const char* authority_key_file = "ca.key";
// In a folder of their own: a node may have any name.
inline constexpr const char *gateway_folder = "gateway", *gateway_certificate_file = "certificate.pem",
                            *gateway_key_file = "key.pem";

class Authority {
 public:
  explicit Authority(std::filesystem::path folder) : folder_(std::move(folder)) {}
  /// A new authority, in a folder that has none.
  static Authority make(const std::filesystem::path& folder);

  /// Whether the key is here: elsewhere nothing can be signed.
  bool can_sign() const;
  std::string certificate() const;
  /// The list of those that count no more, as PEM; empty: there are none.
  std::string revocations() const;

  /// Writes the node's key and certificate there.
  void issue(const std::string& cluster, const std::string& node, int days);
  /// Writes the gateway's key and certificate there, which clients know it by those names and addresses with.
  void issue_gateway(const std::vector<std::string>& names);
  /// A certificate for a key that is elsewhere; nothing if a certificate of that node counts already.
  std::optional<std::string> certify(const std::string& cluster, const std::string& node,
                                     const std::string& request);
  /// Another certificate of a node; nothing if none of it counts.
  std::optional<std::string> renew(const std::string& cluster, const std::string& node,
                                   const std::string& request);
  bool has_issued(const std::string& node) const;
  /// All certificates that the node ever had count no more. Returns how many these are.
  size_t revoke(const std::string& node);

  /// Keeps a token, of which the head never sees more than its digest.
  void remember(const KnownToken& token, int64_t now_s);
  std::vector<KnownToken> tokens() const;
  /// One use less, if it was good.
  TokenState spend(std::string_view token_id, int64_t now_s);

 private:
  Identity identity() const;
  std::optional<std::string> certify(const std::string& cluster, const std::string& node,
                                     const std::string& request, bool again);
  void note(const std::string& certificate, const std::string& node);

  const std::filesystem::path folder_;
};

}  // namespace convoy::actors
