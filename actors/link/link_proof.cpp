#include "actors/link/link_proof.hpp"

#include <openssl/crypto.h>
#include <openssl/rand.h>

#include <cassert>
#include <stdexcept>

#include "actors/process/secret.hpp"
#include "model/error.hpp"

namespace convoy::actors {

namespace {

constexpr size_t nonce_bytes = 32;
const char* const stranger = "whoever is there does not know this cluster's secret";

std::string draw_nonce() {
  std::string nonce(nonce_bytes, '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(nonce.data()), static_cast<int>(nonce.size())) != 1)
    throw std::runtime_error("OpenSSL has no random bytes");
  return nonce;
}

capnp::Data::Reader data_of(const std::string& bytes) {
  return {reinterpret_cast<const kj::byte*>(bytes.data()), bytes.size()};
}

/// Lengths come first, so that no field can pretend to be a part of the next.
void append(std::string& to, std::string_view bytes) {
  const uint64_t size = bytes.size();
  for (int shift = 56; shift >= 0; shift -= 8) to += static_cast<char>(size >> shift);
  to += bytes;
}

}  // namespace

LinkProof::LinkProof(std::string key, End us, std::string address)
    : key_(std::move(key)), us_(us), them_(us == End::connector ? End::acceptor : End::connector) {
  append(said_, address);
}

schema::Frame<schema::Challenge> LinkProof::challenge() {
  schema::FrameBuilder<schema::Challenge> challenge;
  if (us_ == End::connector) {
    connector_nonce_ = draw_nonce();
    challenge->setNonce(data_of(connector_nonce_));
  } else {
    assert(!connector_nonce_.empty());  // theirs came first
    acceptor_nonce_ = draw_nonce();
    append(said_, connector_nonce_);
    append(said_, acceptor_nonce_);
    challenge->setNonce(data_of(acceptor_nonce_));
    challenge->setMac(data_of(mac(us_)));
  }
  return std::move(challenge).finish();
}

std::optional<std::string> LinkProof::refuse_challenge(const schema::Frame<schema::Challenge>& theirs) {
  const schema::Reading challenge(theirs);
  const auto nonce = challenge->getNonce().asChars();
  if (nonce.size() != nonce_bytes) return "a challenge of " + std::to_string(nonce.size()) + " bytes";
  if (us_ == End::acceptor) {
    connector_nonce_.assign(nonce.begin(), nonce.size());
    return std::nullopt;
  }
  assert(!connector_nonce_.empty());  // ours went first
  acceptor_nonce_.assign(nonce.begin(), nonce.size());
  append(said_, connector_nonce_);
  append(said_, acceptor_nonce_);
  if (!is_mac(them_, challenge->getMac())) return stranger;
  return std::nullopt;
}

schema::Frame<schema::Proof> LinkProof::prove(uint16_t type, const schema::FrameBytes& said) {
  note(type, said);
  schema::FrameBuilder<schema::Proof> proof;
  proof->setMac(data_of(mac(us_)));
  return std::move(proof).finish();
}

std::optional<std::string> LinkProof::refuse(uint16_t type, const schema::FrameBytes& said,
                                             const schema::Frame<schema::Proof>& proof) {
  note(type, said);
  if (!is_mac(them_, schema::Reading(proof)->getMac())) return stranger;
  return std::nullopt;
}

void LinkProof::note(uint16_t type, const schema::FrameBytes& said) {
  append(said_, std::to_string(type));
  append(said_, {reinterpret_cast<const char*>(said->data()), said->size()});
}

std::string LinkProof::mac(End whose) const {
  assert(!acceptor_nonce_.empty());
  return hmac_sha256(key_, static_cast<char>(whose) + said_);
}

bool LinkProof::is_mac(End whose, capnp::Data::Reader theirs) const {
  const std::string ours = mac(whose);
  return theirs.size() == ours.size() && CRYPTO_memcmp(theirs.begin(), ours.data(), ours.size()) == 0;
}

std::string link_key(const std::string& secret) {
  if (secret.size() != secret_bytes)
    throw InputError("links need the cluster's secret of " + std::to_string(secret_bytes) + " bytes",
                     "LinkOptions.secret", "read it with load_or_create_secret()");
  return derive_key(secret, "link");
}

}  // namespace convoy::actors
