#pragma once
// SpareDescriptor: one open file, kept so that a client can be told to come again where the process has no
// descriptor left to accept it with. Owned by the gateway, used on its strand.

#include <string_view>

namespace convoy::gateway {

class SpareDescriptor {
 public:
  SpareDescriptor();
  ~SpareDescriptor();
  SpareDescriptor(const SpareDescriptor&) = delete;
  SpareDescriptor& operator=(const SpareDescriptor&) = delete;

  /// Gives itself up to accept one connection of the listening, non-blocking socket, writes `answer` and
  /// closes. False if there was none to accept, or no descriptor even so.
  bool answer_one(int listening, std::string_view answer);

 private:
  void take();

  int descriptor_ = -1;  // -1: somebody else was faster
};

}  // namespace convoy::gateway
