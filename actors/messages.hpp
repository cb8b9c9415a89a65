#pragma once
// The typed interfaces of all actors that others know, on one page. All messages are frames
// (schema/convoy.capnp), near and far: a handle may be a local actor or a remote handle of a link
// (actors/link/link.hpp), and behaves the same. Mail is one-way; answers carry the ids of what they answer.
// Not here: StageReporter, and what the gateway's own messages add to GatewayActor.

#include <caf/all.hpp>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "actors/link/peer_identity.hpp"
#include "actors/members.hpp"
#include "schema/frame.hpp"

namespace convoy::actors {

using schema::Frame;

struct AddPipeline;  // a replica is there
struct GatewayUp;    // a gateway of another process is there
struct AddNode;      // a node joins with a token
struct StageUp;      // a stage process linked itself to us (below: all of these are local only)
struct PeerUp;       // any other process did; in a stage's process a stage, too
struct PeerRefused;  // or it did not
struct PeerDown;     // a link ended
struct Drained;      // the head has no more answers under way
struct StepsInFlight;
struct EdgesForming;
struct FetchLayers;   // weights, in a stage's process without the model
struct FetchReport;   // how that goes
struct ModelDigest;   // it is known
struct TensorHashed;  // and that of one tensor

}  // namespace convoy::actors

// Frames are immutable and shared: CAF passes them by reference count and never serialises them.
#define CONVOY_MESSAGE(T) CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::schema::Frame<convoy::schema::T>)
CONVOY_MESSAGE(Generate)
CONVOY_MESSAGE(Accepted)
CONVOY_MESSAGE(Rejected)
CONVOY_MESSAGE(Tokens)
CONVOY_MESSAGE(Finished)
CONVOY_MESSAGE(StepTokens)
CONVOY_MESSAGE(Cancel)
CONVOY_MESSAGE(Store)
CONVOY_MESSAGE(PipelineState)
CONVOY_MESSAGE(StepPlan)
CONVOY_MESSAGE(Activations)
CONVOY_MESSAGE(StepResult)
CONVOY_MESSAGE(Assign)
CONVOY_MESSAGE(StageReport)
CONVOY_MESSAGE(EdgeOffer)
CONVOY_MESSAGE(EdgeReply)
CONVOY_MESSAGE(ReplaceStage)
CONVOY_MESSAGE(StatusQuery)
CONVOY_MESSAGE(Status)
CONVOY_MESSAGE(Shutdown)
CONVOY_MESSAGE(KeepStages)
CONVOY_MESSAGE(MemberCommand)
CONVOY_MESSAGE(MemberReply)
CONVOY_MESSAGE(NodeProblem)
CONVOY_MESSAGE(OutlineQuery)
CONVOY_MESSAGE(ModelOutline)
CONVOY_MESSAGE(TensorQuery)
CONVOY_MESSAGE(TensorPart)
CONVOY_MESSAGE(Prepare)
CONVOY_MESSAGE(GatewayTerms)
CONVOY_MESSAGE(GatewayKeys)
CONVOY_MESSAGE(GatewayState)
#undef CONVOY_MESSAGE
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::actors::AddPipeline)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::actors::GatewayUp)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::actors::AddNode)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::actors::StageUp)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::actors::PeerUp)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::actors::PeerRefused)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::actors::PeerDown)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::actors::Drained)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::actors::StepsInFlight)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::actors::EdgesForming)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::actors::FetchLayers)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::actors::FetchReport)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::actors::ModelDigest)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::actors::TensorHashed)

