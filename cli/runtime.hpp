#pragma once
// What every long-running command shares: CAF's settings, signals, limits of the process.

#include <caf/all.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <future>
#include <string>

#include "actors/config/cluster_config.hpp"
#include "actors/link/link.hpp"
#include "actors/process/log_file.hpp"

namespace convoy::cli {

/// The settings that docs/decisions name: policy sharing, 50 messages a turn, at least four workers.
struct ActorSystemConfig : caf::actor_system_config {
  ActorSystemConfig();
};

/// With the cluster's secret, which is made if the run directory has none, and the certificates of a node of
/// a cluster of several machines; of none, what talks to processes of this machine alone. Throws InputError.
actors::LinkOptions link_options(const actors::ClusterConfig& config, const std::string& node);

/// Blocks SIGTERM, SIGINT and SIGHUP for this thread and all that it starts, ignores SIGPIPE; call first in
/// main's thread.
void block_signals();
/// Waits for one of them, so long at most: 0 if none came.
int await_signal(std::chrono::milliseconds timeout);

/// What a node's or a stage's main thread does while others work: tends the log, which SIGHUP reopens, and
/// does that every second, until it returns false or SIGTERM or SIGINT comes.
void tend_until_told(log::LogFile& log, const std::function<bool()>& every_second);

/// Waits until answers have ended and, beside that, `also` holds: for timeout_ms at most, or until this
/// process is told to end once more. process: in the log.
void await_drained(
    const std::string& process, const std::future<void>& answers, uint32_t timeout_ms,
    const std::function<bool()>& also = [] { return true; });

/// Allows this process as many descriptors as it may have, and returns that number.
uint64_t raise_descriptor_limit();

}  // namespace convoy::cli
