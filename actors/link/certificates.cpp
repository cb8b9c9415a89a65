#include "actors/link/certificates.hpp"

#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <cctype>
#include <ctime>
#include <memory>
#include <stdexcept>
#include <utility>

#include "actors/link/openssl.hpp"
#include "model/error.hpp"

namespace convoy::actors {

namespace {

constexpr long clocks_differ_s = 300;
constexpr int serial_bits = 127;

using Key = OpensslKey;
using Certificate = OpensslCertificate;
using Memory = OpensslMemory;
using Request = Freed<X509_REQ, X509_REQ_free>;

/// Throws what OpenSSL says unless it did what it was asked.
void require(bool done, const char* what) {
  if (done) return;
  const unsigned long code = ERR_get_error();
  ERR_clear_error();
  throw std::runtime_error(std::string("OpenSSL cannot ") + what +
                           (code ? std::string(": ") + ERR_reason_error_string(code) : ""));
}

std::string text_of(const Memory& memory) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(memory.get(), &data);
  return {data, static_cast<size_t>(size)};
}

std::string pem_of_key(const Key& key) {
  const Memory memory(BIO_new(BIO_s_mem()));
  require(memory && PEM_write_bio_PKCS8PrivateKey(memory.get(), key.get(), nullptr, nullptr, 0, nullptr,
                                                  nullptr) == 1,
          "write a key");
  return text_of(memory);
}

Key draw_key() {
  Key key(EVP_EC_gen("P-256"));
  require(key != nullptr, "make a key");
  return key;
}

void extend(const Certificate& certificate, const Certificate& issuer, int what, const char* value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer.get(), certificate.get(), nullptr, nullptr, 0);
  const Freed<X509_EXTENSION, X509_EXTENSION_free> extension(
      X509V3_EXT_conf_nid(nullptr, &context, what, value));
  require(extension && X509_add_ext(certificate.get(), extension.get(), -1) == 1, "extend a certificate");
}

/// With all but its issuer, extensions and signature.
Certificate draft(const Key& key, const std::string& name, std::chrono::seconds life) {
  Certificate certificate(X509_new());
  require(certificate != nullptr, "make a certificate");
  X509* const c = certificate.get();
  const Freed<BIGNUM, BN_free> serial(BN_new());
  require(X509_set_version(c, X509_VERSION_3) == 1, "make a certificate");
  require(serial && BN_rand(serial.get(), serial_bits, BN_RAND_TOP_ANY, BN_RAND_BOTTOM_ANY) == 1 &&
              BN_to_ASN1_INTEGER(serial.get(), X509_get_serialNumber(c)),
          "draw a serial number");
  require(X509_gmtime_adj(X509_getm_notBefore(c), std::min(0l, long{life.count()}) - clocks_differ_s) &&
              X509_gmtime_adj(X509_getm_notAfter(c), life.count()) && X509_set_pubkey(c, key.get()) == 1,
          "make a certificate");
  require(X509_NAME_add_entry_by_txt(X509_get_subject_name(c), "CN", MBSTRING_ASC,
                                     reinterpret_cast<const unsigned char*>(name.data()),
                                     static_cast<int>(name.size()), -1, 0) == 1,
          "name a certificate");
  return certificate;
}

void sign(const Certificate& certificate, const Certificate& issuer, const Key& key) {
  require(X509_set_issuer_name(certificate.get(), X509_get_subject_name(issuer.get())) == 1 &&
              X509_sign(certificate.get(), key.get(), EVP_sha256()) > 0,
          "sign a certificate");
}

/// Throws InputError unless they are an authority's.
std::pair<Certificate, Key> read(const Identity& authority) {
  const Memory certificate_text = memory_of(authority.certificate), key_text = memory_of(authority.key);
  Certificate issuer(PEM_read_bio_X509(certificate_text.get(), nullptr, nullptr, nullptr));
  Key issuer_key(PEM_read_bio_PrivateKey(key_text.get(), nullptr, nullptr, nullptr));
  const bool fit = issuer && issuer_key && X509_check_private_key(issuer.get(), issuer_key.get()) == 1;
  ERR_clear_error();
  if (!fit)
    throw InputError("the authority's certificate and key do not belong together, or are none",
                     "certificate authority",
                     "restore both from a backup, or make a new cluster: convoy init");
  return {std::move(issuer), std::move(issuer_key)};
}

