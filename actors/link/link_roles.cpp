#include "actors/link/link_roles.hpp"

#include <algorithm>

namespace convoy::actors {

namespace {

using schema::Role;

struct Rule {
  Role process;   // in its Hello
  uint16_t type;  // of the frame
  Role actor;     // whom the frame is for
};

template <class T>
constexpr Rule rule(Role process, Role actor) {
  return {process, schema::FrameTraits<T>::type_id, actor};
}

// Requests and their answers stay in the head's process in this version, so they are not here. A node may say
// to a stage whatever a stage hears: the head's process runs the pipeline.
constexpr Rule rules[] = {
    rule<schema::Assign>(Role::NODE, Role::STAGE),
    rule<schema::StepPlan>(Role::NODE, Role::STAGE),
    rule<schema::Activations>(Role::NODE, Role::STAGE),
    rule<schema::Activations>(Role::STAGE, Role::STAGE),
    rule<schema::StepResult>(Role::STAGE, Role::STAGE),
    rule<schema::StepResult>(Role::STAGE, Role::PIPELINE),
    rule<schema::EdgeOffer>(Role::STAGE, Role::STAGE),
    rule<schema::EdgeReply>(Role::STAGE, Role::STAGE),
    rule<schema::StageReport>(Role::STAGE, Role::PIPELINE),
    rule<schema::ReplaceStage>(Role::NODE, Role::NODE),
    rule<schema::Shutdown>(Role::NODE, Role::NODE),
    rule<schema::Shutdown>(Role::CLIENT, Role::NODE),
    rule<schema::StatusQuery>(Role::CLIENT, Role::NODE),
    rule<schema::Status>(Role::NODE, Role::CLIENT),
};

}  // namespace

bool may_send(Role process, uint16_t type, Role actor) {
  return std::any_of(std::begin(rules), std::end(rules), [=](const Rule& rule) {
    return rule.process == process && rule.type == type && rule.actor == actor;
  });
}

}  // namespace convoy::actors
