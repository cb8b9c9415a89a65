// Who may be what, and who may say what to whom.

#include "actors/link/link_roles.hpp"

#include <boost/test/unit_test.hpp>

namespace {

using namespace convoy;
using namespace convoy::actors;
using schema::FrameTraits;
using schema::Role;

const Places places{"quay",
                    [](const std::string& node, uint32_t instance) {
                      return node == (instance == 0 ? "quay" : "mole") && instance < 3;
                    },
                    [](const std::string& node) { return node == "mole"; }};

bool is_refused(const std::string& node, Role role, uint32_t instance, Role ours = Role::NODE) {
  return refuse_place({.node = node, .role = role, .instance = instance}, ours, places).has_value();
}

template <class T>
bool may(Role process, Role actor, bool of_heads_node) {
  return may_send(process, FrameTraits<T>::type_id, actor, of_heads_node);
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_stage_is_its_own_nodes) {
  BOOST_CHECK(!is_refused("quay", Role::STAGE, 0));
  BOOST_CHECK(!is_refused("mole", Role::STAGE, 1));
  BOOST_CHECK(!is_refused("mole", Role::STAGE, 2, Role::STAGE));
  BOOST_CHECK(is_refused("mole", Role::STAGE, 0));
  BOOST_CHECK(is_refused("quay", Role::STAGE, 1, Role::STAGE));
  BOOST_CHECK(is_refused("mole", Role::STAGE, 3));
  BOOST_CHECK(is_refused("nobody", Role::STAGE, 0));
}

BOOST_AUTO_TEST_CASE(a_stage_takes_no_head_but_the_heads_node) {
  BOOST_CHECK(!is_refused("quay", Role::NODE, 0, Role::STAGE));
  BOOST_CHECK(is_refused("mole", Role::NODE, 0, Role::STAGE));
  BOOST_CHECK(!is_refused("mole", Role::NODE, 0, Role::NODE));  // which links itself to the head
}

BOOST_AUTO_TEST_CASE(a_gateway_is_of_a_node_that_may_have_one) {
  BOOST_CHECK(!is_refused("mole", Role::GATEWAY, 0));
  BOOST_CHECK(is_refused("quay", Role::GATEWAY, 0));  // whose gateway is in the head's process
  BOOST_CHECK(is_refused("nobody", Role::GATEWAY, 0));
  BOOST_CHECK(refuse_place({.node = "mole", .role = Role::GATEWAY}, Role::NODE, {"quay", places.has_stage}));
  // And it takes no head but the head's node.
  BOOST_CHECK(!is_refused("quay", Role::NODE, 0, Role::GATEWAY));
  BOOST_CHECK(is_refused("mole", Role::NODE, 0, Role::GATEWAY));
}

BOOST_AUTO_TEST_CASE(a_gateway_asks_in_its_own_name) {
  const PeerIdentity gateway{.node = "mole", .role = Role::GATEWAY};
  const auto named = [](auto frame, const char* node) {
    frame->initReplyTo().setNode(node);
    return std::move(frame).finish().bytes();
  };
  for (const char* const node : {"mole", "quay", ""}) {
    const bool is_own = std::string(node) == "mole";
    const auto generate = named(schema::FrameBuilder<schema::Generate>(), node);
    const auto cancel = named(schema::FrameBuilder<schema::Cancel>(), node);
    BOOST_CHECK_EQUAL(!refuse_reply_to(gateway, FrameTraits<schema::Generate>::type_id, generate), is_own);
    BOOST_CHECK_EQUAL(!refuse_reply_to(gateway, FrameTraits<schema::Cancel>::type_id, cancel), is_own);
  }
}

BOOST_AUTO_TEST_CASE(places_are_asked_anew_each_time) {
  std::string owner = "mole";
  const Places changing{"quay", [&owner](const std::string& node, uint32_t) { return node == owner; }};
  const PeerIdentity stage{.node = "pier", .role = Role::STAGE, .instance = 7};
  BOOST_CHECK(refuse_place(stage, Role::NODE, changing).has_value());
  owner = "pier";
  BOOST_CHECK(!refuse_place(stage, Role::NODE, changing).has_value());
}

BOOST_AUTO_TEST_CASE(orders_come_from_the_heads_node_alone) {
  for (const bool of_heads_node : {true, false}) {
    BOOST_CHECK_EQUAL(may<schema::Assign>(Role::NODE, Role::STAGE, of_heads_node), of_heads_node);
    BOOST_CHECK_EQUAL(may<schema::StepPlan>(Role::NODE, Role::STAGE, of_heads_node), of_heads_node);
    BOOST_CHECK_EQUAL(may<schema::ReplaceStage>(Role::NODE, Role::NODE, of_heads_node), of_heads_node);
    BOOST_CHECK_EQUAL(may<schema::Shutdown>(Role::NODE, Role::NODE, of_heads_node), of_heads_node);
    BOOST_CHECK_EQUAL(may<schema::Shutdown>(Role::CLIENT, Role::NODE, of_heads_node), of_heads_node);
    // What is no order comes from any node's.
    BOOST_CHECK(may<schema::StageReport>(Role::STAGE, Role::PIPELINE, of_heads_node));
    BOOST_CHECK(may<schema::Activations>(Role::STAGE, Role::STAGE, of_heads_node));
    BOOST_CHECK(may<schema::StatusQuery>(Role::CLIENT, Role::NODE, of_heads_node));
    // Weights are given by the head alone, to whoever has a certificate.
    BOOST_CHECK(may<schema::TensorQuery>(Role::CLIENT, Role::WEIGHTS, of_heads_node));
    BOOST_CHECK_EQUAL(may<schema::TensorPart>(Role::NODE, Role::CLIENT, of_heads_node), of_heads_node);
    BOOST_CHECK_EQUAL(may<schema::ModelOutline>(Role::NODE, Role::CLIENT, of_heads_node), of_heads_node);
    // Any node's gateway asks, the head's node answers.
    BOOST_CHECK(may<schema::Generate>(Role::GATEWAY, Role::CACHE, of_heads_node));
    BOOST_CHECK(may<schema::Store>(Role::GATEWAY, Role::CACHE, of_heads_node));
    BOOST_CHECK(may<schema::Cancel>(Role::GATEWAY, Role::ROUTER, of_heads_node));
    BOOST_CHECK(!may<schema::Generate>(Role::GATEWAY, Role::PIPELINE, of_heads_node));
    BOOST_CHECK(!may<schema::Generate>(Role::STAGE, Role::CACHE, of_heads_node));
    BOOST_CHECK(!may<schema::StepTokens>(Role::STAGE, Role::GATEWAY, of_heads_node));
    BOOST_CHECK_EQUAL(may<schema::StepTokens>(Role::NODE, Role::GATEWAY, of_heads_node), of_heads_node);
    BOOST_CHECK_EQUAL(may<schema::GatewayTerms>(Role::NODE, Role::GATEWAY, of_heads_node), of_heads_node);
    BOOST_CHECK_EQUAL(may<schema::GatewayKeys>(Role::NODE, Role::GATEWAY, of_heads_node), of_heads_node);
    // And what nobody may say, the head's node may not either.
    BOOST_CHECK(!may<schema::Assign>(Role::CLIENT, Role::STAGE, of_heads_node));
    BOOST_CHECK(!may<schema::Generate>(Role::NODE, Role::PIPELINE, of_heads_node));
  }
}
