#pragma once
// PeerIdentity: who a process is, for its Hello and for whoever is linked with it. A plain value.

#include <cstdint>
#include <string>

#include "schema/convoy.capnp.h"

namespace convoy::actors {

struct PeerIdentity {
  std::string node;
  schema::Role role = schema::Role::NODE;  // node, stage or client
  uint32_t instance = 0;
  uint64_t incarnation = 0;
  int32_t pid = 0;
  std::string kernel_variant;
  std::string device;  // gpu::PlacedDevice::text() of a stage
  // Of a stage's gpu::DeviceFacts, and the machine that it is on.
  schema::HiddenForm hidden_form = schema::HiddenForm::FLOAT32;
  std::string machine, card;
  bool edges = false;
  std::string model;     // digest of what a stage computes with; of a head, of what its stages must
  std::string settings;  // what else shapes answers, as text
  std::string listen_host;
  uint16_t listen_port = 0;
};

}  // namespace convoy::actors
