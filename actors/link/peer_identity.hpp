#pragma once
// PeerIdentity: who a process is, for its Hello and for whoever is linked with it. A plain value.

#include <cstdint>
#include <string>

#include "schema/convoy.capnp.h"

namespace convoy::actors {

struct PeerIdentity {
  std::string node;
  schema::Role role = schema::Role::NODE;  // node, stage, gateway or client
  uint32_t instance = 0;
  uint64_t incarnation = 0;
  int32_t pid = 0;
  std::string kernel_variant;
  std::string device;  // gpu::PlacedDevice::text() of a stage
  // Of a stage's gpu::DeviceFacts, and the machine that it is on.
  schema::HiddenForm hidden_form = schema::HiddenForm::FLOAT32;
  std::string machine, card;
  bool edges = false;
  uint64_t memory_bytes = 0;  // of that card, or machine, for processes of the cluster; 0: not known
  std::string model;          // digest of what a stage computes with; of a head, of what its stages must
  std::string settings;       // what else shapes answers, as text
  std::string listen_host;
  uint16_t listen_port = 0;
  std::string version;   // of its program
  std::string pipeline;  // that a stage's node serves; empty: the cluster's first
  // Not said but seen: Unix time at which the certificate that it showed ends; 0: it showed none.
  int64_t certificate_until_s = 0;
  bool here = false;  // as well: on this machine, by its Unix-domain socket
};

}  // namespace convoy::actors