namespace convoy::actors {

namespace msg = schema;

/// The types that may travel to an actor over a link. Link-internal ones (Hello, Lease, …) are not here.
template <class... Ts>
struct TypeList {};
using ActorMessages =
    TypeList<msg::Generate, msg::Accepted, msg::Rejected, msg::Tokens, msg::Finished, msg::StepTokens,
             msg::Cancel, msg::Store, msg::PipelineState, msg::StepPlan, msg::Activations, msg::StepResult,
             msg::Assign, msg::StageReport, msg::EdgeOffer, msg::EdgeReply, msg::ReplaceStage,
             msg::StatusQuery, msg::Status, msg::Shutdown, msg::KeepStages, msg::MemberCommand,
             msg::MemberReply, msg::NodeProblem, msg::OutlineQuery, msg::ModelOutline, msg::TensorQuery,
             msg::TensorPart, msg::Prepare, msg::GatewayTerms, msg::GatewayKeys, msg::GatewayState>;

/// Sessions' mailbox on a node: finds the session by request number and posts to it; drops what nobody waits
/// for.
using GatewayActor = caf::typed_actor<caf::reacts_to<Frame<msg::Accepted>>,  // the pipeline took the request
                                      caf::reacts_to<Frame<msg::Rejected>>,  // nobody can take it
                                      caf::reacts_to<Frame<msg::StepTokens>>,  // next tokens of many answers
                                      caf::reacts_to<Frame<msg::Tokens>>,    // the cache's, all of one answer
                                      caf::reacts_to<Frame<msg::Finished>>,  // an answer's end, beside steps
                                      caf::reacts_to<Frame<msg::PipelineState>>,  // for /readyz and metrics
                                      // In a process of its own, from the head:
                                      caf::reacts_to<Frame<msg::GatewayTerms>>,  // what shapes answers
                                      caf::reacts_to<Frame<msg::GatewayKeys>>,   // which API keys count
                                      caf::reacts_to<Frame<msg::Shutdown>>>;     // end, when answers have

/// By node: where the answers to a ReplyTo go.
using GatewaysByNode = std::map<std::string, GatewayActor, std::less<>>;

/// Answers from Redis, or passes the request on to the router.
using CacheActor =
    caf::typed_actor<caf::reacts_to<Frame<msg::Generate>>,  // look up, or delegate to the router
                     caf::reacts_to<Frame<msg::Store>>,     // keep a complete answer
                     caf::reacts_to<GatewayUp>>;            // who may ask too

/// In the head's process: tells gateways of other processes what they must know.
using GatewayDeskActor = caf::typed_actor<caf::reacts_to<GatewayUp>,                 // another one
                                          caf::reacts_to<Frame<msg::GatewayTerms>>,  // by which all serve
                                          caf::reacts_to<Frame<msg::GatewayKeys>>>;  // that count at all

/// Picks a pipeline of those that serve a request's model.
using RouterActor =
    caf::typed_actor<caf::reacts_to<Frame<msg::Generate>>,       // delegate to a replica, or reject
                     caf::reacts_to<Frame<msg::Cancel>>,         // to the one that accepted it, or to all
                     caf::reacts_to<Frame<msg::PipelineState>>,  // what replicas can take
                     caf::reacts_to<AddPipeline>,
                     caf::reacts_to<GatewayUp>>;  // who may ask too

/// One replica: owns request state, the token log, block tables and the schedule.
using PipelineActor =
    caf::typed_actor<caf::reacts_to<Frame<msg::Generate>>,       // admit or reject
                     caf::reacts_to<Frame<msg::Cancel>>,         // forget it
                     caf::reacts_to<Frame<msg::StepResult>>,     // from the last stage
                     caf::reacts_to<Frame<msg::StageReport>>,    // health and progress of a stage
                     caf::reacts_to<StageUp>,                    // a stage process is there
                     caf::reacts_to<GatewayUp>,                  // a gateway process is there
                     caf::reacts_to<Frame<msg::MemberCommand>>,  // who belongs to the cluster
                     caf::reacts_to<AddNode>,                    // the same, from a thread that waits
                     caf::reacts_to<caf::tick_atom>>;            // look at the clock

/// A layer range in its own process.
using StageActor = caf::typed_actor<caf::reacts_to<Frame<msg::Assign>>,       // be this part of this epoch
                                    caf::reacts_to<Frame<msg::Prepare>>,      // be that in the next one
                                    caf::reacts_to<FetchReport>,              // weights come, or are there
                                    caf::reacts_to<Frame<msg::StepPlan>>,     // from the pipeline
                                    caf::reacts_to<Frame<msg::Activations>>,  // from the stage before
                                    caf::reacts_to<Frame<msg::StepResult>>,   // to the first, from the last
                                    caf::reacts_to<Frame<msg::EdgeOffer>>,    // from the stage before
                                    caf::reacts_to<Frame<msg::EdgeReply>>,    // from the next one
                                    caf::reacts_to<PeerUp>,           // the head node or another stage
                                    caf::reacts_to<PeerRefused>,      // the next stage
                                    caf::reacts_to<StepsInFlight>,    // from itself: is one done?
                                    caf::reacts_to<EdgesForming>,     // from itself: are they up?
                                    caf::reacts_to<caf::tick_atom>>;  // try the next stage again

/// In the head's process: gives weights to machines that have not the model's files.
using WeightServerActor = caf::typed_actor<caf::reacts_to<Frame<msg::OutlineQuery>>,  // what model is it?
                                           caf::reacts_to<Frame<msg::TensorQuery>>,   // bytes, or a digest
                                           caf::reacts_to<ModelDigest>, caf::reacts_to<TensorHashed>>;

/// In the process of a stage whose machine has them not: fetches what its layers lack.
using WeightFetcherActor =
    caf::typed_actor<caf::reacts_to<Frame<msg::ModelOutline>>, caf::reacts_to<Frame<msg::TensorPart>>,
                     caf::reacts_to<FetchLayers>,      // from the stage; the last one counts
                     caf::reacts_to<PeerUp>,           // the head
                     caf::reacts_to<PeerDown>,         // it is gone
                     caf::reacts_to<caf::tick_atom>>;  // look at the clock

/// Answers for one machine, whose processes its Supervisor keeps alive.
using NodeActor =
    caf::typed_actor<caf::reacts_to<Frame<msg::ReplaceStage>>,   // kill −9 and start anew, or pass it on
                     caf::reacts_to<Frame<msg::KeepStages>>,     // run so many
                     caf::reacts_to<Frame<msg::MemberCommand>>,  // passed on to the pipeline
                     caf::reacts_to<Frame<msg::NodeProblem>>,    // its own, or to the head another's
                     caf::reacts_to<Frame<msg::MemberReply>>,    // passed on to the client
                     caf::reacts_to<Frame<msg::StatusQuery>>,    // answered on the link it came by
                     caf::reacts_to<Frame<msg::Shutdown>>,       // end; the head: and the others when drained
                     caf::reacts_to<Frame<msg::PipelineState>>,  // for status
                     caf::reacts_to<Frame<msg::GatewayState>>,   // as well
                     caf::reacts_to<PeerUp>,                     // another node, a gateway or a client
                     caf::reacts_to<PeerDown>,                   // forget it
                     caf::reacts_to<Drained>,                    // the other nodes may end
                     caf::reacts_to<caf::tick_atom>>;            // are you there?

/// The pipelines follow after spawning the router, because they need its handle.
struct AddPipeline {
  std::string name, model;  // the model's id
  PipelineActor pipeline;
};
/// A command-line tool that asks.
using ClientActor =
    caf::typed_actor<caf::reacts_to<Frame<msg::Status>>, caf::reacts_to<Frame<msg::MemberReply>>>;

struct AddNode {
  MemberCommand command;
  std::shared_ptr<std::promise<std::optional<std::string>>> refused;  // why; nothing: it is done, and kept
};
/// gateway: a handle of the link, down when that ends. A later one of the same node takes its place.
struct GatewayUp {
  std::string node;
  GatewayActor gateway;
};
struct StageUp {
  PeerIdentity peer;
  StageActor stage;
};
struct PeerUp {
  PeerIdentity peer;
};
struct PeerRefused {
  std::string address, reason;
};
struct PeerDown {
  PeerIdentity peer;
  std::string reason;
};

struct Drained {};

/// A stage's device still has steps.
struct StepsInFlight {};
/// A stage's device still looks for the other ends of its edges.
struct EdgesForming {};

struct FetchLayers {
  StageActor stage;  // whom to tell
  model::LayerRange layers;
};
/// Sent now and then while there is something to fetch, and when all of it is there.
struct FetchReport {
  model::LayerRange layers;
  bool done = false;
  uint64_t progress = 0;  // grows with what comes
  std::string text;       // how far it is, or what keeps it; empty once it is done
};
struct ModelDigest {
  std::string digest;
};
struct TensorHashed {
  std::string name, digest;  // no digest: the file cannot be read, for that reason
  std::string reason;
};

/// Ends actors, one after the other, and waits until each has ended. Empty handles are passed over. Not from
/// an actor.
template <class... Handles>
void end_and_wait(caf::actor_system& system, const Handles&... handles) {
  caf::scoped_actor self(system);
  const auto end = [&self](const auto& handle) {
    if (!handle) return;
    self->send_exit(handle, caf::exit_reason::user_shutdown);
    self->wait_for(handle);
  };
  (end(handles), ...);
}

/// Sends one frame without a sender: what code outside actors (HTTP sessions, the cache's I/O thread,
/// commands) uses.
template <class Handle, class T>
void mail(const Handle& to, Frame<T> frame) {
  caf::anon_send(to, std::move(frame));
}

}  // namespace convoy::actors
