#include "gateway/completion.hpp"

#include <kj/exception.h>

#include <algorithm>
#include <set>

#include "actors/process/log.hpp"
#include "gateway/answer_key.hpp"
#include "gateway/random_id.hpp"
#include "model/digest.hpp"
#include "model/memory_limit.hpp"

namespace convoy::gateway {

namespace {

// Read, rendered and tokenised in some milliseconds; longer bodies go to the encoder threads. A message costs
// its body as many bytes as its template adds, so that the body's length stands for all of the work.
constexpr size_t inline_body_bytes_max = 16 << 10;

// What a long body may take for each of its bytes until it is a prompt: parsed, rendered, as tokens.
constexpr uint64_t memory_per_body_byte = 16;

// Of a Generate: keys, names, sampling.
constexpr uint64_t bytes_beside_prompt = 16 << 10;

/// Bytes that are counted as long as it lives.
class Counted {
 public:
  Counted(std::atomic<uint64_t>& sum, uint64_t bytes) : sum_(sum), bytes_(bytes) { sum_ += bytes_; }
  ~Counted() { sum_ -= bytes_; }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;

 private:
  std::atomic<uint64_t>& sum_;
  const uint64_t bytes_;
};

/// Found out before: an allocation that fails in the middle may be anybody's.
bool is_memory_for(uint64_t body_bytes) {
  const model::MemoryLimit available = model::memory_available();
  return available.set_by.empty() || memory_per_body_byte * body_bytes <= available.bytes;
}

/// Gives the memory back, which an assignment of nothing keeps.
template <class Container>
void discard(Container& value) {
  Container().swap(value);
}

/// What a client may have made as long as its body, for a log's line.
std::string shortened(std::string text) {
  constexpr size_t bytes_max = 100;
  if (text.size() <= bytes_max) return text;
  size_t end = bytes_max;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // not inside a character
  return text.substr(0, end) + "…";
}

ApiError no_such_model(const ServedModels& models, const std::string& name) {
  std::string served;
  for (const std::string& id : models.ids()) served += (served.empty() ? "'" : ", '") + id + "'";
  return {404, "the model '" + name + "' does not exist; this cluster serves " + served, "model",
          "model_not_found"};
}

int64_t unix_ms() {
  using namespace std::chrono;
  return duration_cast<milliseconds>(system_clock::now().time_since_epoch()).count();
}

}  // namespace

const ApiError no_memory{503, "there is no memory for this request now", {}, "no_memory", 1000};

Completion::Completion(Edge& edge, Connection& connection, HttpRequest& http, Endpoint endpoint,
                       const Caller& caller)
    : edge_(edge),
      connection_(connection),
      http_(http),
      endpoint_(endpoint),
      caller_(caller),
      body_(std::move(http.body())),
      mailbox_(std::make_shared<Mailbox>(
          connection.executor(), began_ + std::chrono::milliseconds(edge.options.request_timeout_ms))) {}

Completion::~Completion() = default;

void Completion::stop() {
  stop_.request_stop();
  mailbox_->interrupt(Stopping{});
}

asio::awaitable<Completion::After> Completion::run() {
  id_ = random_id(endpoint_ == Endpoint::chat ? "chatcmpl-" : "cmpl-");
  connection_.watch([mailbox = mailbox_, stop = stop_]() mutable {
    stop.request_stop();
    mailbox->interrupt(ClientGone{});
  });
  std::optional<ApiError> error = overload();
  if (!error) error = co_await prepare();
  After after = After::reset;
  if (error && !stop_.stop_requested()) {
    after = co_await answer_error(*error);
  } else {
    if (!stop_.stop_requested()) ask();
    after = co_await converse();
  }
  co_await connection_.stop_watching();
  log_end();
  co_return after;
}

/// Before any work for a request that would be rejected after it: while there are more than can be served,
/// their refusals must not cost what serving takes.
std::optional<ApiError> Completion::overload(const std::optional<std::string>& model) const {
  const auto overload = edge_.readiness->overload(Readiness::Clock::now(), model);
  if (!overload) return std::nullopt;
  return overloaded(overload->reason, overload->retry_after_ms);
}

asio::awaitable<std::optional<ApiError>> Completion::prepare() {
  if (body_.size() <= inline_body_bytes_max) co_return understand();
  const Counted counted(edge_.long_bodies_bytes, body_.size());
  if (!is_memory_for(edge_.long_bodies_bytes)) co_return no_memory;
  co_return co_await asio::co_spawn(
      edge_.encoder, [this]() -> asio::awaitable<std::optional<ApiError>> { co_return understand(); },
      asio::use_awaitable);
}

/// From the body to the prompts and their cache keys. On the strand, or on an encoder thread while the strand
/// waits for it: nobody else touches this object then. What it says of the prompts is forgotten at once: long
/// requests would hold their text in several forms until their answer ends.
std::optional<ApiError> Completion::understand() {
  if (stop_.stop_requested()) return std::nullopt;
  auto parsed = parse_request(endpoint_, body_, edge_.options);
  discard(body_);
  if (auto* error = std::get_if<ApiError>(&parsed)) return *error;
  request_ = std::get<CompletionRequest>(std::move(parsed));
  model_ = edge_.models.find(request_.model);
  if (!model_) return no_such_model(edge_.models, request_.model);
  if (auto error = overload(model_->id)) return error;  // others may have room
  (*request_.body)["model"] = model_->id;               // whatever name it was asked by, the answer is one
  const bool cacheable = request_.deterministic() && !edge_.answer_key.empty() && !told_not_to_cache(http_);
  for (size_t i = 0; i < request_.prompt_count(); ++i) {
    auto encoded = encode_prompt(request_, i, *model_, edge_.options, stop_.get_token());
    if (auto* error = std::get_if<ApiError>(&encoded)) return *error;
    auto& prompt = std::get<Prompt>(encoded);
    if (prompt.tokens.size() * sizeof(int32_t) + bytes_beside_prompt > edge_.options.frame_bytes_max)
      return bad_request("the prompt's " + std::to_string(prompt.tokens.size()) +
                             " tokens do not fit into a frame (link.bulk_frame_bytes_max)",
                         request_.endpoint == Endpoint::chat ? "messages" : "prompt");
    for (uint32_t k = 0; k < request_.choices; ++k)
      choices_.emplace_back(edge_, *model_, request_, prompt, k,
                            cacheable ? make_key(i, k, prompt) : CacheKey());
  }
  discard(request_.body);
  discard(request_.prompts);
  return std::nullopt;
}

/// Of one answer to one prompt: the same whether it was asked for alone or beside others.
CacheKey Completion::make_key(size_t index, uint32_t choice, const Prompt& prompt) {
  const ServedModel& model = *model_;
  KeyContext context;
  context.weights_digest = model.weights_digest.get();
  const Readiness::Variants variants = edge_.readiness->kernel_variants(model.id);
  if (context.weights_digest.empty() || variants.text.empty()) return {};  // not known yet who would answer
  context.kernel_variant = model.kernel_variant + "\n" + variants.text;
  if (model.tokenizer) context.tokenizer_digest = model.tokenizer->digest();
  if (model.chat) context.template_id = model.chat->sha256();
  // The same messages are another prompt tomorrow.
  if (endpoint_ == Endpoint::chat && model.chat->reads_clock()) {
    model::Sha256 tokens;
    tokens.update(std::as_bytes(std::span(prompt.tokens)));
    context.template_id += " " + tokens.hex();
  }
  context.cache_epoch = edge_.options.cache_epoch;
  context.end_tokens = model.end_tokens;
  // Settings of ours that shape the answer too: the limit when the client names none, and what prompts may
  // hold.
  context.endpoint = std::string(endpoint_ == Endpoint::chat ? "chat" : "completions") +
                     " max_tokens=" + std::to_string(prompt.max_tokens) +
                     " control_tokens=" + std::to_string(edge_.options.control_tokens_in_prompts);
  if (endpoint_ == Endpoint::completions) (*request_.body)["prompt"] = prompt_value(request_.prompts[index]);
  if (request_.choices > 1 && request_.seeded)
    (*request_.body)["seed"] = static_cast<int64_t>(request_.seed_of(choice));
  return {answer_key(edge_.answer_key, caller_.tenant, context, *request_.body), variants.revision};
}

void Completion::ask() {
  writer_.emplace(*model_, request_, id_, unix_ms() / 1000);
  const auto deadline_ms = static_cast<uint64_t>(unix_ms()) + edge_.options.request_timeout_ms;
  const bool has_tenant = !caller_.tenant.empty();
  // Who does not say who he is shares with nobody.
  const std::string tenant = has_tenant              ? "tenant " + caller_.tenant
                             : request_.user.empty() ? "connection " + connection_.peer()
                                                     : "user " + request_.user;
  const std::string salt = has_tenant ? tenant + " " + request_.user : request_.user;
  for (Choice& choice : choices_) choice.ask({id_, tenant, salt, mailbox_, began_, deadline_ms});
}

asio::awaitable<Completion::After> Completion::converse() {
  for (;;) {
    do take(co_await mailbox_->next());
    while (!mailbox_->empty() && state_ != State::gone && !failure_ && !whole());
    if (failure_) co_return co_await fail(*failure_);
    if (std::ranges::none_of(choices_, &Choice::goes_on)) mailbox_->patience_until({});
    for (Choice& choice : choices_)
      if (choice.finish_reason()) choice.settle();
    if (state_ != State::gone && request_.stream && started() && !co_await write_pieces())
      state_ = State::gone;
    if (state_ == State::gone) {
      release();
      edge_.metrics.clients_gone.Increment();
      co_return After::reset;
    }
    if (whole()) co_return co_await finish();
  }
}

template <class Message>
void Completion::deliver(Message message) {
  for (Choice& choice : choices_)
    if (choice.number() == message.getRequest()) {
      if (auto error = choice.take(message)) failure_ = std::move(error);
      return;
    }
}

void Completion::take(Event event) {
  try {
    if (auto* part = std::get_if<StepAnswer>(&event)) {
      deliver(schema::Reading(part->step)->getAnswers()[part->index]);
    } else if (auto* end = std::get_if<StepEnd>(&event)) {
      deliver(schema::Reading(end->step)->getFinished()[end->index]);
    } else if (auto* accepted = std::get_if<schema::Frame<schema::Accepted>>(&event)) {
      deliver(*schema::Reading(*accepted));
    } else if (auto* tokens = std::get_if<schema::Frame<schema::Tokens>>(&event)) {
      deliver(*schema::Reading(*tokens));
    } else if (auto* finished = std::get_if<schema::Frame<schema::Finished>>(&event)) {
      deliver(*schema::Reading(*finished));
    } else if (auto* rejected = std::get_if<schema::Frame<schema::Rejected>>(&event)) {
      deliver(*schema::Reading(*rejected));
    } else if (auto* lost = std::get_if<ClusterLost>(&event)) {
      failure_ = ApiError{503, "the cluster cannot be reached: " + lost->reason, {}, "not_ready", 1000};
    } else if (auto* away = std::get_if<ClusterAway>(&event)) {
      for (Choice& choice : choices_) choice.interrupt();
      mailbox_->patience_until(away->since + std::chrono::milliseconds(edge_.options.head_wait_ms));
    } else if (std::holds_alternative<ClusterServes>(event)) {
      for (Choice& choice : choices_)
        if (auto error = choice.ask_again()) failure_ = std::move(error);
    } else if (std::holds_alternative<AwayTooLong>(event)) {
      failure_ = ApiError{503,
                          "the head was away, or refused to go on, for more than " +
                              std::to_string(edge_.options.head_wait_ms) + " ms (gateway.head_wait_ms)",
                          {},
                          "not_ready",
                          1000};
    } else if (std::holds_alternative<ClientGone>(event)) {
      state_ = State::gone;
    } else if (std::holds_alternative<Stopping>(event)) {
      failure_ = ApiError{503, "this gateway is shutting down", {}, "shutting_down", 1000};
    } else {
      failure_ =
          ApiError{504,
                   "no whole answer within " + std::to_string(edge_.options.request_timeout_ms) + " ms",
                   {},
                   "timeout"};
    }
  } catch (const kj::Exception& e) {
    failure_ = broken_answer(std::string("a message cannot be read: ") + e.getDescription().cStr());
  }
}

/// The stream's header waits for the cluster's first message of every choice: only then X-Cache and refusals
/// are known.
asio::awaitable<bool> Completion::write_pieces() {
  std::string events;
  if (state_ == State::waiting) {
    http::response<http::empty_body> header{http::status::ok, 11};
    header.set(http::field::content_type, "text/event-stream");
    header.set(http::field::cache_control, "no-cache");
    header.set("x-cache", cache_word());
    if (!co_await connection_.begin_stream(std::move(header))) co_return false;
    state_ = State::streaming;
    events = writer_->first_events(choices_.size());
  }
  events += take_events();
  if (events.empty()) co_return true;
  co_return co_await connection_.write_chunk(events);
}

std::string Completion::take_events() {
  std::string events;
  for (size_t i = 0; i < choices_.size(); ++i) {
    events += writer_->piece_events(i, choices_[i].take_piece());
    if (choices_[i].take_end()) events += writer_->finish_event(i, *choices_[i].finish_reason());
  }
  return events;
}

asio::awaitable<Completion::After> Completion::finish() {
  bool written = false;
  if (request_.stream) {
    written =
        co_await connection_.write_chunk(writer_->end_events(usage())) && co_await connection_.end_stream();
  } else {
    std::vector<AnswerWriter::Whole> whole;
    for (Choice& choice : choices_) whole.push_back({choice.take_whole(), *choice.finish_reason()});
    HttpResponse response = json_response(200, writer_->body(whole, usage()));
    response.set("x-cache", cache_word());
    written = co_await connection_.write(std::move(response));
  }
  if (!written) co_return After::reset;
  status_ = 200;
  reason_ = "ok";
  co_return After::next_request;
}

/// Before the first byte an ordinary error; in mid-stream an error event and then a connection that is reset.
asio::awaitable<Completion::After> Completion::fail(ApiError error) {
  release();
  if (state_ != State::streaming) co_return co_await answer_error(error);
  edge_.metrics.streams_cut.Increment();
  status_ = error.status;
  reason_ = error.reason();
  co_await connection_.write_chunk(take_events() + error_event(error));
  co_return After::reset;
}

asio::awaitable<Completion::After> Completion::answer_error(const ApiError& error) {
  HttpResponse response = error_response(error);
  status_ = error.status;
  reason_ = error.reason();
  const bool written = co_await connection_.write(std::move(response));
  if (error.code == overloaded_code)
    edge_.metrics.refusal_seconds.Observe(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - connection_.header_read_at())
            .count());
  co_return written ? After::next_request : After::reset;
}

