// Llama 3, and Llama 3.1 with tools, whose template Llama 3.3 keeps.

#include "model/chat/chat_template_parts.hpp"
#include "model/chat/python_json.hpp"
#include "model/error.hpp"

namespace convoy::model {
namespace {

constexpr std::string_view bos = "<|begin_of_text|>", end_of_turn = "<|eot_id|>";

Rendering& header(Rendering& out, std::string_view role) {
  return out.own("<|start_header_id|>").given(role).own("<|end_header_id|>\n\n");
}

/// What `content | trim` gives: of null the word None, of nothing nothing.
std::string_view trimmed(const Turn& turn) { return strip(turn.printed()); }

std::vector<Segment> llama_3(std::span<const Message> messages, bool add_generation_prompt) {
  Rendering out;
  out.own(bos);
  for_each_turn(messages,
                [&](const Turn& turn) { header(out, turn->role).given(trimmed(turn)).own(end_of_turn); });
  if (add_generation_prompt) header(out, "assistant");
  return out.take();
}

std::vector<Segment> llama3(std::span<const Message> messages, const RenderOptions& options) {
  return llama_3(messages, options.add_generation_prompt);
}

/// As first published: it opens an answer whether asked to or not.
std::vector<Segment> llama3_first(std::span<const Message> messages, const RenderOptions&) {
  return llama_3(messages, true);
}

void describe(Rendering& out, const boost::json::array& tools) {
  out.own(
      "Given the following functions, please respond with a JSON for a function call "
      "with its proper arguments that best answers the given prompt.\n\n"
      "Respond in the format {\"name\": function name, \"parameters\": dictionary of argument name and its "
      "value}.Do not use variables.\n\n");
  for (const boost::json::value& tool : tools) out.given(python_json(tool, "tools", 4)).own("\n\n");
}

void call(Rendering& out, const Turn& turn) {
  const auto calls = turn.calls();
  if (calls.size() != 1)
    throw InputError("a message has " + std::to_string(calls.size()) + " tool calls", "messages",
                     "this chat template takes one a message");
  const ToolCall& call = calls.front();
  turn.needs_function(call);
  header(out, "assistant").own("{\"name\": \"").given(call.name).own("\", \"parameters\": ");
  out.given(python_json(call.arguments, turn.place(call))).own("}").own(end_of_turn);
}

std::vector<Segment> llama3_1(std::span<const Message> messages, const RenderOptions& options) {
  const Turn opening(messages, 0);
  size_t next = opening.is("system") ? 1 : 0;
  Rendering out;
  out.own(bos);
  header(out, "system");
  if (options.tools) out.own("Environment: ipython\n");
  out.own("Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n");  // the template's own day
  if (next == 1) out.given(trimmed(opening));
  out.own(end_of_turn);
  if (options.tools) {  // they go into the first message, whoever's it is
    if (next == messages.size())
      throw InputError("there is no message for the tools to stand in", "messages", "add a user message");
    header(out, "user");
    describe(out, *options.tools);
    out.given(trimmed(Turn(messages, next++))).own(end_of_turn);
  }
  for (; next < messages.size(); next++) {
    const Turn turn(messages, next);
    if (turn->tool_calls.present()) {
      call(out, turn);
    } else if (turn.is("tool") || turn.is("ipython")) {
      header(out, "ipython");
      // A text is iterable to Jinja, so it is written as JSON; null is printed.
      if (turn->content.null())
        out.own("None");
      else
        out.given(python_json(boost::json::value(turn.text()), "messages"));
      out.own(end_of_turn);
    } else {
      header(out, turn->role).given(trimmed(turn)).own(end_of_turn);
    }
  }
  if (options.add_generation_prompt) header(out, "assistant");
  return out.take();
}

constexpr BuiltinTemplate known[] = {
    {"llama3", "ba03a121d097859c7b5b9cd03af99aafe95275210d2876f642ad9929a150f122", llama3},
    {"llama3-first", "b48c47f6443892716176eb200bf4ef108f64e06ca26ed0fa8ebc0a4b3992fcb2", llama3_first},
    {"llama3.1", "93c0e9aa3629bbd77e68dbc0f5621f6e6b23aa8d74b932595cdb8d64684526d7", llama3_1},
};

}  // namespace

std::span<const BuiltinTemplate> llama_templates() { return known; }

}  // namespace convoy::model