/// Of one that signs nothing further, as PEM. names: empty, or as OpenSSL lists them.
std::string sign_leaf(const Identity& authority, const Key& key, const std::string& name,
                      std::chrono::seconds life, const char* usage, const std::string& names = {}) {
  const auto [issuer, issuer_key] = read(authority);
  const Certificate certificate = draft(key, name, life);
  extend(certificate, issuer, NID_basic_constraints, "critical,CA:FALSE");
  extend(certificate, issuer, NID_key_usage, "critical,digitalSignature");
  extend(certificate, issuer, NID_ext_key_usage, usage);
  extend(certificate, issuer, NID_authority_key_identifier, "keyid");
  if (!names.empty()) extend(certificate, issuer, NID_subject_alt_name, names.c_str());
  sign(certificate, issuer, issuer_key);
  return pem_of(*certificate);
}

std::string sign_node(const Identity& authority, const Key& key, const std::string& name,
                      std::chrono::seconds life) {
  return sign_leaf(authority, key, name, life, "serverAuth,clientAuth");
}

/// "IP:10.0.0.1" or "DNS:host": nothing that OpenSSL reads as the end of one and another's beginning.
std::string alternative_name(const std::string& name) {
  const Freed<ASN1_OCTET_STRING, ASN1_OCTET_STRING_free> address(a2i_IPADDRESS(name.c_str()));
  ERR_clear_error();
  if (address) return "IP:" + name;
  const auto belongs = [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '.' || c == '_'; };
  constexpr size_t name_bytes_max = 253;
  if (name.empty() || name.size() > name_bytes_max || !std::all_of(name.begin(), name.end(), belongs))
    throw InputError("\"" + name + "\" is no host name and no address", "certificate",
                     "give names such as gpu1.example.org, or addresses in numbers");
  return "DNS:" + name;
}

std::string request_of(const Key& key) {
  const Request request(X509_REQ_new());
  const Memory memory(BIO_new(BIO_s_mem()));
  require(request && memory && X509_REQ_set_version(request.get(), X509_REQ_VERSION_1) == 1 &&
              X509_REQ_set_pubkey(request.get(), key.get()) == 1 &&
              X509_REQ_sign(request.get(), key.get(), EVP_sha256()) > 0 &&
              PEM_write_bio_X509_REQ(memory.get(), request.get()) == 1,
          "make a request");
  return text_of(memory);
}

bool is_on_p256(const Key& key) {
  char group[32];
  size_t size = 0;
  return EVP_PKEY_is_a(key.get(), "EC") == 1 &&
         EVP_PKEY_get_group_name(key.get(), group, sizeof group, &size) == 1 &&
         std::string_view(group, size) == SN_X9_62_prime256v1;
}

/// The key that asks; null unless it is on P-256 and signed the request.
Key key_of(const std::string& request) {
  const Request read(PEM_read_bio_X509_REQ(memory_of(request).get(), nullptr, nullptr, nullptr));
  Key key(read ? X509_REQ_get_pubkey(read.get()) : nullptr);
  const bool good = key && is_on_p256(key) && X509_REQ_verify(read.get(), key.get()) == 1;
  ERR_clear_error();
  return good ? std::move(key) : nullptr;
}

/// Throws InputError if it is none.
Certificate read_certificate(const std::string& pem) {
  Certificate certificate(PEM_read_bio_X509(memory_of(pem).get(), nullptr, nullptr, nullptr));
  ERR_clear_error();
  if (!certificate)
    throw InputError("is no certificate", "certificate", "copy it from where the cluster was made");
  return certificate;
}

