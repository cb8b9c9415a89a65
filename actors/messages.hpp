#pragma once
// The typed interfaces of all actors that others know, on one page. All messages are frames
// (schema/convoy.capnp), near and far: a handle may be a local actor or a remote handle of a link
// (actors/link/link.hpp), and behaves the same. Mail is one-way; answers carry the ids of what they answer.
// Not here: StageReporter, and what the gateway's own messages add to GatewayActor.

#include <caf/all.hpp>

#include "actors/link/peer_identity.hpp"
#include "schema/frame.hpp"

namespace convoy::actors {

using schema::Frame;

struct AddPipeline;  // a replica is there
struct StageUp;      // a stage process linked itself to us (below: all of these are local only)
struct PeerUp;       // any other process did; in a stage's process a stage, too
struct PeerRefused;  // or it did not
struct PeerDown;     // a link ended
struct Drained;      // the head has no more answers under way
struct StepsInFlight;
struct EdgesForming;

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
#undef CONVOY_MESSAGE
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::actors::AddPipeline)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::actors::StageUp)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::actors::PeerUp)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::actors::PeerRefused)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::actors::PeerDown)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::actors::Drained)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::actors::StepsInFlight)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::actors::EdgesForming)

namespace convoy::actors {

namespace msg = schema;

/// The types that may travel to an actor over a link. Link-internal ones (Hello, Lease, …) are not here.
template <class... Ts>
struct TypeList {};
using ActorMessages =
    TypeList<msg::Generate, msg::Accepted, msg::Rejected, msg::Tokens, msg::Finished, msg::StepTokens,
             msg::Cancel, msg::Store, msg::PipelineState, msg::StepPlan, msg::Activations, msg::StepResult,
             msg::Assign, msg::StageReport, msg::EdgeOffer, msg::EdgeReply, msg::ReplaceStage,
             msg::StatusQuery, msg::Status, msg::Shutdown>;

/// Sessions' mailbox on a node: finds the session by request number and posts to it; drops what nobody waits
/// for.
using GatewayActor = caf::typed_actor<caf::reacts_to<Frame<msg::Accepted>>,  // the pipeline took the request
                                      caf::reacts_to<Frame<msg::Rejected>>,  // nobody can take it
                                      caf::reacts_to<Frame<msg::StepTokens>>,  // next tokens of many answers
                                      caf::reacts_to<Frame<msg::Tokens>>,    // the cache's, all of one answer
                                      caf::reacts_to<Frame<msg::Finished>>,  // an answer's end, beside steps
                                      caf::reacts_to<Frame<msg::PipelineState>>>;  // for /readyz and metrics

/// Answers from Redis, or passes the request on to the router.
using CacheActor =
    caf::typed_actor<caf::reacts_to<Frame<msg::Generate>>,  // look up, or delegate to the router
                     caf::reacts_to<Frame<msg::Store>>>;    // keep a complete answer

/// Picks a pipeline.
using RouterActor =
    caf::typed_actor<caf::reacts_to<Frame<msg::Generate>>,  // delegate to a replica, or reject
                     caf::reacts_to<Frame<msg::Cancel>>,    // to all replicas: who does not run it ignores it
                     caf::reacts_to<Frame<msg::PipelineState>>,  // what replicas can take
                     caf::reacts_to<AddPipeline>>;

/// One replica: owns request state, the token log, block tables and the schedule.
using PipelineActor =
    caf::typed_actor<caf::reacts_to<Frame<msg::Generate>>,     // admit or reject
                     caf::reacts_to<Frame<msg::Cancel>>,       // forget it
                     caf::reacts_to<Frame<msg::StepResult>>,   // from the last stage
                     caf::reacts_to<Frame<msg::StageReport>>,  // health and progress of a stage
                     caf::reacts_to<StageUp>,                  // a stage process is there
                     caf::reacts_to<caf::tick_atom>>;          // look at the clock

/// A layer range in its own process.
using StageActor = caf::typed_actor<caf::reacts_to<Frame<msg::Assign>>,       // be this part of this epoch
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

/// Answers for one machine, whose processes its Supervisor keeps alive.
using NodeActor =
    caf::typed_actor<caf::reacts_to<Frame<msg::ReplaceStage>>,   // kill −9 and start anew, or pass it on
                     caf::reacts_to<Frame<msg::StatusQuery>>,    // answered on the link it came by
                     caf::reacts_to<Frame<msg::Shutdown>>,       // end; the head: and the others when drained
                     caf::reacts_to<Frame<msg::PipelineState>>,  // for status
                     caf::reacts_to<PeerUp>,                     // another node, or a client
                     caf::reacts_to<PeerDown>,                   // forget it
                     caf::reacts_to<Drained>>;                   // the other nodes may end

/// The pipelines follow after spawning the router, because they need its handle.
struct AddPipeline {
  PipelineActor pipeline;
};
/// A command-line tool that asks.
using ClientActor = caf::typed_actor<caf::reacts_to<Frame<msg::Status>>>;

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
