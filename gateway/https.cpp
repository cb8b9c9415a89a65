#include "gateway/https.hpp"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <boost/asio/buffer.hpp>
#include <stdexcept>
#include <string_view>

#include "actors/link/link_tls.hpp"
#include "model/error.hpp"

namespace convoy::gateway {

namespace fs = std::filesystem;
namespace ssl = boost::asio::ssl;

namespace {

constexpr const char* ciphers_of_tls12 =
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";
constexpr const char* groups = "X25519:P-256:P-384";
constexpr const char* mend_pem = "name a PEM file that this user can read";

/// A client that offers protocols and not this one is told so, as RFC 7301 has it.
int choose_protocol(SSL*, const unsigned char** chosen, unsigned char* chosen_size,
                    const unsigned char* offered, unsigned offered_size, void*) {
  static constexpr std::string_view ours = "http/1.1";
  const std::string_view list(reinterpret_cast<const char*>(offered), offered_size);
  for (size_t at = 0; at < list.size(); at += 1 + static_cast<unsigned char>(list[at])) {
    if (list.substr(at + 1, static_cast<unsigned char>(list[at])) != ours) continue;
    *chosen = offered + at + 1;
    *chosen_size = ours.size();
    return SSL_TLSEXT_ERR_OK;
  }
  return SSL_TLSEXT_ERR_ALERT_FATAL;
}

/// What OpenSSL made of a file.
void require(const boost::system::error_code& error, const fs::path& file, const char* what) {
  ERR_clear_error();
  if (error) throw InputError(std::string(what) + ": " + error.message(), file.string(), mend_pem);
}

/// An operator's file may be a link to what some other program renews; what it leads to has to be ours.
std::string read_file(const fs::path& file, bool is_private) {
  std::error_code unresolved;  // then the file itself is opened, which says why
  const fs::path real = fs::canonical(file, unresolved);
  return actors::read_pem(unresolved ? file : real, is_private, mend_pem);
}

std::shared_ptr<ssl::context> load(const fs::path& certificate, const fs::path& key) {
  auto context = std::make_shared<ssl::context>(ssl::context::tls_server);
  SSL_CTX* const native = context->native_handle();
  SSL_CTX_set_options(native, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET |
                                  SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
  SSL_CTX_set_session_cache_mode(native, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_alpn_select_cb(native, choose_protocol, nullptr);
  if (SSL_CTX_set_min_proto_version(native, TLS1_2_VERSION) != 1 ||
      SSL_CTX_set_cipher_list(native, ciphers_of_tls12) != 1 || SSL_CTX_set_num_tickets(native, 0) != 1 ||
      SSL_CTX_set1_groups_list(native, groups) != 1)
    throw std::runtime_error("OpenSSL does not know what HTTPS needs");
  boost::system::error_code error;
  context->use_certificate_chain(boost::asio::buffer(read_file(certificate, false)), error);
  require(error, certificate, "is no certificate");
  context->use_private_key(boost::asio::buffer(read_file(key, true)), ssl::context::pem, error);
  require(error, key, "is no key of that certificate");
  if (X509_cmp_current_time(X509_get0_notAfter(SSL_CTX_get0_certificate(native))) < 0)
    log::warn("gateway.certificate_expired", {{"file", certificate.string()}});
  return context;
}

}  // namespace

std::unique_ptr<HttpsCertificate> open_certificate(const fs::path& certificate, const fs::path& key) {
  if (certificate.empty() && key.empty()) return nullptr;
  return std::make_unique<HttpsCertificate>("gateway.certificate", std::vector{certificate, key},
                                            [=] { return load(certificate, key); });
}

}  // namespace convoy::gateway
