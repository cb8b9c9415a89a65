// convoy chat: a conversation in the terminal over the gateway's own API. `convoy chat "question"` asks one
// and ends; so does what is piped into it.

#include <unistd.h>

#include <boost/json.hpp>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "actors/link/link_address.hpp"
#include "actors/link/link_tls.hpp"
#include "cli/chat_client.hpp"
#include "cli/cluster_client.hpp"
#include "cli/commands.hpp"
#include "cli/line_editor.hpp"
#include "cli/port_holder.hpp"
#include "model/error.hpp"
#include "model/text_file.hpp"

namespace convoy::cli {

namespace json = boost::json;

namespace {

constexpr uint32_t status_timeout_ms = 2000;

struct Arguments {
  std::string config = "cluster.conf", url, question, system, api_key_file;
  ChatOptions chat;
};

/// Splits http://HOST:PORT or https://HOST:PORT, also with an IPv6 address in brackets.
void set_address(ChatOptions& chat, const std::string& url) {
  const size_t scheme = url.find("://"), colon = url.rfind(':');
  const size_t host = scheme == url.npos ? 0 : scheme + 3;
  chat.encrypted = url.starts_with("https://");
  if ((!chat.encrypted && !url.starts_with("http://")) || colon == url.npos || colon <= host ||
      url.find('/', host) != url.npos)
    throw InputError("\"" + url + "\" is no gateway's address", "--url",
                     "give http://HOST:PORT, or https://HOST:PORT");
  chat.host = url.substr(host, colon - host);
  chat.port = url.substr(colon + 1);
  if (chat.host.starts_with('[') && chat.host.ends_with(']'))
    chat.host = chat.host.substr(1, chat.host.size() - 2);
}

/// Finds the gateway of the configured cluster. False, after a word, if the cluster is not ready.
bool find_gateway(Arguments& args) {
  const actors::ClusterConfig config = actors::load_cluster_config(args.config);
  if (actors::loopback_endpoint(config.gateway.host, 0) && !has_head(nodes_here(config), config)) {
    std::fprintf(stderr,
                 "convoy: the gateway listens on the machine of the head, %s, for that machine alone; "
                 "chat there\n",
                 config.head().listen.c_str());
    return false;
  }
  const auto status = cluster_status(config, status_timeout_ms);
  const std::string url(status.at("gateway").at("url").as_string());
  if (url.empty() || !status.at("ready").as_bool()) {
    std::fprintf(stderr, "convoy: the cluster is not ready: %s; start it with %s\n",
                 status.at("reason").as_string().c_str(), hint("up", args.config).c_str());
    return false;
  }
  set_address(args.chat, url);
  args.chat.model = status.at("model").as_string();
  const std::filesystem::path ours = std::filesystem::path(config.cluster.tls_dir) / actors::authority_file;
  if (args.chat.authority.empty() && std::filesystem::exists(ours)) args.chat.authority = ours;
  return true;
}

/// Of the file that was named, or of the environment; empty: none.
std::string api_key(const std::string& file) {
  if (file.empty()) {
    const char* key = std::getenv("CONVOY_API_KEY");
    return key ? key : "";
  }
  constexpr size_t bytes_max = 4096;
  std::string key =
      model::read_text_file(file, bytes_max, "write the key that `convoy key create` printed there");
  key.erase(key.find_last_not_of(" \t\r\n") + 1);
  if (key.empty() || key.find_first_of(" \t\r\n") != key.npos)
    throw InputError("is no key", file,
                     "write the key that `convoy key create` printed there, and nothing else");
  return key;
}

class Conversation {
 public:
  Conversation(ChatOptions options, const std::string& system) : client_(std::move(options)) {
    if (!system.empty()) messages_.push_back({{"role", "system"}, {"content", system}});
  }

  /// Asks and shows the answer. What was answered, even in part, belongs to the conversation; a question
  /// without an answer does not.
  ExitCode ask(const std::string& question) {
    messages_.push_back({{"role", "user"}, {"content", question}});
    const auto show = [](std::string_view text) {
      std::fwrite(text.data(), 1, text.size(), stdout);
      std::fflush(stdout);
    };
    const auto note = [](std::string_view text) {
      std::fprintf(stderr, "%.*s\n", static_cast<int>(text.size()), text.data());
    };
    const ChatAnswer answer = client_.ask(messages_, show, note);
    if (!answer.text.empty() || answer.end == ChatAnswer::End::complete) std::puts("");
    if (answer.text.empty())
      messages_.pop_back();
    else
      messages_.push_back({{"role", "assistant"}, {"content", answer.text}});
    if (std::ferror(stdout))
      throw InputError(std::string("cannot be written: ") + std::strerror(errno), "standard output",
                       "check where it goes");
    switch (answer.end) {
      case ChatAnswer::End::complete:
        return ok;
      case ChatAnswer::End::stopped:
        note("(stopped)");
        return failed;
      case ChatAnswer::End::failed:
      case ChatAnswer::End::unavailable:
        note("convoy: " + answer.why);
        return answer.end == ChatAnswer::End::failed ? failed : unavailable;
    }
    return internal;
  }

