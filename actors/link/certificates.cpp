#include "actors/link/certificates.hpp"

#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <openssl/x509v3.h>

#include <memory>
#include <stdexcept>
#include <utility>

#include "actors/link/openssl.hpp"
#include "model/error.hpp"

namespace convoy::actors {

namespace {

constexpr long clocks_differ_s = 300, day_s = 86'400;
constexpr int serial_bits = 127;

using Key = OpensslKey;
using Certificate = OpensslCertificate;
using Memory = OpensslMemory;

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

Identity pem_of(const Certificate& certificate, const Key& key) {
  const Memory of_certificate(BIO_new(BIO_s_mem())), of_key(BIO_new(BIO_s_mem()));
  require(of_certificate && PEM_write_bio_X509(of_certificate.get(), certificate.get()) == 1,
          "write a certificate");
  require(of_key && PEM_write_bio_PKCS8PrivateKey(of_key.get(), key.get(), nullptr, nullptr, 0, nullptr,
                                                  nullptr) == 1,
          "write a key");
  return {text_of(of_certificate), text_of(of_key)};
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
Certificate draft(const Key& key, const std::string& name, long days) {
  Certificate certificate(X509_new());
  require(certificate != nullptr, "make a certificate");
  X509* const c = certificate.get();
  const Freed<BIGNUM, BN_free> serial(BN_new());
  require(X509_set_version(c, X509_VERSION_3) == 1, "make a certificate");
  require(serial && BN_rand(serial.get(), serial_bits, BN_RAND_TOP_ANY, BN_RAND_BOTTOM_ANY) == 1 &&
              BN_to_ASN1_INTEGER(serial.get(), X509_get_serialNumber(c)),
          "draw a serial number");
  require(
      X509_gmtime_adj(X509_getm_notBefore(c), days < 0 ? days * day_s - clocks_differ_s : -clocks_differ_s) &&
          X509_gmtime_adj(X509_getm_notAfter(c), days * day_s) && X509_set_pubkey(c, key.get()) == 1,
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
  const Certificate authority = draft(key, "convoy authority " + hex(name, sizeof name), authority_days);
  require(X509_set_issuer_name(authority.get(), X509_get_subject_name(authority.get())) == 1,
          "name an authority");
  extend(authority, authority, NID_basic_constraints, "critical,CA:TRUE,pathlen:0");
  extend(authority, authority, NID_key_usage, "critical,keyCertSign,cRLSign");
  extend(authority, authority, NID_subject_key_identifier, "hash");
  sign(authority, authority, key);
  return pem_of(authority, key);
}

Identity issue(const Identity& authority, std::string_view cluster, std::string_view node, int days) {
  const auto [issuer, issuer_key] = read(authority);
  const Key key = draw_key();
  const Certificate certificate = draft(key, certificate_name(cluster, node), days);
  extend(certificate, issuer, NID_basic_constraints, "critical,CA:FALSE");
  extend(certificate, issuer, NID_key_usage, "critical,digitalSignature");
  extend(certificate, issuer, NID_ext_key_usage, "serverAuth,clientAuth");
  extend(certificate, issuer, NID_authority_key_identifier, "keyid");
  sign(certificate, issuer, issuer_key);
  return pem_of(certificate, key);
}

std::string serial_of(const std::string& certificate) {
  const Memory text = memory_of(certificate);
  const Certificate read(PEM_read_bio_X509(text.get(), nullptr, nullptr, nullptr));
  require(read != nullptr, "read a certificate");
  return text_of_serial(X509_get0_serialNumber(read.get()));
}

std::string revoke(const Identity& authority, const std::vector<std::string>& serials, uint64_t number) {
  const auto [issuer, issuer_key] = read(authority);
  const Freed<X509_CRL, X509_CRL_free> list(X509_CRL_new());
  const Freed<ASN1_TIME, ASN1_TIME_free> now(X509_gmtime_adj(nullptr, -clocks_differ_s)),
      end(X509_gmtime_adj(nullptr, authority_days * day_s));
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
