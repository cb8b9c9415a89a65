#pragma once
// Completion: one POST to /v1/chat/completions or /v1/completions, from its body to the last byte of its
// answer: the session's side of Generate. On the connection's strand.

#include <memory>
#include <stop_token>
#include <string>

#include "gateway/answer.hpp"
#include "gateway/connection.hpp"
#include "gateway/edge.hpp"
#include "gateway/mailbox.hpp"
#include "gateway/openai_response.hpp"
#include "gateway/prompt.hpp"

namespace convoy::gateway {

class Completion {
 public:
  enum class After {
    next_request,  // the answer is out
    reset,         // the answer is not whole: the connection must not end cleanly
  };

  /// All references must outlive it. Takes the request's body.
  Completion(Edge& edge, Connection& connection, HttpRequest& http, Endpoint endpoint);
  ~Completion();  // nothing is left running
  Completion(const Completion&) = delete;
  Completion& operator=(const Completion&) = delete;

  asio::awaitable<After> run();
  /// The gateway shuts down: ends the answer with an error.
  void stop();
  unsigned status() const { return status_; }  // what the client got; 499: it left before

 private:
  enum class Cache { bypass, miss, hit };

  asio::awaitable<std::optional<ApiError>> prepare();
  std::optional<ApiError> understand();
  std::string make_key() const;
  void generate();
  asio::awaitable<After> converse();
  asio::awaitable<bool> write_piece();
  asio::awaitable<After> finish();
  asio::awaitable<After> fail(ApiError error);
  asio::awaitable<After> answer_error(const ApiError& error);

  // completion_answer.cpp
  void take(Event event);
  void take_tokens(const schema::Frame<schema::Tokens>& frame);
  void take_finished(const schema::Frame<schema::Finished>& frame);
  void take_rejected(const schema::Frame<schema::Rejected>& frame);
  void started(bool from_cache);
  void release();
  void settle();
  void store();

  double seconds() const;  // since the request came
  void log_end() const;
  const char* cache_word() const;

  Edge& edge_;
  Connection& connection_;
  const HttpRequest& http_;
  const Endpoint endpoint_;
  const std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
  std::string body_;           // until it is understood
  CompletionRequest request_;  // of what it says of the prompt, nothing is kept behind understand()
  Prompt prompt_;              // its tokens: until they are mailed
  size_t prompt_tokens_ = 0;
  std::string id_, cache_key_;
  uint64_t number_ = 0;
  uint32_t attempt_ = 0;
  std::shared_ptr<Mailbox> mailbox_;  // of this answer, until it is settled
  std::stop_source stop_;             // nobody waits for the prompt any more
  std::optional<AnswerReader> reader_;
  std::optional<AnswerWriter> writer_;
  Piece piece_;  // not yet written
  Piece whole_;  // all tokens, for an answer in one body and for the cache
  Cache cache_ = Cache::bypass;
  bool running_ = false;    // the cluster may be at work on it: cancel when nobody wants it any more
  bool started_ = false;    // the cluster took it: the header can be written
  bool streaming_ = false;  // the header is written
  bool gone_ = false;
  std::optional<ApiError> failure_;
  unsigned status_ = 499;
  double first_token_s_ = -1;
};

}  // namespace convoy::gateway