 private:
  ChatClient client_;
  json::array messages_;
};

/// Until Ctrl-D, or Ctrl-C twice. What goes wrong with one question is said, and the next can be asked.
void talk(Conversation& conversation, const std::string& model) {
  std::printf("Talking to %s. Ctrl-C stops an answer, Ctrl-D ends.\n", model.c_str());
  LineEditor editor("> ");
  std::string message;
  for (bool interrupted = false;;) {
    switch (editor.read(message)) {
      case LineEditor::End::end:
        return;
      case LineEditor::End::interrupted:
        if (interrupted) return;
        interrupted = true;
        std::puts("(Ctrl-C again or Ctrl-D ends)");
        break;
      case LineEditor::End::message:
        interrupted = false;
        if (message.find_first_not_of(" \t\n") != std::string::npos) conversation.ask(message);
    }
  }
}

/// All of standard input is one message.
std::string piped() {
  constexpr size_t bytes_max =
      64 << 20;  // the gateway's own limit is lower and says so; this one ends /dev/zero
  std::string text;
  char piece[64 << 10];
  while (const size_t bytes = std::fread(piece, 1, sizeof piece, stdin)) {
    text.append(piece, bytes);
    if (text.size() > bytes_max)
      throw InputError("has more than " + std::to_string(bytes_max) + " bytes", "standard input",
                       "give a shorter message");
  }
  if (std::ferror(stdin))
    throw InputError(std::string("cannot be read: ") + std::strerror(errno), "standard input",
                     "check where it comes from");
  if (text.find_first_not_of(" \t\r\n") == std::string::npos)
    throw InputError("is empty", "standard input", "pipe the message into it, or give it as an argument");
  return text;
}

void add_time_outs(CLI::App& command, ChatOptions& chat) {
  const auto add = [&](const char* name, uint32_t& value, const char* help) {
    command.add_option(name, value, help)->check(CLI::Range(1, 86'400'000))->capture_default_str();
  };
  add("--connect-timeout-ms", chat.connect_timeout_ms, "How long connecting may take");
  add("--first-byte-timeout-ms", chat.first_byte_timeout_ms, "How long the answer's beginning may take");
  add("--silence-timeout-ms", chat.silence_timeout_ms, "How long the answer may pause");
}

}  // namespace

void add_chat(CLI::App& app, int& exit_code) {
  auto args = std::make_shared<Arguments>();
  auto* command = app.add_subcommand(
      "chat",
      "Talks to the model, streaming; with a question, or with one piped into it, asks that and ends");
  command->add_option("question", args->question, "one question");
  auto* config =
      command->add_option("--config", args->config, "cluster configuration")->capture_default_str();
  auto* url =
      command->add_option("--url", args->url, "http(s)://HOST:PORT of a gateway, instead of the cluster's");
  auto* model = command->add_option("--model", args->chat.model, "what that gateway calls its model");
  url->excludes(config)->needs(model);
  model->needs(url);
  command->add_option("--api-key-file", args->api_key_file,
                      "File with the key that the gateway asks for, instead of CONVOY_API_KEY");
  command->add_option("--ca", args->chat.authority,
                      "PEM file of the authority whose certificate the gateway has, beside the system's");
  command->add_option("--system", args->system, "a system message");
  command->add_option("--max-tokens", args->chat.max_tokens, "length of an answer at most");
  command->add_option("--temperature", args->chat.temperature, "0: the same answer every time");
  add_time_outs(*command, args->chat);
  command->callback([args, &exit_code] {
    args->chat.api_key = api_key(args->api_key_file);
    if (!args->url.empty())
      set_address(args->chat, args->url);
    else if (!find_gateway(*args))
      return void(exit_code = unavailable);
    Conversation conversation(args->chat, args->system);
    if (args->question.empty() && isatty(STDIN_FILENO)) return talk(conversation, args->chat.model);
    exit_code = conversation.ask(args->question.empty() ? piped() : args->question);
  });
}

}  // namespace convoy::cli
