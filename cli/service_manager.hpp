#pragma once
// ServiceManager: what a service manager such as systemd wants to hear of the process that it started: that
// it is ready, alive, ending. Who was started by none says nothing. The protocol is one datagram a message
// (man 3 sd_notify), whose page invites to speak it without libsystemd. The main thread's.

#include <chrono>
#include <string>
#include <string_view>

namespace convoy::cli {

class ServiceManager {
 public:
  /// Reads what the environment says, and takes it out of there: no child speaks for this process.
  ServiceManager();

  /// status: what `systemctl status` shows.
  void ready(const std::string& status) const;
  void stopping() const { say("STOPPING=1"); }
  /// It restarts who has not said so for watchdog_period().
  void alive() const { say("WATCHDOG=1"); }
  /// Zero: it does not watch.
  std::chrono::microseconds watchdog_period() const { return watchdog_period_; }

 private:
  void say(std::string_view message) const;

  std::string address_;  // as sockaddr_un has it; empty: nobody listens
  std::chrono::microseconds watchdog_period_{0};
};

}  // namespace convoy::cli
