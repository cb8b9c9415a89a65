#pragma once
// OpenSSL's objects, each with the function that frees it. For those that make certificates and those that
// check them.

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/x509.h>

#include <array>
#include <memory>
#include <new>
#include <string>

namespace convoy::actors {

template <auto free>
struct FreedBy {
  template <class T>
  void operator()(T* p) const {
    free(p);
  }
};
template <class T, auto free>
using Freed = std::unique_ptr<T, FreedBy<free>>;

using OpensslKey = Freed<EVP_PKEY, EVP_PKEY_free>;
using OpensslCertificate = Freed<X509, X509_free>;
using OpensslList = Freed<X509_CRL, X509_CRL_free>;
using OpensslMemory = Freed<BIO, BIO_free_all>;

/// To be read from; the text has to stay.
inline OpensslMemory memory_of(const std::string& text) {
  OpensslMemory memory(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  if (!memory) throw std::bad_alloc();
  return memory;
}

/// Of whom a certificate is; empty if it does not say, or if there is none.
inline std::string common_name(const X509* certificate) {
  std::array<char, 256> name{};
  const int size = certificate ? X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName,
                                                           name.data(), name.size())
                               : -1;
  return size < 0 ? std::string() : std::string(name.data(), static_cast<size_t>(size));
}

}  // namespace convoy::actors
