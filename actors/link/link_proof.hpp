#pragma once
// LinkProof: how the two ends of a connection show each other that they know the cluster's secret, before
// either says who it is. Pure but for the drawing of a nonce; called by a link's I/O thread and by tests.
//
//   connector → acceptor   Challenge{nonce}
//   acceptor → connector   Challenge{nonce, mac}       the connector knows now whom it talks to
//   connector → acceptor   Hello, Proof{mac}           and the acceptor, before it reads the Hello
//   acceptor → connector   Hello or HelloRefused, Proof{mac}
//
// Each mac is HMAC-SHA-256 over the direction, the address that was connected to, both nonces and all that
// was said since: it is good on this connection, in this place, from this end alone. Whoever listens at
// another address cannot pass it on, and who does not know the secret learns no name.

#include <optional>
#include <string>

#include "schema/frame.hpp"

namespace convoy::actors {

class LinkProof {
 public:
  enum class End : uint8_t { connector = 1, acceptor = 2 };

  /// key: link_key(secret). address: what the connector connected to.
  LinkProof(std::string key, End us, std::string address);

  /// Our challenge. The connector's comes first; the acceptor's answers it.
  schema::Frame<schema::Challenge> challenge();
  /// Theirs: why it does not show that they know the secret, or nothing. An acceptor learns that only from
  /// the first proof.
  std::optional<std::string> refuse_challenge(const schema::Frame<schema::Challenge>& theirs);

  /// What follows a frame that we say, and says that it is ours.
  schema::Frame<schema::Proof> prove(uint16_t type, const schema::FrameBytes& said);
  /// Why the frame is not from one that knows the secret, or nothing. To be asked before the frame is read.
  std::optional<std::string> refuse(uint16_t type, const schema::FrameBytes& said,
                                    const schema::Frame<schema::Proof>& proof);

 private:
  std::string mac(End whose) const;
  bool is_mac(End whose, capnp::Data::Reader theirs) const;
  void note(uint16_t type, const schema::FrameBytes& said);

  const std::string key_;
  const End us_, them_;
  std::string connector_nonce_, acceptor_nonce_;
  std::string said_;  // all that the macs cover so far
};

/// The key of a cluster's link proofs. Throws InputError if there is no secret.
std::string link_key(const std::string& secret);

}  // namespace convoy::actors
