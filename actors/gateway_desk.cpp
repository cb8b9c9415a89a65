#include "actors/gateway_desk.hpp"

namespace convoy::actors {

GatewayDeskActor::behavior_type gateway_desk(GatewayDeskActor::stateful_pointer<GatewayDeskState> self) {
  self->set_down_handler([self](const caf::down_msg& down) {
    std::erase_if(self->state.gateways,
                  [&](const auto& entry) { return entry.second.address() == down.source; });
  });
  const auto tell_all = [self](const auto& frame) {
    for (const auto& [node, gateway] : self->state.gateways) self->send(gateway, frame);
  };
  return {
      [self](const GatewayUp& up) {
        self->monitor(up.gateway);
        self->state.gateways[up.node] = up.gateway;
        if (self->state.keys) self->send(up.gateway, self->state.keys);
        if (self->state.terms) self->send(up.gateway, self->state.terms);
      },
      [=](const Frame<msg::GatewayTerms>& frame) {
        self->state.terms = frame;
        tell_all(frame);
      },
      [=](const Frame<msg::GatewayKeys>& frame) {
        self->state.keys = frame;
        tell_all(frame);
      },
  };
}

}  // namespace convoy::actors
