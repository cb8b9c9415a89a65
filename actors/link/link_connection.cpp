#include "actors/link/link_connection.hpp"

#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <cassert>
#include <stdexcept>

#include "actors/link/certificates.hpp"
#include "actors/link/openssl.hpp"

namespace convoy::actors {

asio::awaitable<std::string> LinkConnection::encrypt(asio::ssl::context& context,
                                                     asio::ssl::stream_base::handshake_type end,
                                                     Strangers strangers) {
  assert(!tls_);
  tls_ = std::make_unique<Tls>(*socket_, context);
  if (strangers == Strangers::allowed) SSL_set_verify(tls_->native_handle(), SSL_VERIFY_PEER, nullptr);
  auto [error] = co_await tls_->async_handshake(end, asio::as_tuple(asio::use_awaitable));
  if (!error) co_return std::string();
  const long verified = SSL_get_verify_result(tls_->native_handle());
  if (verified != X509_V_OK)
    co_return std::string("the peer's certificate: ") + X509_verify_cert_error_string(verified);
  co_return "TLS: " + error.message();
}

bool LinkConnection::certified() const {
  assert(tls_);
  return SSL_get0_peer_certificate(tls_->native_handle()) != nullptr;
}

std::vector<std::string> LinkConnection::peer_chain() const {
  assert(tls_);
  std::vector<std::string> chain;
  const STACK_OF(X509)* const shown = SSL_get_peer_cert_chain(tls_->native_handle());
  for (int i = 0; i < sk_X509_num(shown); ++i) chain.push_back(pem_of(*sk_X509_value(shown, i)));
  return chain;
}

std::string LinkConnection::peer_name() const {
  assert(tls_);
  const OpensslCertificate certificate(SSL_get1_peer_certificate(tls_->native_handle()));
  return common_name(certificate.get());
}

std::string LinkConnection::peer_serial() const {
  assert(tls_);
  const OpensslCertificate certificate(SSL_get1_peer_certificate(tls_->native_handle()));
  return certificate ? text_of_serial(X509_get0_serialNumber(certificate.get())) : std::string();
}

int64_t LinkConnection::peer_until_s() const {
  assert(tls_);
  const OpensslCertificate certificate(SSL_get1_peer_certificate(tls_->native_handle()));
  return certificate ? unix_seconds(X509_get0_notAfter(certificate.get())) : 0;
}

std::string LinkConnection::shared_key() const {
  assert(tls_);
  constexpr std::string_view label = "EXPORTER-convoy-link";
  std::string key(32, '\0');
  if (SSL_export_keying_material(tls_->native_handle(), reinterpret_cast<unsigned char*>(key.data()),
                                 key.size(), label.data(), label.size(), nullptr, 0, 0) != 1)
    throw std::runtime_error("OpenSSL exports no key of a connection");
  return key;
}

}  // namespace convoy::actors
