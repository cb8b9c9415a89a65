#pragma once
// Completion: one POST to /v1/chat/completions or /v1/completions, from its body to the last byte of its
// answer: the session's side of Generate. On the connection's strand.

#include <deque>
#include <memory>
#include <stop_token>
#include <string>

#include "gateway/admission.hpp"
#include "gateway/choice.hpp"
#include "gateway/connection.hpp"
#include "gateway/edge.hpp"
#include "gateway/mailbox.hpp"
#include "gateway/openai_response.hpp"

namespace convoy::gateway {

/// What a client is told whose request there is no memory for.
extern const ApiError no_memory;

class Completion {
 public:
  enum class After {
    next_request,  // the answer is out
    reset,         // the answer is not whole: the connection must not end cleanly
  };

  /// All references must outlive it. Takes the request's body.
  Completion(Edge& edge, Connection& connection, HttpRequest& http, Endpoint endpoint, const Caller& caller);
  ~Completion();  // nothing is left running: its choices see to that
  Completion(const Completion&) = delete;
  Completion& operator=(const Completion&) = delete;

  asio::awaitable<After> run();
  /// The gateway shuts down: ends the answer with an error.
  void stop();
  unsigned status() const { return status_; }            // what the client got; 499: it left before the end
  const std::string& reason() const { return reason_; }  // "ok", "client_gone", or an error's reason()

 private:
  enum class State {
    waiting,    // not a byte is written
    streaming,  // the header is
    gone,       // the client left
  };

  std::optional<ApiError> overload(const std::optional<std::string>& model = {}) const;
  asio::awaitable<std::optional<ApiError>> prepare();
  std::optional<ApiError> understand();
  CacheKey make_key(size_t index, uint32_t choice, const Prompt& prompt);
  void ask();
  asio::awaitable<After> converse();
  void take(Event event);
  template <class Message>
  void deliver(Message message);
  asio::awaitable<bool> write_pieces();
  std::string take_events();
  asio::awaitable<After> finish();
  asio::awaitable<After> fail(ApiError error);
  asio::awaitable<After> answer_error(const ApiError& error);
  void release();

  bool started() const;
  bool whole() const;
  Usage usage() const;
  Facts facts() const;
  const char* cache_word() const;
  std::string finish_word() const;
  std::string pipelines() const;
  void log_end() const;

  Edge& edge_;
  Connection& connection_;
  const HttpRequest& http_;
  const Endpoint endpoint_;
  const Caller& caller_;
  const std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
  std::string body_;                    // until it is understood
  CompletionRequest request_;           // of what it says of the prompts, nothing is kept behind understand()
  const ServedModel* model_ = nullptr;  // that it asks for, once it is understood
  std::string id_;
  const std::shared_ptr<Mailbox> mailbox_;  // of all choices
  std::stop_source stop_;                   // nobody waits for the prompts any more
  std::deque<Choice> choices_;              // request_.choices for each prompt
  std::optional<AnswerWriter> writer_;
  State state_ = State::waiting;
  std::optional<ApiError> failure_;
  unsigned status_ = 499;
  std::string reason_ = "client_gone";
};

}  // namespace convoy::gateway
