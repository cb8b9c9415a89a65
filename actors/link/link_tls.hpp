#pragma once
// What a node's links need for TLS: the authority that it trusts, its own certificate and key, read from a
// folder. Made by each process that has links; context() belongs to the links' I/O thread.

#include <atomic>
#include <boost/asio/ssl.hpp>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "actors/link/certificates.hpp"

namespace convoy::actors {

/// Names in the folder of certificates (cluster.tls_dir).
inline constexpr const char* authority_file = "ca.pem";
inline constexpr const char* revocations_file = "revoked.pem";  // if there ever were any
inline std::string certificate_file(const std::string& node) { return node + ".pem"; }
inline std::string key_file(const std::string& node) { return node + ".key"; }

/// A file of certificates or keys; is_private: that only this user may read. Throws InputError with `mend` if
/// it cannot be read, or is too large to be one.
std::string read_pem(const std::filesystem::path& file, bool is_private, const std::string& mend);

/// Writes a node's two files there, each all or nothing, the key first. Throws InputError if they cannot be.
void write_identity(const std::filesystem::path& folder, const std::string& node, const Identity& identity);

class LinkTls {
 public:
  /// Reads the files once. Throws InputError that names the one that is missing, open to other users, no
  /// certificate, expired, of another node or of another authority.
  LinkTls(std::filesystem::path folder, const std::string& cluster, const std::string& node);

  /// TLS 1.3 alone, for both ends, each of which wants the other's certificate. Of the files as they are now:
  /// new ones count from the next connection on, and while they are no good those before them do.
  boost::asio::ssl::context& context();

  /// Unix time at which our own certificate ends. Any thread.
  int64_t until_s() const { return until_s_; }

  /// A request for another certificate of our key, if ours has less than a third of its life before it.
  std::optional<std::string> renewal() const;
  /// That certificate: ours from now on, on disk too. Throws InputError if it is none of ours.
  void take_certificate(const std::string& pem);

  /// The list of certificates that count no more, as the authority signed it: PEM, or nothing.
  const std::string& revocations() const { return revocations_; }
  bool revoked(const std::string& serial) const;
  /// Another's list. True if it is a later one than ours, which it then replaces, on disk too. Throws
  /// InputError if it is none of this authority's.
  bool take_revocations(const std::string& list);

 private:
  struct Files;  // as they were read
  Files read() const;
  void use(Files files);
  std::string written() const;  // which files these are, and when they were

  const std::filesystem::path folder_;
  const std::string cluster_, node_;
  std::string written_;
  std::unique_ptr<boost::asio::ssl::context> context_;
  int64_t from_s_ = 0;
  std::atomic<int64_t> until_s_ = 0;
  std::string revocations_;
  uint64_t revocations_number_ = 0;
  std::set<std::string> revoked_;  // serial numbers
};

}  // namespace convoy::actors
