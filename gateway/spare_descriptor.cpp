#include "gateway/spare_descriptor.hpp"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>

#include "gateway/connection.hpp"

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
    send_last_words(client, answer);
    ::close(client);
  }
  take();
  return client >= 0;
}

}  // namespace convoy::gateway
