// Qwen2.5 and Qwen3: ChatML with tools described in the system message. Qwen2 has none: see
// chat_template_chatml.cpp.

#include "model/chat/chat_template_parts.hpp"
#include "model/chat/python_json.hpp"

namespace convoy::model {
namespace {

void describe(Rendering& out, const boost::json::array& tools, std::string_view call_form) {
  out.own(
      "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with "
      "function signatures within <tools></tools> XML tags:\n<tools>");
  for (const boost::json::value& tool : tools) out.own("\n").given(python_json(tool, "tools"));
  out.own(
      "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
      "<tool_call></tool_call> XML tags:\n<tool_call>\n");
  out.own(call_form).own("\n</tool_call><|im_end|>\n");
}

constexpr std::string_view call_form = R"({"name": <function-name>, "arguments": <args-json-object>})";
constexpr std::string_view call_form_doubled =
    R"({{"name": <function-name>, "arguments": <args-json-object>}})";

bool has_tools(const RenderOptions& options) { return options.tools && !options.tools->empty(); }

void plain_message(Rendering& out, std::string_view role, std::string_view content) {
  out.own("<|im_start|>").own(role).own("\n").given(content).own("<|im_end|>\n");
}

void call(Rendering& out, const ToolCall& call, std::string_view arguments) {
  out.own("<tool_call>\n{\"name\": \"").given(call.name).own("\", \"arguments\": ");
  out.given(arguments).own("}\n</tool_call>");
}

/// Neighbouring results share one user message.
void result(Rendering& out, const Turn& turn, std::string_view content) {
  if (!turn.follows("tool")) out.own("<|im_start|>user");
  out.own("\n<tool_response>\n").given(content).own("\n</tool_response>");
  if (!turn.precedes("tool")) out.own("<|im_end|>\n");
}

struct Style2_5 {
  std::string_view default_system;
  std::string_view call_form;
};

std::vector<Segment> render_2_5(const Style2_5& style, std::span<const Message> messages,
                                const RenderOptions& options) {
  Rendering out;
  const Turn opening(messages, 0);
  out.own("<|im_start|>system\n");
  if (!opening.is("system"))
    out.own(style.default_system);
  else
    out.given(has_tools(options) ? opening.printed() : opening.text());
  if (has_tools(options))
    describe(out.own("\n\n"), *options.tools, style.call_form);
  else
    out.own("<|im_end|>\n");

  for_each_turn(messages, [&](const Turn& turn) {
    if (turn.is("assistant") && turn.has_tool_calls()) {
      out.own("<|im_start|>assistant");
      if (const std::string* content = turn->content.get(); content && !content->empty())
        out.own("\n").given(*content);
      for (const ToolCall& each : turn.calls())
        call(out.own("\n"), each, python_json(each.arguments, turn.place(each)));
      out.own("<|im_end|>\n");
    } else if (turn.is("user") || turn.is("assistant") || (turn.is("system") && !turn.first())) {
      plain_message(out, turn->role, turn.text());
    } else if (turn.is("tool")) {
      result(out, turn, turn.printed());
    }
  });
  if (options.add_generation_prompt) out.own("<|im_start|>assistant\n");
  return out.take();
}

constexpr std::string_view qwen_system =
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.";
constexpr std::string_view plain_system = "You are a helpful assistant.";

std::vector<Segment> qwen2_5(std::span<const Message> messages, const RenderOptions& options) {
  return render_2_5({qwen_system, call_form}, messages, options);
}
std::vector<Segment> qwen2_5_first(std::span<const Message> messages, const RenderOptions& options) {
  return render_2_5({qwen_system, call_form_doubled}, messages, options);
}
std::vector<Segment> qwen2_5_1m(std::span<const Message> messages, const RenderOptions& options) {
  return render_2_5({plain_system, call_form}, messages, options);
}
std::vector<Segment> qwen2_5_coder(std::span<const Message> messages, const RenderOptions& options) {
  return render_2_5({plain_system, call_form_doubled}, messages, options);
}

enum class Reasoning { optional, always, none };

struct Style3 {
  Reasoning reasoning;
  bool lenient;  // content that is no text counts as empty
};

std::string_view content_of(const Style3& style, const Turn& turn) {
  return style.lenient && !turn->content.get() ? std::string_view() : turn.text();
}

/// Index of the last message that a user wrote, as opposed to a tool's result put into a user's message.
size_t last_query(std::span<const Message> messages, const Style3& style) {
  for (size_t i = messages.size(); i-- > 0;) {
    const Turn turn(messages, i);
    if (!turn.is("user") || (style.lenient && !turn->content.get())) continue;
    const std::string_view text = turn.text();
    if (!text.starts_with("<tool_response>") || !text.ends_with("</tool_response>")) return i;
  }
  return messages.size() - 1;
}

/// What the assistant said, with its reasoning only after the last query: earlier reasoning is dropped.
std::string_view said(Rendering& out, const Turn& turn, const Style3& style, bool after_query) {
  std::string_view content = content_of(style, turn), reasoning;
  if (style.reasoning == Reasoning::none) {
    out.given(content);
    return content;
  }
  if (turn->reasoning_content.get()) {
    reasoning = *turn->reasoning_content.get();
  } else if (content.find("</think>") != content.npos) {
    reasoning = strip_right(before_first(content, "</think>"), '\n');
    reasoning = strip_left(after_last(reasoning, "<think>"), '\n');
    content = strip_left(after_last(content, "</think>"), '\n');
  }
  if (after_query && (turn.last() || !reasoning.empty())) {
    out.own("<think>\n").given(strip_left(strip_right(reasoning, '\n'), '\n'));
    out.own("\n</think>\n\n").given(strip_left(content, '\n'));
  } else {
    out.given(content);
  }
  return content;
}

std::vector<Segment> render_3(const Style3& style, std::span<const Message> messages,
                              const RenderOptions& options) {
  Rendering out;
  const Turn opening(messages, 0);
  if (has_tools(options)) {
    out.own("<|im_start|>system\n");
    if (opening.is("system")) out.given(opening.text()).own("\n\n");
    describe(out, *options.tools, call_form);
  } else if (opening.is("system")) {
    plain_message(out, "system", opening.text());
  }

  const size_t query = last_query(messages, style);
  for_each_turn(messages, [&](const Turn& turn) {
    if (turn.is("user") || (turn.is("system") && !turn.first())) {
      plain_message(out, turn->role, content_of(style, turn));
    } else if (turn.is("assistant")) {
      out.own("<|im_start|>assistant\n");
      const std::string_view content = said(out, turn, style, turn.index() > query);
      if (turn.has_tool_calls()) {
        for (const ToolCall& each : turn.calls()) {
          if (!content.empty() || &each != turn.calls().data()) out.own("\n");
          call(out, each,
               each.arguments.is_string() ? std::string(each.arguments.get_string())
                                          : python_json(each.arguments, turn.place(each)));
        }
      }
      out.own("<|im_end|>\n");
    } else if (turn.is("tool")) {
      result(out, turn, style.lenient ? content_of(style, turn) : turn.printed());
    }
  });
  if (!options.add_generation_prompt) return out.take();
  out.own("<|im_start|>assistant\n");
  if (style.reasoning == Reasoning::always) out.own("<think>\n");
  if (style.reasoning == Reasoning::optional && options.thinking == false) out.own("<think>\n\n</think>\n\n");
  return out.take();
}

std::vector<Segment> qwen3(std::span<const Message> messages, const RenderOptions& options) {
  return render_3({.reasoning = Reasoning::optional, .lenient = false}, messages, options);
}
std::vector<Segment> qwen3_lenient(std::span<const Message> messages, const RenderOptions& options) {
  return render_3({.reasoning = Reasoning::optional, .lenient = true}, messages, options);
}
std::vector<Segment> qwen3_thinking(std::span<const Message> messages, const RenderOptions& options) {
  return render_3({.reasoning = Reasoning::always, .lenient = true}, messages, options);
}
std::vector<Segment> qwen3_instruct(std::span<const Message> messages, const RenderOptions& options) {
  return render_3({.reasoning = Reasoning::none, .lenient = true}, messages, options);
}

constexpr BuiltinTemplate known[] = {
    {"qwen2.5", "55b2f4a26ac9ee719330a61a0c39d9e538b0e9322212f048326318cff4f8674a", qwen2_5},
    {"qwen2.5-first", "4e9918361c284a93880606d182d64da6a9fe97cdc1f5c5a78c1c8840444246fc", qwen2_5_first},
    {"qwen2.5-1m", "4039eed0f28b7aaa337e70c76cfedba3271ee32505835a095a8c92e536b3c355", qwen2_5_1m},
    {"qwen2.5-coder", "e7ef0c0550d1e3baa43eda35eaaf927e2e0af29a5c052c45c811201acbea4090", qwen2_5_coder},
    {"qwen3", "87a2728cb8dc9fe424d624542f6060ec05a1d285ebbec578bb078900e33396b5", qwen3},
    {"qwen3-lenient", "a55ee1b1660128b7098723e0abcd92caa0788061051c62d51cbe87d9cf1974d8", qwen3_lenient},
    {"qwen3-thinking-2507", "3802169b2a02b81e6adb7ab4f64f91ff02db753c8c3a64a01c35192d3a61d8d7",
     qwen3_thinking},
    {"qwen3-instruct-2507", "64f85b198065d0fba2a81f37e10ed68161ce2c19a754c7100e67e0ca2ee9c326",
     qwen3_instruct},
};

}  // namespace

std::span<const BuiltinTemplate> qwen_templates() { return known; }

}  // namespace convoy::model
