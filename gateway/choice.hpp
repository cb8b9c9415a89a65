#pragma once
// Choice: one prompt of a request and its answer: what the cluster is asked for it, what it says, what the
// cache keeps. Its Completion owns one for each prompt and hands it its mail; on the connection's strand.

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "gateway/answer.hpp"
#include "gateway/edge.hpp"
#include "gateway/mailbox.hpp"
#include "gateway/openai_response.hpp"
#include "gateway/prompt.hpp"

namespace convoy::gateway {

/// What the pipeline says of a request (schema::RequestFacts).
struct Facts {
  uint32_t cached_tokens = 0, preemptions = 0;
  uint32_t queue_ms = 0, prefill_ms = 0, decode_ms = 0, preempted_ms = 0;
};

/// Under which name the answer cache has an answer; empty: it is neither looked up nor kept.
struct CacheKey {
  std::string name;
  uint64_t variants_revision = 0;  // Readiness's, when it was made
};

class Choice {
 public:
  using Clock = std::chrono::steady_clock;

  /// edge, model and request must outlive it. number: which of the answers to this prompt.
  Choice(Edge& edge, const ServedModel& model, const CompletionRequest& request, Prompt prompt,
         uint32_t number, CacheKey cache_key);
  ~Choice();  // nothing is left running
  Choice(const Choice&) = delete;
  Choice& operator=(const Choice&) = delete;

  /// What all choices of a request are asked with.
  struct Asking {
    std::string request_id;
    std::string tenant;  // who gets the share
    std::string salt;    // whose prompts it may find in the KV cache
    std::shared_ptr<Mailbox> mailbox;
    Clock::time_point began;
    uint64_t deadline_ms;  // Unix time
  };
  /// Registers the mailbox, then mails Generate: its answers cannot overtake that.
  void ask(const Asking& asking);

  /// What the cluster ran of it is forgotten there: until it is asked again, nothing more comes.
  void interrupt();
  /// Then: to go on behind the tokens that it has. The error as below.
  std::optional<ApiError> ask_again();
  bool goes_on() const { return state_ == State::interrupted || (state_ == State::asked && attempt_ > 0); }

  /// What the cluster says; the error, if any, is why there will be no whole answer.
  std::optional<ApiError> take(schema::Accepted::Reader accepted);
  std::optional<ApiError> take(schema::Tokens::Reader tokens);
  std::optional<ApiError> take(schema::Finished::Reader finished);
  std::optional<ApiError> take(schema::Rejected::Reader rejected);

  /// The answer is whole, whether or not its client still reads it: counts it, gives it to the cache.
  void settle();
  /// Nobody waits for it any more: ends what the cluster does for it.
  void release();

  uint64_t number() const { return number_; }
  bool started() const { return started_; }  // the cluster took it, or the cache has it
  bool cacheable() const { return !cache_key_.name.empty(); }
  bool hit() const { return hit_; }
  const std::string& pipeline() const { return pipeline_; }  // that accepted it; empty: none did
  std::optional<FinishReason> finish_reason() const { return reader_.finish_reason(); }
  /// The prompt of several answers counts once.
  Usage usage() const {
    if (which_ > 0) return {0, reader_.tokens(), 0};
    return {prompt_tokens_, reader_.tokens(), facts_.cached_tokens};
  }
  const Facts& facts() const { return facts_; }
  std::optional<Clock::time_point> first_token() const { return first_token_; }
  /// What has come since the last call.
  Piece take_piece() { return std::exchange(piece_, {}); }
  /// For an answer in one body, when it is whole.
  Piece take_whole();
  /// Once, when it is whole: its end may be told.
  bool take_end() { return reader_.finish_reason() && !std::exchange(end_told_, true); }

 private:
  enum class State {
    asked,        // nothing heard yet: the cluster may be at work on it
    accepted,     // the cluster is at work on it
    over,         // nothing runs: it came from the cache, the cluster said its last word
    interrupted,  // nothing runs: it is to be asked again
    released,     // nobody waits, or it was not asked yet
  };
  void await_cluster();
  std::optional<ApiError> end_of_whole(bool stopped);
  void started(bool from_cache);
  void learn(schema::RequestFacts::Reader facts);
  void count(uint32_t new_tokens);
  void store();

  Edge& edge_;
  const ServedModel& model_;
  const CompletionRequest& request_;
  Prompt prompt_;                          // its tokens: until they are mailed
  schema::Frame<schema::Generate> asked_;  // if it may have to be asked again
  uint32_t attempt_ = 0;                   // answers of another one are not ours
  std::vector<int32_t> ids_;               // that it has, if it may
  const size_t prompt_tokens_;
  const uint32_t which_;  // of the answers to this prompt
  const CacheKey cache_key_;
  const uint64_t number_;
  AnswerReader reader_;
  State state_ = State::released;
  std::string pipeline_;  // that accepted it
  bool started_ = false, hit_ = false, counted_ = false, end_told_ = false;
  Piece piece_;  // not yet taken
  Piece whole_;  // all tokens, for an answer in one body and for the cache
  Clock::time_point began_;
  std::optional<Clock::time_point> first_token_;
  Clock::time_point last_token_;
  Facts facts_, facts_before_;  // of all attempts; of those before this one
  Intervals between_tokens_;
};

}  // namespace convoy::gateway
