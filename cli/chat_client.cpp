#include "cli/chat_client.hpp"

#include <algorithm>
#include <boost/asio.hpp>
#include <boost/beast.hpp>
#include <boost/json.hpp>
#include <charconv>
#include <csignal>
#include <optional>

#include "gateway/either_stream.hpp"

namespace convoy::cli {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
namespace json = boost::json;
using std::chrono::milliseconds;

namespace {

constexpr size_t event_bytes_max = 1 << 20;        // the gateway's are shorter than 64 KB
constexpr uint32_t retry_after_ms_default = 1000;  // where a 503 names no time
constexpr uint32_t retry_after_ms_max = 60'000;    // for a person who waits

struct Broken : std::runtime_error {
  using std::runtime_error::runtime_error;
};

std::optional<uint32_t> number_in(std::string_view text) {
  uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

uint32_t retry_after_ms(const http::response_header<>& header) {
  if (const auto ms = number_in(header["retry-after-ms"])) return std::min(*ms, retry_after_ms_max);
  if (const auto s = number_in(header["retry-after"])) return std::min(*s, retry_after_ms_max / 1000) * 1000;
  return retry_after_ms_default;
}

/// The message in an error's JSON, or what the status code says.
std::string refusal(std::string_view body, unsigned status) {
  json::error_code error;
  const json::value value = json::parse(body, error);
  const json::object* top = error ? nullptr : value.if_object();
  const json::value* inner = top ? top->if_contains("error") : nullptr;
  const json::value* message =
      inner && inner->is_object() ? inner->get_object().if_contains("message") : nullptr;
  if (message && message->is_string()) return std::string(message->get_string());
  return "the gateway answered " + std::to_string(status);
}

/// The text in one server-sent event's data. Throws Broken on an error event or one of another form.
std::string text_in(std::string_view data) {
  json::error_code error;
  const json::value event = json::parse(data, error);
  const json::object* top = error ? nullptr : event.if_object();
  if (top && top->contains("error")) throw Broken("the answer broke off: " + refusal(data, 200));
  const json::value* choices = top ? top->if_contains("choices") : nullptr;
  if (!choices || !choices->is_array())
    throw Broken("the answer is not one of a chat: " + std::string(data.substr(0, 80)));
  if (choices->get_array().empty()) return "";
  const json::value* content = choices->get_array()[0].find_pointer("/delta/content", error);
  return content && content->is_string() ? std::string(content->get_string()) : "";
}

}  // namespace

struct ChatClient::Impl {
  enum class Phase { connecting, waiting, reading };

  explicit Impl(ChatOptions o) : options(std::move(o)), signals(io, SIGINT), retry(io) { watch(); }

  void watch() {
    signals.async_wait([this](boost::system::error_code error, int) {
      if (error) return;
      watch();
      if (!stream) return;  // nothing to stop
      stopped = true;
      stream->next().close();
      retry.cancel();
    });
  }

  asio::awaitable<void> exchange(std::string body, const Show& show, const Show& note) {
    const auto wait_ms = co_await attempt(body, show);
    if (!wait_ms) co_return;
    note("The cluster is busy (" + answer.why + "); asking again in " +
         std::to_string((*wait_ms + 999) / 1000) + " s.");
    retry.expires_after(milliseconds(*wait_ms));
    co_await retry.async_wait(asio::use_awaitable);
    answer = {};
    co_await attempt(body, show);
  }

  /// Sends the request and takes the answer. The time to wait, if it was a 503.
  asio::awaitable<std::optional<uint32_t>> attempt(const std::string& body, const Show& show) {
    phase = Phase::connecting;
    stream.emplace(beast::tcp_stream(io));
    asio::ip::tcp::resolver resolver(io);
    const auto found = co_await resolver.async_resolve(options.host, options.port, asio::use_awaitable);
    stream->next().expires_after(milliseconds(options.connect_timeout_ms));
    co_await stream->next().async_connect(found, asio::use_awaitable);
    if (options.encrypted) co_await encrypt();

    phase = Phase::waiting;
    http::request<http::string_body> request(http::verb::post, "/v1/chat/completions", 11);
    const bool v6 = options.host.find(':') != std::string::npos;
    request.set(http::field::host, (v6 ? "[" + options.host + "]" : options.host) + ":" + options.port);
    request.set(http::field::content_type, "application/json");
    if (!options.api_key.empty()) request.set(http::field::authorization, "Bearer " + options.api_key);
    request.body() = body;
    request.prepare_payload();
    stream->next().expires_after(milliseconds(options.first_byte_timeout_ms));
    co_await http::async_write(*stream, request, asio::use_awaitable);
    beast::flat_buffer buffer;
    http::response_parser<http::buffer_body> parser;
    parser.body_limit(boost::none);
    co_await http::async_read_header(*stream, buffer, parser, asio::use_awaitable);

    phase = Phase::reading;
    const auto status = parser.get().result();
    std::string text;
    bool more = true;
    char piece[4096];
    while (more && !parser.is_done()) {
      parser.get().body().data = piece;
      parser.get().body().size = sizeof piece;
      stream->next().expires_after(milliseconds(options.silence_timeout_ms));
      const auto [error, bytes] =
          co_await http::async_read_some(*stream, buffer, parser, asio::as_tuple(asio::use_awaitable));
      if (error && error != http::error::need_buffer) throw boost::system::system_error(error);
      text.append(piece, sizeof piece - parser.get().body().size);
      if (text.size() > event_bytes_max) throw Broken("the gateway sent an event of more than a megabyte");
      if (status == http::status::ok) more = take_events(text, show);
    }
    if (status == http::status::ok) {
      if (more) throw Broken("the answer broke off: the connection ended before its last event");
      co_return std::nullopt;
    }
    const bool busy = status == http::status::service_unavailable;
    answer.end = busy ? ChatAnswer::End::unavailable : ChatAnswer::End::failed;
    answer.why = refusal(text, parser.get().result_int());
    if (status == http::status::unauthorized)
      answer.why += "; give a key in CONVOY_API_KEY, or its file as --api-key-file";
    co_return busy ? std::optional(retry_after_ms(parser.get())) : std::nullopt;
  }

