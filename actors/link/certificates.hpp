#pragma once
// Certificates by which nodes of a cluster know each other, and the authority that makes them. Names in them
// are digests: whoever connects is shown a certificate before it has shown one, and learns no name from it.
// Pure but for time and the drawing of keys; called by `convoy init` and `convoy ca`, and by links, which
// compare names.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

struct asn1_string_st;  // OpenSSL's ASN1_INTEGER

namespace convoy::actors {

/// Both as PEM.
struct Identity {
  std::string certificate, key;
};

inline constexpr uint32_t authority_days = 3650, node_days = 397;

/// The common name of a node's certificate: who knows cluster and node can compare it.
std::string certificate_name(std::string_view cluster, std::string_view node);

/// A new authority: an ECDSA key on P-256, and a certificate that signs itself.
Identity make_authority();

/// A certificate's serial number, in hexadecimal digits: of one as PEM, or of OpenSSL's.
std::string serial_of(const std::string& certificate);
std::string text_of_serial(const asn1_string_st* serial);

/// The list of certificates that count no more, as PEM: all of them by their serial numbers. Of two lists the
/// one with the larger number counts. Throws InputError if the authority is none.
std::string revoke(const Identity& authority, const std::vector<std::string>& serials, uint64_t number);

/// A node's key and certificate. Valid from five minutes ago, as clocks differ, for so many days (less than
/// none: it has expired). Throws InputError if the authority is none.
Identity issue(const Identity& authority, std::string_view cluster, std::string_view node,
               int days = node_days);

}  // namespace convoy::actors
