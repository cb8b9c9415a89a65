#include "actors/link/link_tls.hpp"

#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <stdexcept>

#include "actors/link/openssl.hpp"
#include "actors/process/log.hpp"
#include "actors/process/private_files.hpp"
#include "model/error.hpp"
#include "model/scarce.hpp"

namespace convoy::actors {

namespace fs = std::filesystem;
namespace ssl = boost::asio::ssl;

namespace {

constexpr size_t pem_bytes_max = 64 << 10;

/// Of those that this process needs.
std::string read_own(const fs::path& file, bool is_private) {
  return read_pem(file, is_private,
                  "make it with `convoy ca issue` where the cluster was made, and copy it here");
}

/// What OpenSSL made of a file.
void require(const boost::system::error_code& error, const fs::path& file) {
  if (error)
    throw InputError("is no good: " + error.message(), file.string(),
                     "make it anew with `convoy ca issue` where the cluster was made");
}

using Certificate = OpensslCertificate;
using List = OpensslList;

Certificate certificate_of(const std::string& pem, const fs::path& file) {
  Certificate certificate(PEM_read_bio_X509(memory_of(pem).get(), nullptr, nullptr, nullptr));
  ERR_clear_error();
  if (!certificate)
    throw InputError("is no certificate", file.string(), "copy it from where the cluster was made");
  return certificate;
}

/// Throws InputError unless it is a list that the authority signed.
List read_list(const std::string& pem, X509* authority, const std::string& where) {
  List list(PEM_read_bio_X509_CRL(memory_of(pem).get(), nullptr, nullptr, nullptr));
  const bool good = list && X509_CRL_verify(list.get(), X509_get0_pubkey(authority)) == 1;
  ERR_clear_error();
  if (!good)
    throw InputError("is no revocation list of this cluster's authority", where,
                     "copy the one that `convoy ca revoke` wrote");
  return list;
}

uint64_t number_of(X509_CRL* list) {
  const Freed<ASN1_INTEGER, ASN1_INTEGER_free> number(
      static_cast<ASN1_INTEGER*>(X509_CRL_get_ext_d2i(list, NID_crl_number, nullptr, nullptr)));
  uint64_t value = 0;
  if (number && ASN1_INTEGER_get_uint64(&value, number.get()) != 1) value = 0;
  return value;
}

}  // namespace

std::string read_pem(const fs::path& file, bool is_private, const std::string& mend) {
  const int descriptor =
      is_private ? open_private(file, O_RDONLY) : ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0)
    throw InputError(std::string("cannot be read (") + std::strerror(errno) + ")", file.string(),
                     mend_of(errno, mend));
  std::string text(pem_bytes_max, '\0');
  const ssize_t size = ::read(descriptor, text.data(), text.size());
  ::close(descriptor);
  if (size <= 0 || static_cast<size_t>(size) == text.size())
    throw InputError("is no PEM file", file.string(), mend);
  text.resize(static_cast<size_t>(size));
  return text;
}

void write_identity(const fs::path& folder, const std::string& node, const Identity& identity) {
  replace_private(folder / key_file(node), identity.key);
  replace_private(folder / certificate_file(node), identity.certificate);
}

struct LinkTls::Files {
  std::unique_ptr<ssl::context> context;
  std::string revocations;
  uint64_t number = 0;
  std::set<std::string> revoked;
};

LinkTls::LinkTls(fs::path folder, const std::string& cluster, const std::string& node)
    : folder_(std::move(folder)), cluster_(cluster), node_(node), written_(written()) {
  use(read());
}

void LinkTls::use(Files files) {
  context_ = std::move(files.context);
  const X509* const ours = SSL_CTX_get0_certificate(context_->native_handle());
  from_s_ = unix_seconds(X509_get0_notBefore(ours));
  until_s_ = unix_seconds(X509_get0_notAfter(ours));
  revocations_ = std::move(files.revocations);
  revocations_number_ = files.number;
  revoked_ = std::move(files.revoked);
}

/// The key stays: so one file changes, all or nothing.
std::optional<std::string> LinkTls::renewal() const {
  if (!is_due(from_s_, until_s_, std::time(nullptr))) return std::nullopt;
  return request_of(read_own(folder_ / key_file(node_), true));
}

