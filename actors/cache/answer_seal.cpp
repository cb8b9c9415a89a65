#include "actors/cache/answer_seal.hpp"

#include <openssl/evp.h>
#include <openssl/rand.h>

#include <cassert>
#include <cstring>
#include <memory>
#include <stdexcept>

namespace convoy::actors {
namespace {

constexpr char seal_version = 1;
constexpr size_t nonce_bytes = 12, tag_bytes = 16, overhead_bytes = 1 + nonce_bytes + tag_bytes;

using Cipher = std::unique_ptr<EVP_CIPHER_CTX, decltype(&EVP_CIPHER_CTX_free)>;

unsigned char* raw(void* bytes) { return static_cast<unsigned char*>(bytes); }
const unsigned char* raw(const void* bytes) { return static_cast<const unsigned char*>(bytes); }

void require(int done) {
  if (done != 1) throw std::runtime_error("OpenSSL cannot run AES-256-GCM");
}

/// Keyed with key and nonce, and fed with what is authenticated but not encrypted: the version and the
/// cache's key.
Cipher start(bool encrypt, std::string_view key, const char* nonce, std::string_view cache_key) {
  assert(key.size() == 32);
  Cipher cipher(EVP_CIPHER_CTX_new(), &EVP_CIPHER_CTX_free);
  if (!cipher) throw std::bad_alloc();
  require(EVP_CipherInit_ex(cipher.get(), EVP_aes_256_gcm(), nullptr, raw(key.data()), raw(nonce), encrypt));
  int written = 0;
  require(EVP_CipherUpdate(cipher.get(), nullptr, &written, raw(&seal_version), 1));
  require(EVP_CipherUpdate(cipher.get(), nullptr, &written, raw(cache_key.data()),
                           static_cast<int>(cache_key.size())));
  return cipher;
}

}  // namespace

std::string seal_answer(std::string_view seal_key, std::string_view cache_key,
                        const schema::Frame<schema::Answer>& answer) {
  const auto& plain = *answer.bytes();
  std::string sealed(overhead_bytes + plain.size(), '\0');
  sealed[0] = seal_version;
  char* nonce = sealed.data() + 1;
  // Random nonces of 96 bits are safe for 2^32 answers under one key.
  if (RAND_bytes(raw(nonce), nonce_bytes) != 1) throw std::runtime_error("OpenSSL has no random bytes");
  const Cipher cipher = start(true, seal_key, nonce, cache_key);
  char* text = nonce + nonce_bytes;
  int written = 0;
  require(
      EVP_CipherUpdate(cipher.get(), raw(text), &written, raw(plain.data()), static_cast<int>(plain.size())));
  require(EVP_CipherFinal_ex(cipher.get(), raw(text + written), &written));
  require(EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_GCM_GET_TAG, tag_bytes, text + plain.size()));
  return sealed;
}

std::optional<schema::Frame<schema::Answer>> open_answer(std::string_view seal_key,
                                                         std::string_view cache_key,
                                                         std::string_view sealed) {
  if (sealed.size() <= overhead_bytes || sealed[0] != seal_version) return std::nullopt;
  const char* nonce = sealed.data() + 1;
  const std::string_view text = sealed.substr(1 + nonce_bytes, sealed.size() - overhead_bytes);
  std::string tag(sealed.substr(sealed.size() - tag_bytes));
  const Cipher cipher = start(false, seal_key, nonce, cache_key);
  auto plain = std::make_shared<schema::FrameBuffer>(text.size());
  int written = 0;
  require(EVP_CipherUpdate(cipher.get(), raw(plain->data()), &written, raw(text.data()),
                           static_cast<int>(text.size())));
  require(EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_GCM_SET_TAG, tag_bytes, tag.data()));
  if (EVP_CipherFinal_ex(cipher.get(), raw(plain->data() + written), &written) != 1) return std::nullopt;
  if (schema::refuse_frame({plain->data(), plain->size()})) return std::nullopt;
  return schema::Frame<schema::Answer>{std::move(plain)};
}

}  // namespace convoy::actors
