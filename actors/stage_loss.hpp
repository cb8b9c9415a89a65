#pragma once
// StageLoss: why a stage was given up, as logs, metrics and status name it. Pure.

#include <cstdint>
#include <string>
#include <string_view>

#include "actors/process/child_process.hpp"

namespace convoy::actors {

enum class StageLoss : uint8_t {
  ended,     // its process did: the connection closed
  hung,      // it owes a step for longer than step_timeout_ms, but says that it lives
  frozen,    // its process is stopped
  cut_off,   // its process runs, but nothing comes of it
  silent,    // one of these two: its process cannot be looked at from here
  failed,    // it said so, or what it sent cannot be
  late,      // it did not load in time
  replaced,  // another process came in its place
};
inline constexpr StageLoss stage_losses[] = {StageLoss::ended,   StageLoss::hung,    StageLoss::frozen,
                                             StageLoss::cut_off, StageLoss::silent,  StageLoss::failed,
                                             StageLoss::late,    StageLoss::replaced};

inline const char* name_of(StageLoss loss) {
  constexpr const char* names[] = {"ended",  "hung",   "frozen", "cut off",
                                   "silent", "failed", "late",   "replaced"};
  return names[static_cast<size_t>(loss)];
}

/// Whether what it computed may have been why. Who is cut off or frozen is so by something from outside: what
/// computes is no thread that speaks.
inline bool may_be_by_a_request(StageLoss loss) {
  return loss == StageLoss::ended || loss == StageLoss::hung || loss == StageLoss::failed;
}

/// Of one whose link went down. Only a lease that ended leaves a process behind.
inline StageLoss loss_of_link(std::string_view reason, ProcessState process) {
  if (reason.find("lease") == reason.npos) return StageLoss::ended;
  return process == ProcessState::stopped ? StageLoss::frozen
         : process == ProcessState::runs  ? StageLoss::cut_off
                                          : StageLoss::silent;
}

}  // namespace convoy::actors
