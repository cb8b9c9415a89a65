#include "cli/actor_watch.hpp"

#include <unistd.h>

#include <csignal>

#include "actors/process/log.hpp"

namespace convoy::cli {

void ActorWatch::ended(const char* name, const caf::error& reason) {
  if (let_go_) return;
  log::error("process.actor_lost", {{"actor", name}, {"reason", caf::to_string(reason)}});
  lost_ = true;
  kill(getpid(), SIGTERM);
}

}  // namespace convoy::cli
