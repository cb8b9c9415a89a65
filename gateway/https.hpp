#pragma once
// HTTPS: what the gateway shows its clients, from gateway.tls_certificate and gateway.tls_key. New files
// count from the next connection on.

#include <boost/asio/ssl/context.hpp>
#include <filesystem>
#include <memory>

#include "gateway/reread.hpp"

namespace convoy::gateway {

using HttpsCertificate = Reread<boost::asio::ssl::context>;

/// TLS 1.2 and 1.3, ciphers with forward secrecy and authentication alone, ALPN http/1.1, nothing resumed and
/// nothing renegotiated. Null: the names are empty, and HTTP is plain. Throws InputError that says which file
/// is not there, open to other users (the key's), no good, or does not belong to the other.
std::unique_ptr<HttpsCertificate> open_certificate(const std::filesystem::path& certificate,
                                                   const std::filesystem::path& key);

}  // namespace convoy::gateway