/// Why the authority does not vouch for it now, or nothing.
std::optional<std::string> refuse_issuer(X509* certificate, X509* authority) {
  const Freed<X509_STORE, X509_STORE_free> store(X509_STORE_new());
  const Freed<X509_STORE_CTX, X509_STORE_CTX_free> check(X509_STORE_CTX_new());
  require(store && check && X509_STORE_add_cert(store.get(), authority) == 1 &&
              X509_STORE_CTX_init(check.get(), store.get(), certificate, nullptr) == 1,
          "check a certificate");
  const bool good = X509_verify_cert(check.get()) == 1;
  ERR_clear_error();
  if (good) return std::nullopt;
  return X509_verify_cert_error_string(X509_STORE_CTX_get_error(check.get()));
}

std::string hex(const unsigned char* bytes, size_t count) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string text;
  for (size_t i = 0; i < count; ++i) text += {digits[bytes[i] >> 4], digits[bytes[i] & 15]};
  return text;
}

}  // namespace

std::string text_of_serial(const ASN1_INTEGER* serial) {
  const Freed<BIGNUM, BN_free> value(ASN1_INTEGER_to_BN(serial, nullptr));
  const std::unique_ptr<char, void (*)(char*)> text(value ? BN_bn2hex(value.get()) : nullptr,
                                                    [](char* hex) { OPENSSL_free(hex); });
  require(text != nullptr, "write a serial number");
  return text.get();
}

std::string pem_of(const X509& certificate) {
  const Memory memory(BIO_new(BIO_s_mem()));
  require(memory && PEM_write_bio_X509(memory.get(), &certificate) == 1, "write a certificate");
  return text_of(memory);
}

int64_t unix_seconds(const ASN1_TIME* time) {
  std::tm at{};
  require(ASN1_TIME_to_tm(time, &at) == 1, "read a time");
  return ::timegm(&at);
}

bool is_due(int64_t from_s, int64_t until_s, int64_t now_s) {
  return until_s - now_s < (until_s - from_s) / 3;
}

std::string certificate_name(std::string_view cluster, std::string_view node) {
  // The length comes first, so that no cluster's name can pretend to hold a node's.
  const std::string named =
      "convoy-node-1:" + std::to_string(cluster.size()) + ":" + std::string(cluster) + std::string(node);
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(named.data()), named.size(), digest);
  return hex(digest, 20);
}

Identity make_authority() {
  unsigned char name[8];
  require(RAND_bytes(name, sizeof name) == 1, "draw a name");
  const Key key = draw_key();
  const Certificate authority =
      draft(key, "convoy authority " + hex(name, sizeof name), std::chrono::days(authority_days));
  require(X509_set_issuer_name(authority.get(), X509_get_subject_name(authority.get())) == 1,
          "name an authority");
  extend(authority, authority, NID_basic_constraints, "critical,CA:TRUE,pathlen:0");
  extend(authority, authority, NID_key_usage, "critical,keyCertSign,cRLSign");
  extend(authority, authority, NID_subject_key_identifier, "hash");
  sign(authority, authority, key);
  return {pem_of(*authority), pem_of_key(key)};
}

Identity issue(const Identity& authority, std::string_view cluster, std::string_view node,
               std::chrono::seconds life) {
  const Key key = draw_key();
  return {sign_node(authority, key, certificate_name(cluster, node), life), pem_of_key(key)};
}

Identity issue_server(const Identity& authority, const std::vector<std::string>& names,
                      std::chrono::seconds life) {
  std::string listed;
  for (const std::string& name : names) listed += (listed.empty() ? "" : ",") + alternative_name(name);
  const Key key = draw_key();
  return {sign_leaf(authority, key, "convoy gateway", life, "serverAuth", listed), pem_of_key(key)};
}

CertificateRequest make_request() {
  const Key key = draw_key();
  return {request_of(key), pem_of_key(key)};
}

std::string request_of(const std::string& key) {
  const Key read(PEM_read_bio_PrivateKey(memory_of(key).get(), nullptr, nullptr, nullptr));
  ERR_clear_error();
  if (!read) throw InputError("is no key", "key", "convoy ca issue NODE, where the cluster was made");
  return request_of(read);
}

std::string certify(const Identity& authority, std::string_view cluster, std::string_view node,
                    const std::string& request) {
  const Key key = key_of(request);
  if (!key)
    throw InputError("is no request of a key on P-256, signed with that", "certificate request",
                     "make it with `convoy join`");
  return sign_node(authority, key, certificate_name(cluster, node), std::chrono::days(node_days));
}

