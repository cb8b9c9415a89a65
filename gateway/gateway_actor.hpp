#pragma once
// The gateway actor: takes the cluster's mail for sessions. On the gateway's I/O threads an answer's mailbox
// is found by its request number; what nobody waits for is dropped, and cancelled where a pipeline only now
// begins with it. The actor never blocks, and may run on the links' thread.

#include <cstdint>
#include <memory>
#include <string>

#include "actors/messages.hpp"
#include "gateway/mailbox.hpp"
#include "gateway/readiness.hpp"

namespace convoy::gateway {

/// session → gateway actor, before it mails Generate: answers with this number are mine.
struct OpenMailbox {
  uint64_t request = 0;
  std::shared_ptr<Mailbox> mailbox;
};
/// session → gateway actor: no more. If the answer is to be cancelled, the Cancel goes to the router after
/// this: whatever the pipeline accepts later than the Cancel then finds its mailbox closed, and is cancelled
/// again.
struct CloseMailbox {
  uint64_t request = 0;
};
/// gateway → gateway actor, once: when cache or router goes down, all open answers are lost.
struct ServeFrom {
  asio::any_io_executor executor;  // of the gateway's I/O threads
  actors::CacheActor cache;
  actors::RouterActor router;
};
/// gateway → gateway actor, last of all, when no I/O thread runs: forget every mailbox and end. Ordinary
/// mail, so that nothing that was sent before it can be left over (an exit message would overtake).
struct Retire {};

}  // namespace convoy::gateway

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::gateway::OpenMailbox)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::gateway::CloseMailbox)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::gateway::ServeFrom)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::gateway::Retire)

namespace convoy::gateway {

/// What the cluster sees (actors::GatewayActor), and what this folder adds.
using MailroomActor = actors::GatewayActor::extend<caf::reacts_to<OpenMailbox>, caf::reacts_to<CloseMailbox>,
                                                   caf::reacts_to<ServeFrom>, caf::reacts_to<Retire>>;

/// node: the one that requests name in their replyTo.
MailroomActor spawn_gateway_actor(caf::actor_system& system, std::string node,
                                  std::shared_ptr<Readiness> readiness);

/// Tells the pipelines, through the router, that nobody waits for this request any more.
void cancel(const actors::RouterActor& router, const std::string& node, uint64_t request);

}  // namespace convoy::gateway
