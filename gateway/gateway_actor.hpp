#pragma once
// The gateway actor: takes the cluster's mail for sessions. On the gateway's I/O threads an answer's mailbox
// is found by its request number; what nobody waits for is dropped, and cancelled where a pipeline only now
// begins with it. The actor never blocks, and may run on the links' thread.

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "actors/messages.hpp"
#include "gateway/cluster_reach.hpp"
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
/// session → gateway actor: the cluster refused for now what was asked anew. ClusterServes comes once more.
struct AwaitCluster {
  uint64_t request = 0;
};
/// gateway → gateway actor, once. When cache or router goes down, all open answers are lost; null: a link
/// says what becomes of them.
struct ServeFrom {
  asio::any_io_executor executor;  // of the gateway's I/O threads
  actors::CacheActor cache;
  actors::RouterActor router;
};
/// link → gateway actor, behind all that came over it: what was asked for is forgotten there.
struct HeadAway {
  std::string reason;
};
/// link → gateway actor, before anything that comes over it: a head is linked. Requests go there once it has
/// said its terms, and are asked anew once a pipeline takes some.
struct HeadUp {
  actors::CacheActor cache;
  actors::RouterActor router;
};
/// gateway → gateway actor, last of all, when no I/O thread runs: forget every mailbox and end. Ordinary
/// mail, so that nothing that was sent before it can be left over (an exit message would overtake).
struct Retire {};

}  // namespace convoy::gateway

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::gateway::OpenMailbox)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::gateway::CloseMailbox)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::gateway::AwaitCluster)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::gateway::ServeFrom)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::gateway::HeadAway)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::gateway::HeadUp)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::gateway::Retire)

namespace convoy::gateway {

/// What the cluster sees (actors::GatewayActor), and what this folder adds.
using MailroomActor =
    actors::GatewayActor::extend<caf::reacts_to<OpenMailbox>, caf::reacts_to<CloseMailbox>,
                                 caf::reacts_to<AwaitCluster>, caf::reacts_to<ServeFrom>,
                                 caf::reacts_to<HeadUp>, caf::reacts_to<HeadAway>, caf::reacts_to<Retire>>;

/// What the head says to a gateway of another process beside answers. Called by the gateway actor: must not
/// block. Empty in the head's own process.
struct HeadSays {
  /// Whether this gateway may serve by them. Said again when they change.
  std::function<bool(const actors::Frame<schema::GatewayTerms>&)> terms;
  std::function<void(const actors::Frame<schema::GatewayKeys>&)> keys;
  std::function<void()> shut_down;
};

/// A gateway's end of what connects it with the cluster. In a process of its own it is there before the
/// gateway, since the head says what that is to serve.
struct Line {
  std::shared_ptr<Readiness> readiness;
  std::shared_ptr<ClusterReach> reach;
  MailroomActor mailroom;
  bool outlives_head = false;  // in a process of its own
};

/// node: the one that requests name in their replyTo. models: the ids of all that are served, if that is
/// known yet. says: as for a process of its own, where nobody is there before a head's terms.
Line open_line(caf::actor_system& system, std::string node, std::chrono::milliseconds readiness_period,
               std::vector<std::string> models, std::optional<HeadSays> says = {});

}  // namespace convoy::gateway