void Completion::release() {
  for (Choice& choice : choices_) choice.release();
}

bool Completion::started() const {
  return std::all_of(choices_.begin(), choices_.end(), [](const Choice& c) { return c.started(); });
}

bool Completion::whole() const {
  return !choices_.empty() && std::all_of(choices_.begin(), choices_.end(),
                                          [](const Choice& c) { return c.finish_reason().has_value(); });
}

Usage Completion::usage() const {
  Usage sum;
  for (const Choice& choice : choices_) {
    const Usage usage = choice.usage();
    sum.prompt_tokens += usage.prompt_tokens;
    sum.completion_tokens += usage.completion_tokens;
    sum.cached_tokens += usage.cached_tokens;
  }
  return sum;
}

const char* Completion::cache_word() const {
  if (choices_.empty() || !choices_.front().cacheable()) return "bypass";
  return std::all_of(choices_.begin(), choices_.end(), [](const Choice& c) { return c.hit(); }) ? "hit"
                                                                                                : "miss";
}

/// Of several choices, one that was cut by its length counts.
std::string Completion::finish_word() const {
  if (!whole()) return "none";
  const bool cut = std::any_of(choices_.begin(), choices_.end(),
                               [](const Choice& c) { return c.finish_reason() == FinishReason::length; });
  return cut ? "length" : "stop";
}

