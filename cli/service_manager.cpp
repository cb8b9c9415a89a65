#include "cli/service_manager.hpp"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "actors/process/log.hpp"

namespace convoy::cli {

namespace {

std::string taken(const char* variable) {
  const char* const value = std::getenv(variable);
  std::string text = value ? value : "";
  ::unsetenv(variable);
  return text;
}

/// Zero if it is no number.
int64_t number(const std::string& text) {
  int64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

}  // namespace

ServiceManager::ServiceManager() : address_(taken("NOTIFY_SOCKET")) {
  const std::string period_us = taken("WATCHDOG_USEC"), of = taken("WATCHDOG_PID");
  if (of.empty() || number(of) == getpid()) watchdog_period_ = std::chrono::microseconds(number(period_us));
  if (!address_.empty() && address_[0] == '@') address_[0] = '\0';  // an abstract one
}

void ServiceManager::ready(const std::string& status) const { say("READY=1\nSTATUS=" + status); }

void ServiceManager::say(std::string_view message) const {
  if (address_.empty()) return;
  sockaddr_un to{};
  to.sun_family = AF_UNIX;
  const bool fits = address_.size() < sizeof to.sun_path;
  if (fits) std::memcpy(to.sun_path, address_.data(), address_.size());
  const int socket = fits ? ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0) : -1;
  const auto bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + address_.size());
  const bool said = socket >= 0 && ::sendto(socket, message.data(), message.size(), MSG_NOSIGNAL,
                                            reinterpret_cast<const sockaddr*>(&to), bytes) >= 0;
  if (!said)  // it restarts this process if that goes on
    log::warn_limited("service_manager.not_told",
                      {{"reason", fits ? std::strerror(errno) : "a long address"}});
  if (socket >= 0) ::close(socket);
}

}  // namespace convoy::cli
