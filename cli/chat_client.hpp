#pragma once
// ChatClient: asks a gateway and streams its answers, one after the other. Used by one thread, which waits
// for each, with a limit on every wait. While it lives, SIGINT stops the answer that is under way and nothing
// else.

#include <boost/json/array.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace convoy::cli {

struct ChatOptions {
  std::string host, port, model;
  bool encrypted = false;   // https
  std::string authority;    // PEM file of certificates to trust beside the system's; empty: none
  std::string api_key;      // empty: none
  uint32_t max_tokens = 0;  // 0: the gateway's
  double temperature = -1;  // below 0: the gateway's
  uint32_t connect_timeout_ms = 5'000;
  uint32_t first_byte_timeout_ms = 600'000;  // the prompt is read, and requests before it are answered
  uint32_t silence_timeout_ms = 120'000;     // from one piece of the answer to the next
};

struct ChatAnswer {
  enum class End {
    complete,
    stopped,     // by SIGINT
    failed,      // refused, or broken off
    unavailable  // nobody answers, or not now
  };
  End end = End::complete;
  std::string text;  // what came
  std::string why;   // it failed or is unavailable
};

class ChatClient {
 public:
  explicit ChatClient(ChatOptions options);
  ~ChatClient();

  /// Asks with these messages, and once more if the gateway says 503, after the time that it names. Pieces of
  /// the answer go to `show`; what somebody should know meanwhile goes to `note`.
  using Show = std::function<void(std::string_view)>;
  ChatAnswer ask(const boost::json::array& messages, const Show& show, const Show& note);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace convoy::cli