bool is_request(const std::string& request) { return key_of(request) != nullptr; }

std::string fingerprint_of(const std::string& certificate) {
  const Certificate read = read_certificate(certificate);
  std::string digest(SHA256_DIGEST_LENGTH, '\0');
  require(
      X509_digest(read.get(), EVP_sha256(), reinterpret_cast<unsigned char*>(digest.data()), nullptr) == 1,
      "compute a digest");
  return digest;
}

std::string authority_in(const std::vector<std::string>& chain, const std::string& fingerprint) {
  for (const std::string& certificate : chain)
    if (fingerprint_of(certificate) == fingerprint &&
        !refuse_issuer(read_certificate(chain.front()).get(), read_certificate(certificate).get()))
      return certificate;
  return {};
}

std::optional<std::string> refuse_certificate(const std::string& certificate, const std::string& authority,
                                              const std::string& key, std::string_view cluster,
                                              std::string_view node) {
  const Certificate ours = read_certificate(certificate), issuer = read_certificate(authority);
  const Key own(PEM_read_bio_PrivateKey(memory_of(key).get(), nullptr, nullptr, nullptr));
  if (!own || X509_check_private_key(ours.get(), own.get()) != 1) {
    ERR_clear_error();
    return "is of another key";
  }
  if (common_name(ours.get()) != certificate_name(cluster, node)) return "is of another node";
  return refuse_issuer(ours.get(), issuer.get());
}

std::string serial_of(const std::string& certificate) {
  const Certificate read = read_certificate(certificate);
  return text_of_serial(X509_get0_serialNumber(read.get()));
}

std::string revoke(const Identity& authority, const std::vector<std::string>& serials, uint64_t number) {
  const auto [issuer, issuer_key] = read(authority);
  const Freed<X509_CRL, X509_CRL_free> list(X509_CRL_new());
  const Freed<ASN1_TIME, ASN1_TIME_free> now(X509_gmtime_adj(nullptr, -clocks_differ_s)),
      end(X509_gmtime_adj(nullptr, std::chrono::seconds(std::chrono::days(authority_days)).count()));
  require(list && now && end && X509_CRL_set_version(list.get(), X509_CRL_VERSION_2) == 1 &&
              X509_CRL_set_issuer_name(list.get(), X509_get_subject_name(issuer.get())) == 1 &&
              X509_CRL_set1_lastUpdate(list.get(), now.get()) == 1 &&
              X509_CRL_set1_nextUpdate(list.get(), end.get()) == 1,
          "make a revocation list");
  for (const std::string& serial : serials) {
    BIGNUM* number_of = nullptr;
    require(BN_hex2bn(&number_of, serial.c_str()) == static_cast<int>(serial.size()), "read a serial number");
    const Freed<BIGNUM, BN_free> value(number_of);
    const Freed<ASN1_INTEGER, ASN1_INTEGER_free> integer(BN_to_ASN1_INTEGER(value.get(), nullptr));
    X509_REVOKED* const revoked = X509_REVOKED_new();
    require(integer && revoked && X509_REVOKED_set_serialNumber(revoked, integer.get()) == 1 &&
                X509_REVOKED_set_revocationDate(revoked, now.get()) == 1 &&
                X509_CRL_add0_revoked(list.get(), revoked) == 1,
            "revoke a certificate");
  }
  const Freed<ASN1_INTEGER, ASN1_INTEGER_free> ordinal(ASN1_INTEGER_new());
  require(ordinal && ASN1_INTEGER_set_uint64(ordinal.get(), number) == 1 &&
              X509_CRL_add1_ext_i2d(list.get(), NID_crl_number, ordinal.get(), 0, 0) == 1 &&
              X509_CRL_sort(list.get()) == 1 && X509_CRL_sign(list.get(), issuer_key.get(), EVP_sha256()) > 0,
          "sign a revocation list");
  const Memory pem(BIO_new(BIO_s_mem()));
  require(pem && PEM_write_bio_X509_CRL(pem.get(), list.get()) == 1, "write a revocation list");
  return text_of(pem);
}

}  // namespace convoy::actors
