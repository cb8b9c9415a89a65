#include "gateway/spare_descriptor.hpp"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <utility>

namespace convoy::gateway {

SpareDescriptor::SpareDescriptor() { take(); }

SpareDescriptor::~SpareDescriptor() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void SpareDescriptor::take() {
  if (descriptor_ < 0) descriptor_ = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
}

bool SpareDescriptor::answer_one(int listening, std::string_view answer) {
  if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
  const int client = ::accept4(listening, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (client >= 0) {
    // It fits a fresh socket's buffer; a client that is gone already misses nothing. What it sent is read, as
    // far as it is there: closing on it would reset the connection.
    (void)::send(client, answer.data(), answer.size(), MSG_NOSIGNAL);
    ::shutdown(client, SHUT_WR);
    std::array<char, 16 << 10> thrown_away;
    (void)::recv(client, thrown_away.data(), thrown_away.size(), 0);
    ::close(client);
  }
  take();
  return client >= 0;
}

}  // namespace convoy::gateway
