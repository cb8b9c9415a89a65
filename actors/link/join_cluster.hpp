#pragma once
// The side of enrolment that joins: asks a cluster's head for a certificate, with a token. Called by `convoy
// join`, on its main thread; every wait is bounded.

#include <chrono>
#include <string>

#include "actors/link/enrolment_wire.hpp"
#include "actors/link/join_token.hpp"

namespace convoy::actors {

struct JoinOrder {
  std::string host;  // the head's, in numbers
  uint16_t port = 0;
  JoinToken token;
  std::string node;
  std::string listen;  // HOST:PORT; no HOST: the address from which the head is reached
  uint32_t stages = 1;
  std::string pipeline = {};  // that they serve; empty: the cluster's first
  std::string http = {};      // HOST:PORT of its gateway; empty: none
  std::chrono::milliseconds timeout{15'000};
};

struct Joined {
  /// Why there is nothing else: the head could not be reached, or was none (`failed`), or said no
  /// (`refused`).
  std::string failed, refused;
  std::string key, certificate, authority, revocations, configuration, listen;
};

/// What the head gave is checked: a certificate of its authority, which the token names, of that node and of
/// the key that was made here, in the cluster of that configuration.
Joined join_cluster(const JoinOrder& order);

}  // namespace convoy::actors
