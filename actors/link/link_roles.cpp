#include "actors/link/link_roles.hpp"

#include <algorithm>

namespace convoy::actors {

namespace {

using schema::Role;

enum class From : uint8_t { any_node, heads_node };

struct Rule {
  Role process;   // in its Hello
  uint16_t type;  // of the frame
  Role actor;     // whom the frame is for
  From from;
};

template <class T>
constexpr Rule rule(Role process, Role actor, From from = From::any_node) {
  return {process, schema::FrameTraits<T>::type_id, actor, from};
}

/// What only the head's node may say: its process and the head's, and commands given there.
template <class T>
constexpr Rule order(Role process, Role actor) {
  return rule<T>(process, actor, From::heads_node);
}

// The head's process, which runs cache, router and pipeline, says to a stage whatever a stage hears, and to a
// gateway what its sessions wait for.
constexpr Rule rules[] = {
    order<schema::Assign>(Role::NODE, Role::STAGE),
    order<schema::Prepare>(Role::NODE, Role::STAGE),
    order<schema::StepPlan>(Role::NODE, Role::STAGE),
    order<schema::Activations>(Role::NODE, Role::STAGE),
    rule<schema::Activations>(Role::STAGE, Role::STAGE),
    rule<schema::StepResult>(Role::STAGE, Role::STAGE),
    rule<schema::StepResult>(Role::STAGE, Role::PIPELINE),
    rule<schema::EdgeOffer>(Role::STAGE, Role::STAGE),
    rule<schema::EdgeReply>(Role::STAGE, Role::STAGE),
    rule<schema::StageReport>(Role::STAGE, Role::PIPELINE),
    order<schema::ReplaceStage>(Role::NODE, Role::NODE),
    order<schema::Shutdown>(Role::NODE, Role::NODE),
    order<schema::Shutdown>(Role::CLIENT, Role::NODE),
    order<schema::KeepStages>(Role::NODE, Role::NODE),
    rule<schema::NodeProblem>(Role::NODE, Role::NODE),
    order<schema::MemberCommand>(Role::CLIENT, Role::NODE),
    order<schema::MemberReply>(Role::NODE, Role::CLIENT),
    rule<schema::StatusQuery>(Role::CLIENT, Role::NODE),
    order<schema::Status>(Role::NODE, Role::CLIENT),
    rule<schema::OutlineQuery>(Role::CLIENT, Role::WEIGHTS),
    rule<schema::TensorQuery>(Role::CLIENT, Role::WEIGHTS),
    order<schema::ModelOutline>(Role::NODE, Role::CLIENT),
    order<schema::TensorPart>(Role::NODE, Role::CLIENT),
    rule<schema::Generate>(Role::GATEWAY, Role::CACHE),
    rule<schema::Store>(Role::GATEWAY, Role::CACHE),
    rule<schema::Cancel>(Role::GATEWAY, Role::ROUTER),
    rule<schema::GatewayState>(Role::GATEWAY, Role::NODE),
    order<schema::Accepted>(Role::NODE, Role::GATEWAY),
    order<schema::Rejected>(Role::NODE, Role::GATEWAY),
    order<schema::StepTokens>(Role::NODE, Role::GATEWAY),
    order<schema::Tokens>(Role::NODE, Role::GATEWAY),
    order<schema::Finished>(Role::NODE, Role::GATEWAY),
    order<schema::PipelineState>(Role::NODE, Role::GATEWAY),
    order<schema::GatewayTerms>(Role::NODE, Role::GATEWAY),
    order<schema::GatewayKeys>(Role::NODE, Role::GATEWAY),
    order<schema::Shutdown>(Role::NODE, Role::GATEWAY),
};

template <class T>
std::optional<std::string> refuse_of(const PeerIdentity& peer, const schema::FrameBytes& bytes) {
  const schema::Frame<T> frame(bytes);
  const schema::Reading<T> asked(frame);
  const std::string node = asked->getReplyTo().getNode();
  if (node == peer.node) return std::nullopt;
  return "asks in the name of node " + node;
}

}  // namespace

std::optional<std::string> refuse_place(const PeerIdentity& peer, Role ours, const Places& places) {
  if (peer.role == Role::STAGE && !places.has_stage(peer.node, peer.instance))
    return "stage " + std::to_string(peer.instance) + " is not one of node " + peer.node;
  if (peer.role == Role::GATEWAY && (!places.has_gateway || !places.has_gateway(peer.node)))
    return "node " + peer.node + " has no role \"gateway\"";
  // What links itself to a stage or a gateway as a node is its head from then on.
  if (peer.role == Role::NODE && (ours == Role::STAGE || ours == Role::GATEWAY) && peer.node != places.head)
    return "the head belongs to node " + places.head + ", not to " + peer.node;
  return std::nullopt;
}

std::optional<std::string> refuse_reply_to(const PeerIdentity& peer, uint16_t type,
                                           const schema::FrameBytes& bytes) {
  if (peer.role != Role::GATEWAY) return std::nullopt;
  if (type == schema::FrameTraits<schema::Generate>::type_id) return refuse_of<schema::Generate>(peer, bytes);
  if (type == schema::FrameTraits<schema::Cancel>::type_id) return refuse_of<schema::Cancel>(peer, bytes);
  return std::nullopt;
}

bool may_send(Role process, uint16_t type, Role actor, bool of_heads_node) {
  return std::any_of(std::begin(rules), std::end(rules), [=](const Rule& rule) {
    return rule.process == process && rule.type == type && rule.actor == actor &&
           (of_heads_node || rule.from == From::any_node);
  });
}

}  // namespace convoy::actors
