#include "gateway/completion.hpp"

#include <openssl/rand.h>

#include <algorithm>
#include <boost/algorithm/string.hpp>
#include <stdexcept>

#include "actors/log.hpp"
#include "actors/step_codec.hpp"
#include "gateway/answer_key.hpp"

namespace convoy::gateway {

namespace {

// Read, rendered and tokenised in some milliseconds; longer bodies go to the encoder threads. A message costs
// its body as many bytes as its template adds, so that the body's length stands for all of the work.
constexpr size_t inline_body_bytes_max = 16 << 10;

void random_bytes(void* to, size_t size) {
  if (RAND_bytes(static_cast<unsigned char*>(to), static_cast<int>(size)) != 1)
    throw std::runtime_error("OpenSSL has no random numbers");
}

std::string random_id(const char* prefix) {
  unsigned char bytes[12];
  random_bytes(bytes, sizeof bytes);
  std::string id = prefix;
  for (unsigned char b : bytes) {
    id += "0123456789abcdef"[b >> 4];
    id += "0123456789abcdef"[b & 15];
  }
  return id;
}

/// The client told us not to answer from the cache.
bool told_not_to_cache(const HttpRequest& http) {
  std::vector<std::string> directives;
  boost::split(directives, http[http::field::cache_control], boost::is_any_of(", \t"));
  return std::any_of(directives.begin(), directives.end(), [](const std::string& d) {
    return boost::iequals(d, "no-store") || boost::iequals(d, "no-cache");
  });
}

/// Gives the memory back, which an assignment of nothing keeps.
template <class Container>
void discard(Container& value) {
  Container().swap(value);
}

int64_t unix_ms() {
  using namespace std::chrono;
  return duration_cast<milliseconds>(system_clock::now().time_since_epoch()).count();
}

}  // namespace

Completion::Completion(Edge& edge, Connection& connection, HttpRequest& http, Endpoint endpoint)
    : edge_(edge),
      connection_(connection),
      http_(http),
      endpoint_(endpoint),
      body_(std::move(http.body())),
      mailbox_(std::make_shared<Mailbox>(
          connection.executor(), began_ + std::chrono::milliseconds(edge.options.request_timeout_ms))) {}

Completion::~Completion() { release(); }

void Completion::stop() {
  stop_.request_stop();
  if (mailbox_) mailbox_->interrupt(Stopping{});
}

asio::awaitable<Completion::After> Completion::run() {
  id_ = random_id(endpoint_ == Endpoint::chat ? "chatcmpl-" : "cmpl-");
  connection_.watch([mailbox = mailbox_, stop = stop_]() mutable {
    stop.request_stop();
    mailbox->interrupt(ClientGone{});
  });
  const std::optional<ApiError> error = co_await prepare();
  After after = After::reset;
  if (error && !stop_.stop_requested()) {
    after = co_await answer_error(*error);
  } else {
    if (!stop_.stop_requested()) generate();
    after = co_await converse();
    log_end();
  }
  co_await connection_.stop_watching();
  co_return after;
}

asio::awaitable<std::optional<ApiError>> Completion::prepare() {
  if (body_.size() <= inline_body_bytes_max) co_return understand();
  co_return co_await asio::co_spawn(
      edge_.encoder, [this]() -> asio::awaitable<std::optional<ApiError>> { co_return understand(); },
      asio::use_awaitable);
}

/// From the body to the prompt and the cache key. On the strand, or on an encoder thread while the strand
/// waits for it: nobody else touches this object then. What it says of the prompt is forgotten at once: long
/// requests would hold their text in three forms until their answer ends.
std::optional<ApiError> Completion::understand() {
  if (stop_.stop_requested()) return std::nullopt;
  auto parsed = parse_request(endpoint_, body_, edge_.options.stop_strings_max);
  discard(body_);
  if (auto* error = std::get_if<ApiError>(&parsed)) return *error;
  request_ = std::get<CompletionRequest>(std::move(parsed));
  if (request_.model != edge_.model.id)
    return ApiError{
        404,
        "the model '" + request_.model + "' does not exist; this cluster serves '" + edge_.model.id + "'",
        "model", "model_not_found"};
  if (request_.stream && http_.version() < 11) return bad_request("streaming needs HTTP/1.1", "stream");
  auto encoded = encode_prompt(request_, edge_.model, edge_.options, stop_.get_token());
  if (auto* error = std::get_if<ApiError>(&encoded)) return *error;
  prompt_ = std::get<Prompt>(std::move(encoded));
  prompt_tokens_ = prompt_.tokens.size();
  if (request_.deterministic() && !edge_.cache_secret.empty() && !told_not_to_cache(http_))
    cache_key_ = make_key();
  discard(request_.body);
  discard(request_.messages);
  discard(request_.prompt);
  return std::nullopt;
}

std::string Completion::make_key() const {
  const ServedModel& model = edge_.model;
  KeyContext context;
  context.weights_digest = model.weights_digest;
  context.kernel_variant = model.kernel_variant;
  if (model.tokenizer) context.tokenizer_digest = model.tokenizer->digest();
  if (model.chat) context.template_id = model.chat->name();
  context.cache_epoch = edge_.options.cache_epoch;
  // Settings of ours that shape the answer too: the limit when the client names none, and what prompts may
  // hold.
  context.endpoint = std::string(endpoint_ == Endpoint::chat ? "chat" : "completions") +
                     " max_tokens=" + std::to_string(prompt_.max_tokens) +
                     " control_tokens=" + std::to_string(edge_.options.control_tokens_in_prompts);
  return answer_key(edge_.cache_secret, {}, context,
                    request_.body);  // tenants come with a later version's keys
}

/// Registers the mailbox, then mails Generate: its answers cannot overtake the opening.
void Completion::generate() {
  model::Sampling& sampling = request_.sampling;
  if (!request_.deterministic()) random_bytes(&sampling.seed, sizeof sampling.seed);
  if (!request_.ignore_eos) sampling.end_tokens = edge_.model.end_tokens;
  cache_ = cache_key_.empty() ? Cache::bypass : Cache::miss;
  const uint32_t timeout_ms = edge_.options.request_timeout_ms;
  number_ = edge_.next_request.fetch_add(1);
  reader_.emplace(edge_.model, request_, prompt_.max_tokens);
  writer_.emplace(edge_.model, request_, id_, unix_ms() / 1000);
  edge_.metrics.prompt_tokens.Increment(static_cast<double>(prompt_tokens_));

  schema::FrameBuilder<schema::Generate> generate(64 + prompt_.tokens.size() / 2);
  generate->setRequestId(id_);
  generate->initReplyTo().setNode(edge_.options.node);
  generate->getReplyTo().setRequest(number_);
  auto tokens = generate->initTokens(static_cast<unsigned>(prompt_.tokens.size()));
  for (unsigned i = 0; i < tokens.size(); ++i) tokens.set(i, prompt_.tokens[i]);
  actors::encode(sampling, generate->initSampling());
  discard(prompt_.tokens);
  generate->setMaxTokens(prompt_.max_tokens);
  generate->setDeadlineMs(static_cast<uint64_t>(unix_ms()) + timeout_ms);
  generate->setCacheKey(
      capnp::Data::Reader(reinterpret_cast<const kj::byte*>(cache_key_.data()), cache_key_.size()));
  generate->setAttempt(attempt_);
  caf::anon_send(edge_.mailroom, OpenMailbox{number_, mailbox_});
  running_ = true;
  actors::mail(edge_.cache, std::move(generate).finish());
}

asio::awaitable<Completion::After> Completion::converse() {
  for (;;) {
    take(co_await mailbox_->next());
    while (!mailbox_->empty() && !gone_ && !failure_ && !reader_->finish_reason())
      take(co_await mailbox_->next());
    if (failure_) co_return co_await fail(*failure_);
    if (reader_ && reader_->finish_reason()) settle();  // no reader: it ended before it was mailed
    if (!gone_ && request_.stream && started_) gone_ = !co_await write_piece();
    if (gone_) {
      release();
      edge_.metrics.clients_gone.Increment();
      co_return After::reset;
    }
    if (reader_->finish_reason()) co_return co_await finish();
  }
}

/// The stream's header waits for the cluster's first message: only then X-Cache and refusals are known.
asio::awaitable<bool> Completion::write_piece() {
  std::string events;
  if (!streaming_) {
    http::response<http::empty_body> header{http::status::ok, 11};
    header.set(http::field::content_type, "text/event-stream");
    header.set(http::field::cache_control, "no-cache");
    header.set("x-request-id", id_);
    header.set("x-cache", cache_word());
    header.keep_alive(http_.keep_alive());
    if (!co_await connection_.begin_stream(std::move(header))) co_return false;
    streaming_ = true;
    status_ = 200;
    events = writer_->first_event();
  }
  events += writer_->piece_events(piece_);
  piece_ = {};
  if (events.empty()) co_return true;
  co_return co_await connection_.write_chunk(events);
}

asio::awaitable<Completion::After> Completion::finish() {
  const Usage usage{prompt_tokens_, reader_->tokens()};
  const FinishReason reason = *reader_->finish_reason();
  bool written = false;
  if (request_.stream) {
    written = co_await connection_.write_chunk(writer_->end_events(reason, usage)) &&
              co_await connection_.end_stream();
  } else {
    whole_.text = std::move(piece_.text);
    HttpResponse response = json_response(200, writer_->body(whole_, reason, usage));
    response.set("x-request-id", id_);
    response.set("x-cache", cache_word());
    response.keep_alive(http_.keep_alive());
    status_ = 200;
    written = co_await connection_.write(std::move(response));
  }
  co_return written ? After::next_request : After::reset;
}

/// Before the first byte an ordinary error; in mid-stream an error event and then a connection that is reset.
asio::awaitable<Completion::After> Completion::fail(ApiError error) {
  release();
  if (!streaming_) co_return co_await answer_error(error);
  edge_.metrics.streams_cut.Increment();
  status_ = error.status;
  std::string events = writer_->piece_events(piece_) + error_event(error);
  co_await connection_.write_chunk(events);
  co_return After::reset;
}

asio::awaitable<Completion::After> Completion::answer_error(const ApiError& error) {
  HttpResponse response = error_response(error);
  response.set("x-request-id", id_);
  response.keep_alive(http_.keep_alive());
  status_ = error.status;
  const bool written = co_await connection_.write(std::move(response));
  co_return written ? After::next_request : After::reset;
}

double Completion::seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count();
}

const char* Completion::cache_word() const {
  switch (cache_) {
    case Cache::hit:
      return "hit";
    case Cache::miss:
      return "miss";
    default:
      return "bypass";
  }
}

void Completion::log_end() const {
  log::info("request.end", {{"id", id_},
                            {"status", status_},
                            {"stream", request_.stream},
                            {"cache", cache_word()},
                            {"prompt_tokens", prompt_tokens_},
                            {"completion_tokens", reader_ ? reader_->tokens() : 0},
                            {"first_token_ms", first_token_s_ * 1000},
                            {"total_ms", seconds() * 1000}});
}

}  // namespace convoy::gateway