  asio::awaitable<void> encrypt() {
    asio::ssl::context context(asio::ssl::context::tls_client);
    boost::system::error_code none;  // a machine may have no authorities of its own
    context.set_default_verify_paths(none);
    if (!options.authority.empty()) context.load_verify_file(options.authority);
    context.set_verify_mode(asio::ssl::verify_peer);
    auto& tls = stream->encrypt(context);
    tls.set_verify_callback(asio::ssl::host_name_verification(options.host));
    SSL_set_tlsext_host_name(tls.native_handle(), options.host.c_str());
    co_await tls.async_handshake(asio::ssl::stream_base::client, asio::use_awaitable);
  }

  /// Takes the events that are whole. False behind the last one.
  bool take_events(std::string& text, const Show& show) {
    for (size_t end; (end = text.find("\n\n")) != std::string::npos; text.erase(0, end + 2)) {
      const std::string_view event(text.data(), end);
      if (!event.starts_with("data: ")) continue;  // a comment
      const std::string_view data = event.substr(6);
      if (data == "[DONE]") return false;
      const std::string piece = text_in(data);
      answer.text += piece;
      if (!piece.empty()) show(piece);
    }
    return true;
  }

  /// What a failed operation means, in the phase that it failed in.
  void failed(const boost::system::system_error& error) {
    const bool late = error.code() == beast::error::timeout;
    answer.end = phase == Phase::connecting ? ChatAnswer::End::unavailable : ChatAnswer::End::failed;
    const auto within = [](uint32_t ms, const char* option) {
      return " within " + std::to_string(ms) + " ms (" + option + ")";
    };
    const std::string reason = error.code().message();
    switch (phase) {
      case Phase::connecting:
        answer.why = "cannot connect to " + options.host + " port " + options.port +
                     (late ? within(options.connect_timeout_ms, "--connect-timeout-ms") : ": " + reason);
        break;
      case Phase::waiting:
        answer.why = late ? "no answer" + within(options.first_byte_timeout_ms, "--first-byte-timeout-ms")
                          : "the connection broke off before an answer: " + reason;
        break;
      case Phase::reading:
        answer.why = late ? "the answer broke off: silence for " +
                                std::to_string(options.silence_timeout_ms) + " ms (--silence-timeout-ms)"
                          : "the answer broke off: " + reason;
        break;
    }
  }

  const ChatOptions options;
  asio::io_context io{1};
  asio::signal_set signals;
  asio::steady_timer retry;
  std::optional<gateway::EitherStream<beast::tcp_stream>> stream;  // of the answer under way
  Phase phase = Phase::connecting;
  bool stopped = false;
  ChatAnswer answer;
};

ChatClient::ChatClient(ChatOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
ChatClient::~ChatClient() = default;

ChatAnswer ChatClient::ask(const json::array& messages, const Show& show, const Show& note) {
  Impl& i = *impl_;
  json::object body{{"model", i.options.model}, {"messages", messages}, {"stream", true}};
  if (i.options.max_tokens) body["max_tokens"] = i.options.max_tokens;
  if (i.options.temperature >= 0) body["temperature"] = i.options.temperature;
  i.io.restart();
  i.io.poll();  // a SIGINT from before this question stops nothing
  i.answer = {};
  i.stopped = false;
  std::exception_ptr problem;
  bool ended = false;
  i.stream.emplace(beast::tcp_stream(i.io));
  asio::co_spawn(i.io, i.exchange(json::serialize(body), show, note), [&](std::exception_ptr e) {
    problem = e;
    ended = true;
  });
  while (!ended) i.io.run_one();
  i.stream.reset();
  try {
    if (problem) std::rethrow_exception(problem);
  } catch (const boost::system::system_error& error) {
    i.failed(error);
  } catch (const Broken& error) {
    i.answer.end = ChatAnswer::End::failed;
    i.answer.why = error.what();
  }
  if (i.stopped) i.answer.end = ChatAnswer::End::stopped;
  return std::move(i.answer);
}

}  // namespace convoy::cli