/// That answered its choices, each once.
std::string Completion::pipelines() const {
  std::set<std::string> names;
  for (const Choice& choice : choices_)
    if (!choice.pipeline().empty()) names.insert(choice.pipeline());
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ",") + name;
  return text;
}

/// Of several choices: the times of the one that took longest in each.
Facts Completion::facts() const {
  Facts all;
  for (const Choice& choice : choices_) {
    const Facts& facts = choice.facts();
    all.preemptions += facts.preemptions;
    all.queue_ms = std::max(all.queue_ms, facts.queue_ms);
    all.prefill_ms = std::max(all.prefill_ms, facts.prefill_ms);
    all.decode_ms = std::max(all.decode_ms, facts.decode_ms);
    all.preempted_ms = std::max(all.preempted_ms, facts.preempted_ms);
  }
  return all;
}

/// One line for every request, refused ones too. Whole milliseconds; first_token_ms is -1 if none came.
void Completion::log_end() const {
  const auto ms = [&](std::chrono::steady_clock::time_point at) {
    return std::chrono::duration_cast<std::chrono::milliseconds>(at - began_).count();
  };
  int64_t first_token_ms = -1;
  for (const Choice& choice : choices_)
    if (const auto at = choice.first_token())
      first_token_ms = first_token_ms < 0 ? ms(*at) : std::min<int64_t>(first_token_ms, ms(*at));
  const Usage usage = this->usage();
  const Facts facts = this->facts();
  log::info("request.end", {{"id", id_},
                            {"request", connection_.request_id()},
                            {"peer", connection_.peer()},
                            {"endpoint", endpoint_ == Endpoint::chat ? "chat_completions" : "completions"},
                            {"key", caller_.key_id},
                            {"tenant", caller_.tenant},
                            {"model", shortened(request_.model)},
                            {"pipeline", pipelines()},
                            {"status", status_},
                            {"reason", reason_},
                            {"finish", finish_word()},
                            {"stream", request_.stream},
                            {"cache", cache_word()},
                            {"choices", choices_.size()},
                            {"prompt_tokens", usage.prompt_tokens},
                            {"completion_tokens", usage.completion_tokens},
                            {"cached_tokens", usage.cached_tokens},
                            {"preemptions", facts.preemptions},
                            {"queue_ms", facts.queue_ms},
                            {"prefill_ms", facts.prefill_ms},
                            {"decode_ms", facts.decode_ms},
                            {"preempted_ms", facts.preempted_ms},
                            {"first_token_ms", first_token_ms},
                            {"total_ms", ms(std::chrono::steady_clock::now())}});
}

}  // namespace convoy::gateway
