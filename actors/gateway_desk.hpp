#pragma once
// GatewayDesk: tells gateways of other processes what they must know, when they are linked and when it
// changes. In the head's process.

#include "actors/messages.hpp"

namespace convoy::actors {

struct GatewayDeskState {
  GatewaysByNode gateways;  // linked now
  Frame<msg::GatewayTerms> terms;
  Frame<msg::GatewayKeys> keys;  // none: nobody is asked for one
  static inline const char* name = "gateway_desk";
};

GatewayDeskActor::behavior_type gateway_desk(GatewayDeskActor::stateful_pointer<GatewayDeskState> self);

}  // namespace convoy::actors