void LinkTls::take_certificate(const std::string& pem) {
  const auto refused = refuse_certificate(pem, read_own(folder_ / authority_file, false),
                                          read_own(folder_ / key_file(node_), true), cluster_, node_);
  if (refused) throw InputError("the certificate " + *refused, "what the head sent", "");
  replace_private(folder_ / certificate_file(node_), pem);
  context();
}

bool LinkTls::revoked(const std::string& serial) const { return revoked_.contains(serial); }

bool LinkTls::take_revocations(const std::string& pem) {
  const std::string trusted = read_own(folder_ / authority_file, false);
  const Certificate authority = certificate_of(trusted, folder_ / authority_file);
  if (number_of(read_list(pem, authority.get(), "a peer's list").get()) <= revocations_number_) return false;
  replace_private(folder_ / revocations_file, pem);
  context();
  return true;
}

ssl::context& LinkTls::context() {
  if (const std::string now = written(); now != written_) {
    written_ = now;
    try {
      use(read());
      log::info("link.certificate_read", {{"node", node_}});
    } catch (const std::exception& e) {
      log::warn("link.certificate_refused", {{"node", node_}, {"reason", e.what()}});
    }
  }
  return *context_;
}

std::string LinkTls::written() const {
  std::string all;
  for (const std::string& name :
       {std::string(authority_file), certificate_file(node_), key_file(node_), std::string(revocations_file)})
    all += name + " " + stamp_of(folder_ / name) + " ";
  return all;
}

LinkTls::Files LinkTls::read() const {
  const fs::path authority = folder_ / authority_file, certificate = folder_ / certificate_file(node_),
                 key = folder_ / key_file(node_), revocations = folder_ / revocations_file;
  Files files;
  files.context = std::make_unique<ssl::context>(ssl::context::tls);
  ssl::context* const context = files.context.get();
  SSL_CTX* const native = context->native_handle();
  if (SSL_CTX_set_min_proto_version(native, TLS1_3_VERSION) != 1)
    throw std::runtime_error("OpenSSL has no TLS 1.3");
  // A link lasts: it is not resumed.
  SSL_CTX_set_num_tickets(native, 0);
  SSL_CTX_set_session_cache_mode(native, SSL_SESS_CACHE_OFF);
  context->set_verify_mode(ssl::verify_peer | ssl::verify_fail_if_no_peer_cert);

  boost::system::error_code error;
  const std::string own = read_own(certificate, false), trusted = read_own(authority, false);
  context->add_certificate_authority(boost::asio::buffer(trusted), error);
  require(error, authority);
  context->use_certificate(boost::asio::buffer(own), ssl::context::pem, error);
  require(error, certificate);
  context->use_private_key(boost::asio::buffer(read_own(key, true)), ssl::context::pem, error);
  require(error, key);

  X509* const ours = SSL_CTX_get0_certificate(native);
  if (common_name(ours) != certificate_name(cluster_, node_))
    throw InputError("is not the certificate of node \"" + node_ + "\" in cluster \"" + cluster_ + "\"",
                     certificate.string(), "convoy ca issue " + node_);
  X509_STORE* const store = SSL_CTX_get_cert_store(native);
  if (fs::exists(revocations)) {
    files.revocations = read_own(revocations, false);
    const List list =
        read_list(files.revocations, certificate_of(trusted, authority).get(), revocations.string());
    files.number = number_of(list.get());
    const STACK_OF(X509_REVOKED)* const revoked = X509_CRL_get_REVOKED(list.get());
    for (int i = 0; i < sk_X509_REVOKED_num(revoked); ++i)
      files.revoked.insert(text_of_serial(X509_REVOKED_get0_serialNumber(sk_X509_REVOKED_value(revoked, i))));
    if (X509_STORE_add_crl(store, list.get()) != 1 || X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK) != 1)
      throw std::runtime_error("OpenSSL takes no revocation list");
  }
  const Freed<X509_STORE_CTX, X509_STORE_CTX_free> check(X509_STORE_CTX_new());
  if (!check || X509_STORE_CTX_init(check.get(), store, ours, nullptr) != 1)
    throw std::runtime_error("OpenSSL cannot check a certificate");
  if (X509_verify_cert(check.get()) != 1)
    throw InputError(std::string("peers will refuse it: ") +
                         X509_verify_cert_error_string(X509_STORE_CTX_get_error(check.get())),
                     certificate.string(), "convoy ca issue " + node_ + ", where the cluster was made");
  return files;
}

}  // namespace convoy::actors
