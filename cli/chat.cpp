// convoy chat: a conversation in the terminal over the gateway's own API. `convoy chat "question"` asks one
// and ends.

#include <unistd.h>

#include <boost/asio.hpp>
#include <boost/beast.hpp>
#include <boost/json.hpp>
#include <iostream>

#include "cli/cluster_client.hpp"
#include "cli/commands.hpp"
#include "model/error.hpp"

namespace convoy::cli {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
namespace json = boost::json;

namespace {

struct Conversation {
  std::string authority, host, port, model;  // authority: host and port as a URL has them
  json::array messages;
  uint32_t max_tokens = 0;
  double temperature = -1;
};

/// One server-sent event's data. Returns false at the end of the answer. Throws on an error event.
bool take_event(std::string_view data, std::string& answer) {
  if (data == "[DONE]") return false;
  const json::object event = json::parse(data).as_object();
  if (const auto* error = event.if_contains("error"))
    throw std::runtime_error("the answer broke off: " + std::string(error->at("message").as_string()));
  const auto& choices = event.at("choices").as_array();
  if (choices.empty()) return true;
  const auto& delta = choices[0].at("delta").as_object();
  if (const auto* content = delta.if_contains("content")) {
    answer += content->as_string();
    std::cout << std::string_view(content->as_string()) << std::flush;
  }
  return true;
}

/// Asks, streams the answer to the terminal, and returns it.
std::string ask(const Conversation& c) {
  asio::io_context io;
  beast::tcp_stream stream(io);
  asio::ip::tcp::resolver resolver(io);
  stream.connect(resolver.resolve(c.host, c.port));
  json::object body{{"model", c.model}, {"messages", c.messages}, {"stream", true}};
  if (c.max_tokens) body["max_tokens"] = c.max_tokens;
  if (c.temperature >= 0) body["temperature"] = c.temperature;
  http::request<http::string_body> request(http::verb::post, "/v1/chat/completions", 11);
  request.set(http::field::host, c.authority);
  request.set(http::field::content_type, "application/json");
  request.body() = json::serialize(body);
  request.prepare_payload();
  http::write(stream, request);

  beast::flat_buffer buffer;
  http::response_parser<http::buffer_body> parser;
  parser.body_limit(boost::none);
  http::read_header(stream, buffer, parser);
  std::string text, answer;
  bool more = true;
  char chunk[4096];
  while (more && !parser.is_done()) {
    parser.get().body().data = chunk;
    parser.get().body().size = sizeof chunk;
    beast::error_code error;
    http::read_some(stream, buffer, parser, error);
    if (error && error != http::error::need_buffer)
      throw std::runtime_error("the connection broke off: " + error.message());
    text.append(chunk, sizeof chunk - parser.get().body().size);
    if (parser.get().result() != http::status::ok) continue;
    for (size_t end; more && (end = text.find("\n\n")) != std::string::npos; text.erase(0, end + 2)) {
      const std::string_view event(text.data(), end);
      if (event.starts_with("data: ")) more = take_event(event.substr(6), answer);
    }
  }
  if (parser.get().result() != http::status::ok) {
    json::error_code error;
    const auto value = json::parse(text, error);
    if (!error && value.is_object() && value.as_object().contains("error"))
      throw std::runtime_error(std::string(value.at("error").at("message").as_string()));
    throw std::runtime_error("the gateway answered " + std::to_string(parser.get().result_int()));
  }
  if (more) throw std::runtime_error("the answer broke off");
  std::cout << std::endl;
  return answer;
}

Conversation connect(const actors::ClusterConfig& config) {
  const auto status = cluster_status(config, 2000);
  const std::string url(status.at("gateway").at("url").as_string());
  if (url.empty() || !status.at("ready").as_bool())
    throw InputError("the cluster is not ready: " + std::string(status.at("reason").as_string()),
                     config.file.string(), "start it with `convoy up`");
  const std::string authority = url.substr(url.find("://") + 3);
  const size_t colon = authority.rfind(':');
  std::string host = authority.substr(0, colon);
  if (host.starts_with('[')) host = host.substr(1, host.size() - 2);
  return {authority, host, authority.substr(colon + 1), std::string(status.at("model").as_string()), {}};
}

void talk(Conversation c) {
  const bool terminal = isatty(STDIN_FILENO) != 0;
  if (terminal) std::cout << "Talking to " << c.model << ". An empty line or Ctrl-D ends.\n";
  for (std::string line;;) {
    if (terminal) std::cout << "> " << std::flush;
    if (!std::getline(std::cin, line) || line.empty()) return;
    c.messages.push_back({{"role", "user"}, {"content", line}});
    c.messages.push_back({{"role", "assistant"}, {"content", ask(c)}});
  }
}

}  // namespace

void add_chat(CLI::App& app, int& exit_code) {
  struct Arguments {
    std::string config = "cluster.conf", question, system;
    uint32_t max_tokens = 0;
    double temperature = -1;
  };
  auto args = std::make_shared<Arguments>();
  auto* command =
      app.add_subcommand("chat", "Talks to the model, streaming; with a question, asks that and ends");
  command->add_option("question", args->question, "one question");
  command->add_option("--config", args->config, "cluster configuration")->capture_default_str();
  command->add_option("--system", args->system, "a system message");
  command->add_option("--max-tokens", args->max_tokens, "length of an answer at most");
  command->add_option("--temperature", args->temperature, "0: the same answer every time");
  command->callback([args, &exit_code] {
    Conversation c = connect(actors::load_cluster_config(args->config));
    c.max_tokens = args->max_tokens;
    c.temperature = args->temperature;
    if (!args->system.empty()) c.messages.push_back({{"role", "system"}, {"content", args->system}});
    try {
      if (args->question.empty()) return talk(std::move(c));
      c.messages.push_back({{"role", "user"}, {"content", args->question}});
      ask(c);
    } catch (const std::runtime_error& e) {
      std::fprintf(stderr, "\nconvoy: %s\n", e.what());
      exit_code = failed;
    }
  });
}

}  // namespace convoy::cli
