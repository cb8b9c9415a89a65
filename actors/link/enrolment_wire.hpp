#pragma once
// What a machine that joins and the head say to each other, in TLS, on the links' port, before the machine
// has a certificate:
//
//   machine → head   Enrol, Proof{mac}
//   head → machine   Enrolled, Proof{mac}    or EnrolRefused
//
// A mac is HMAC-SHA-256 over the direction, a key that only the two ends of this connection have, and the
// frame before it; its key is the token's verifier, which both have and nobody in between. So the secret
// itself travels to nobody, and a machine knows that it was the head that answered. Pure.

#include <string>

#include "schema/frame.hpp"

namespace convoy::actors {

// The head reads as much as of a Hello (wire::hello_bytes_max).
inline constexpr uint64_t enrolled_bytes_max = 2 << 20;  // a cluster.conf of 1 MiB, and certificates
inline constexpr size_t enrol_text_bytes_max = 256;      // of a name, an address, a reason
inline constexpr size_t enrol_request_bytes_max = 2048;
inline constexpr uint32_t enrol_stages_max = 1024;

enum class EnrolEnd : uint8_t { machine = 1, head = 2 };

/// connection_key: LinkConnection::shared_key().
schema::Frame<schema::Proof> prove_enrolment(const std::string& verifier, EnrolEnd whose,
                                             const std::string& connection_key,
                                             const schema::FrameBytes& said);
/// In constant time. Throws kj::Exception if the proof is malformed.
bool is_proved(const std::string& verifier, EnrolEnd whose, const std::string& connection_key,
               const schema::FrameBytes& said, const schema::FrameBytes& proof);

struct EnrolRequest {
  std::string token_id, node, request, listen;
  uint32_t stages = 0;
  std::string pipeline = {};  // that they serve; empty: the cluster's first
  std::string http = {};      // HOST:PORT of its gateway; empty: it will run none
};
schema::Frame<schema::Enrol> encode(const EnrolRequest& request);
/// Throws kj::Exception if the bytes are malformed, InputError if they say what nobody may.
EnrolRequest read_enrol(const schema::FrameBytes& bytes);

struct EnrolAnswer {
  std::string certificate, authority, revocations, configuration;
};
schema::Frame<schema::Enrolled> encode(const EnrolAnswer& answer);
/// Throws kj::Exception if the bytes are malformed.
EnrolAnswer read_enrolled(const schema::FrameBytes& bytes);

using EnrolReason = schema::EnrolRefused::Reason;
struct EnrolRefusal {
  EnrolReason reason = EnrolReason::FAILED;
  std::string text;  // what is wrong, and how to mend it
};
schema::Frame<schema::EnrolRefused> encode(const EnrolRefusal& refusal);
/// The text printable, whatever was sent. Throws kj::Exception if the bytes are malformed.
EnrolRefusal read_enrol_refused(const schema::FrameBytes& bytes);

}  // namespace convoy::actors
