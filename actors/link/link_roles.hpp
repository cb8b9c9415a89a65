#pragma once
// Who may be what, and who may say what to whom over links: one table. Asked by a link's I/O thread for each
// Hello and for each frame that came. Pure.

#include <functional>
#include <optional>
#include <string>

#include "actors/link/peer_identity.hpp"
#include "schema/frame.hpp"

namespace convoy::actors {

/// Whose the places in the cluster are, as far as this process knows. They may change: asked anew for each
/// Hello, on the I/O thread.
struct Places {
  std::string head;  // the node that the head belongs to
  std::function<bool(const std::string& node, uint32_t instance)> has_stage;
  std::function<bool(const std::string& node)> has_gateway = {};  // beside the head's own; null: none has
};

/// Why a process of the node that its certificate names cannot be what it says it is, towards a process of
/// the role `ours`; or nothing.
std::optional<std::string> refuse_place(const PeerIdentity& peer, schema::Role ours, const Places& places);

/// Whether a process of that role may send frames of that type to an actor of that role. of_heads_node: it
/// belongs to the node of the head, which alone gives orders.
bool may_send(schema::Role process, uint16_t type, schema::Role actor, bool of_heads_node = true);

/// Why a frame of a gateway's process may not pass although may_send() says yes, or nothing: answers to what
/// it asks go to its own node. Throws kj::Exception if the bytes are malformed.
std::optional<std::string> refuse_reply_to(const PeerIdentity& peer, uint16_t type,
                                           const schema::FrameBytes& bytes);

}  // namespace convoy::actors
