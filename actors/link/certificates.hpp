#pragma once
// Certificates by which nodes of a cluster know each other, and the authority that makes them. Names in them
// are digests: whoever connects is shown a certificate before it has shown one, and learns no name from it.
// Pure but for time and the drawing of keys; called by `convoy init` and `convoy ca`, and by links, which
// compare names.

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

struct asn1_string_st;  // OpenSSL's ASN1_INTEGER and ASN1_TIME
struct x509_st;         // OpenSSL's X509

namespace convoy::actors {

/// Both as PEM.
struct Identity {
  std::string certificate, key;
};

/// A key, and what asks an authority for a certificate of it (PKCS #10). Both as PEM.
struct CertificateRequest {
  std::string request, key;
};

inline constexpr uint32_t authority_days = 3650, node_days = 397;

/// Whether a certificate of that time has less than a third of its life before it. Unix time.
bool is_due(int64_t from_s, int64_t until_s, int64_t now_s);

/// The common name of a node's certificate: who knows cluster and node can compare it.
std::string certificate_name(std::string_view cluster, std::string_view node);

/// A new authority: an ECDSA key on P-256, and a certificate that signs itself.
Identity make_authority();

/// A certificate's serial number, in hexadecimal digits: of one as PEM, or of OpenSSL's.
std::string serial_of(const std::string& certificate);
std::string text_of_serial(const asn1_string_st* serial);

std::string pem_of(const x509_st& certificate);

/// Unix time.
int64_t unix_seconds(const asn1_string_st* time);

/// The list of certificates that count no more, as PEM: all of them by their serial numbers. Of two lists the
/// one with the larger number counts. Throws InputError if the authority is none.
std::string revoke(const Identity& authority, const std::vector<std::string>& serials, uint64_t number);

/// A node's key and certificate. Valid from five minutes ago, as clocks differ, for that long (less than
/// none: it has expired). Throws InputError if the authority is none.
Identity issue(const Identity& authority, std::string_view cluster, std::string_view node,
               std::chrono::seconds life = std::chrono::days(node_days));

/// A key, and a certificate for a server that is asked for by these names and addresses. It is no node's, and
/// opens no link. Throws InputError if one is neither, or the authority is none.
Identity issue_server(const Identity& authority, const std::vector<std::string>& names,
                      std::chrono::seconds life = std::chrono::days(node_days));

/// A new key, which need not leave its machine, and the request for its certificate.
CertificateRequest make_request();
/// The request for another certificate of a key that is there. Throws InputError if it is none.
std::string request_of(const std::string& key);

/// The certificate of a node whose key asks for it; whatever else the request says does not count. Throws
/// InputError if the authority is none, or the request is none, is not signed with its key, or that is no key
/// on P-256.
std::string certify(const Identity& authority, std::string_view cluster, std::string_view node,
                    const std::string& request);

/// Whether certify() would take that request.
bool is_request(const std::string& request);

/// SHA-256 of a certificate, 32 raw bytes. Throws InputError if it is none.
std::string fingerprint_of(const std::string& certificate);

/// Of the certificates that a server showed, its own first: the one with that fingerprint, if it vouches for
/// the server's; empty: none does.
std::string authority_in(const std::vector<std::string>& chain, const std::string& fingerprint);

/// Why that is no certificate of that node and that key, by that authority, which counts now; or nothing.
std::optional<std::string> refuse_certificate(const std::string& certificate, const std::string& authority,
                                              const std::string& key, std::string_view cluster,
                                              std::string_view node);

}  // namespace convoy::actors
