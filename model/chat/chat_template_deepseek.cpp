// DeepSeek V2 to V3.1. The publisher's templates have quirks (blanks in front of the BOS, calls that are not
// closed): the models were trained and tested with them, so each is kept where it is. None describes tools.

#include <utility>

#include "model/chat/chat_template_parts.hpp"

namespace convoy::model {
namespace {

constexpr std::string_view bos = "<｜begin▁of▁sentence｜>", eos = "<｜end▁of▁sentence｜>",
                           user = "<｜User｜>", assistant = "<｜Assistant｜>";
constexpr std::string_view calls_begin = "<｜tool▁calls▁begin｜>", calls_end = "<｜tool▁calls▁end｜>",
                           call_begin = "<｜tool▁call▁begin｜>", call_end = "<｜tool▁call▁end｜>",
                           separator = "<｜tool▁sep｜>", outputs_begin = "<｜tool▁outputs▁begin｜>",
                           outputs_end = "<｜tool▁outputs▁end｜>", output_begin = "<｜tool▁output▁begin｜>",
                           output_end = "<｜tool▁output▁end｜>";

// V2: system messages stand where they are.

std::vector<Segment> v2(std::span<const Message> messages, const RenderOptions& options) {
  Rendering out;
  out.own(bos);
  for_each_turn(messages, [&](const Turn& turn) {
    if (turn.is("user")) out.own("User: ").given(turn.text()).own("\n\n");
    if (turn.is("assistant")) out.own("Assistant: ").given(turn.text()).own(eos);
    if (turn.is("system")) out.given(turn.text()).own("\n\n");
  });
  if (options.add_generation_prompt) out.own("Assistant:");
  return out.take();
}

std::vector<Segment> v2_0628(std::span<const Message> messages, const RenderOptions& options) {
  Rendering out;
  out.own(bos);
  for_each_turn(messages, [&](const Turn& turn) {
    if (turn.is("user")) out.own(user).given(turn.text());
    if (turn.is("assistant")) out.own(assistant).given(turn.text()).own(eos);
    if (turn.is("system")) out.given(turn.text()).own("\n\n");
  });
  if (options.add_generation_prompt) out.own(assistant);
  return out.take();
}

// From V2.5 on: all system text comes first, and tools have tokens of their own.

void last_system(Rendering& out, std::span<const Message> messages) {
  std::string_view text;
  for_each_turn(messages, [&](const Turn& turn) {
    if (turn.is("system")) text = turn.printed();
  });
  out.own(bos).given(text);
}

void joined_systems(Rendering& out, std::span<const Message> messages) {
  out.own(bos);
  bool first = true;
  for_each_turn(messages, [&](const Turn& turn) {
    if (!turn.is("system")) return;
    out.own(first ? "" : "\n\n").given(turn.text());
    first = false;
  });
}

void fenced_call(Rendering& out, const Turn& turn, const ToolCall& call) {
  turn.needs_function(call);
  out.own(call_begin).given(turn.type(call)).own(separator).given(call.name);
  out.own("\n```json\n").given(turn.arguments_text(call)).own("\n```").own(call_end);
}

void output(Rendering& out, const Turn& turn) { out.own(output_begin).given(turn.text()).own(output_end); }

/// The content without the reasoning in front of the answer.
std::string_view answer(const Turn& turn) { return after_last(turn.text(), "</think>"); }

/// V2.5, the first V3 and R1 of early 2025.
struct Early {
  bool joins_systems;
  bool calls_by_key;  // whether a message has "tool_calls", else whether its content is null
  bool keeps_reasoning;
  std::string_view between_outputs;
  std::string_view opening;  // of an answer
};

std::vector<Segment> early(const Early& style, std::span<const Message> messages,
                           const RenderOptions& options) {
  Rendering out;
  style.joins_systems ? joined_systems(out, messages) : last_system(out, messages);
  bool called = false, answered_call = false;  // both for the whole conversation, in the template too
  bool in_outputs = false;
  const auto calls = [&](const Turn& turn) {
    in_outputs = false;
    for (const ToolCall& call : turn.calls()) {
      const bool opens = !called;
      called = true;
      if (opens) {
        out.own(assistant);
        if (style.calls_by_key && !turn->content.null()) out.given(turn.text());
        out.own(calls_begin);
      } else {
        out.own("\n");
      }
      fenced_call(out, turn, call);
      if (!style.calls_by_key && !opens) out.own(calls_end).own(eos);
    }
    if (style.calls_by_key) out.own(calls_end).own(eos);
  };
  for_each_turn(messages, [&](const Turn& turn) {
    if (turn.is("user")) {
      in_outputs = false;
      out.own(user).given(turn.text());
    } else if (turn.is("assistant") &&
               (style.calls_by_key ? turn->tool_calls.present() : turn->content.null())) {
      calls(turn);
    } else if (turn.is("assistant")) {
      const bool after_outputs = std::exchange(in_outputs, false);
      out.own(after_outputs ? outputs_end : assistant);
      out.given(after_outputs || style.keeps_reasoning ? turn.text() : answer(turn)).own(eos);
    } else if (turn.is("tool")) {
      in_outputs = true;
      out.own(answered_call ? style.between_outputs : outputs_begin);
      answered_call = true;
      output(out, turn);
    }
  });
  if (in_outputs) out.own(outputs_end);
  if (options.add_generation_prompt && !in_outputs) out.own(assistant).own(style.opening);
  return out.take();
}

std::vector<Segment> v2_5(std::span<const Message> messages, const RenderOptions& options) {
  constexpr Early style{.joins_systems = false,
                        .calls_by_key = false,
                        .keeps_reasoning = true,
                        .between_outputs = "\n",
                        .opening = ""};
  Rendering out;
  for_each_turn(messages, [&](const Turn& turn) {
    if (turn.is("system")) out.own("        ");  // the template's own indentation, one a message
  });
  std::vector<Segment> segments = out.take();
  for (Segment& segment : early(style, messages, options)) segments.push_back(std::move(segment));
  return segments;
}

std::vector<Segment> v3(std::span<const Message> messages, const RenderOptions& options) {
  constexpr Early style{.joins_systems = true,
                        .calls_by_key = false,
                        .keeps_reasoning = true,
                        .between_outputs = "\n",
                        .opening = ""};
  return early(style, messages, options);
}

std::vector<Segment> r1_of(bool newer, std::string_view opening, std::span<const Message> messages,
                           const RenderOptions& options) {
  const Early style{.joins_systems = newer,
                    .calls_by_key = newer,
                    .keeps_reasoning = false,
                    .between_outputs = newer ? "" : "\n",
                    .opening = opening};
  return early(style, messages, options);
}

std::vector<Segment> r1(std::span<const Message> messages, const RenderOptions& options) {
  return r1_of(true, "<think>\n", messages, options);
}
std::vector<Segment> r1_unopened(std::span<const Message> messages, const RenderOptions& options) {
  return r1_of(true, "", messages, options);
}
std::vector<Segment> r1_distill(std::span<const Message> messages, const RenderOptions& options) {
  return r1_of(false, "<think>\n", messages, options);
}
std::vector<Segment> r1_distill_unopened(std::span<const Message> messages, const RenderOptions& options) {
  return r1_of(false, "", messages, options);
}

/// V3-0324 and R1-0528: a user's message opens the answer, and every round of calls is closed.
std::vector<Segment> spring_2025(bool keeps_reasoning, std::span<const Message> messages,
                                 const RenderOptions& options) {
  Rendering out;
  joined_systems(out, messages);
  bool in_outputs = false, answered_call = false, opened = false;
  for_each_turn(messages, [&](const Turn& turn) {
    // What `'</think>' in content` fails on, R1-0528 refuses in any answer, with calls or without.
    if (turn.is("assistant") && !keeps_reasoning && turn->content.null()) (void)turn.text();
    const auto content = [&] { return keeps_reasoning ? turn.text() : answer(turn); };
    if (turn.is("user")) {
      in_outputs = false;
      opened = true;
      out.own(user).given(turn.text()).own(assistant);
    } else if (turn.is("assistant") && turn->tool_calls.get()) {
      if (in_outputs) out.own(outputs_end);
      in_outputs = answered_call = opened = false;
      bool first = true;
      for (const ToolCall& call : turn.calls()) {
        if (first && !turn->content.null()) out.given(content());
        out.own(first ? calls_begin : "\n");
        fenced_call(out, turn, call);
        first = false;
      }
      out.own(calls_end).own(eos);
    } else if (turn.is("assistant")) {
      if (in_outputs) out.own(outputs_end);
      in_outputs = opened = false;
      out.given(content()).own(eos);
    } else if (turn.is("tool")) {
      opened = false;
      in_outputs = true;
      out.own(answered_call ? "\n" : outputs_begin);
      answered_call = true;
      output(out, turn);
    }
  });
  if (in_outputs) out.own(outputs_end);
  if (options.add_generation_prompt && !opened && !in_outputs) out.own(assistant);
  return out.take();
}

std::vector<Segment> v3_0324(std::span<const Message> messages, const RenderOptions& options) {
  return spring_2025(true, messages, options);
}
std::vector<Segment> r1_0528(std::span<const Message> messages, const RenderOptions& options) {
  return spring_2025(false, messages, options);
}

/// One model for both: an answer opens with <think>, or with </think> when it is to come at once (the
/// default).
std::vector<Segment> v3_1(std::span<const Message> messages, const RenderOptions& options) {
  const bool thinking = options.thinking.value_or(false);
  Rendering out;
  joined_systems(out, messages);
  bool in_outputs = false, after_user = false;
  for_each_turn(messages, [&](const Turn& turn) {
    if (turn.is("user")) {
      in_outputs = false;
      after_user = true;
      out.own(user).given(turn.text());
    } else if (turn.is("assistant") && turn->tool_calls.get()) {
      if (after_user) out.own(assistant).own("</think>");
      in_outputs = after_user = false;
      bool first = true;
      for (const ToolCall& call : turn.calls()) {
        turn.needs_function(call);
        if (first && !turn->content.null()) out.given(turn.text());
        out.own(first ? calls_begin : "").own(call_begin).given(call.name).own(separator);
        out.given(turn.arguments_text(call)).own(call_end);
        first = false;
      }
      out.own(calls_end).own(eos);
    } else if (turn.is("assistant")) {
      if (after_user) out.own(assistant).own(turn->prefix && thinking ? "<think>" : "</think>");
      after_user = false;
      const bool after_outputs = std::exchange(in_outputs, false);
      out.given(after_outputs ? turn.text() : after_first(turn.text(), "</think>")).own(eos);
    } else if (turn.is("tool")) {
      after_user = false;
      in_outputs = true;
      output(out, turn);
    }
  });
  if (options.add_generation_prompt && after_user) out.own(assistant).own(thinking ? "<think>" : "</think>");
  return out.take();
}

constexpr BuiltinTemplate known[] = {
    {"deepseek-v2", "8aeba567270fa9a8d5372caf4b04affea947c4421d96adc01e3ff94021b0ae8e", v2},
    {"deepseek-v2-0628", "980c96c053071fb6157ca0c0d56d6f542bfdd8196259e401c9d3c782190ea607", v2_0628},
    {"deepseek-v2.5", "cac8d3ea82bac9a92114e474c67bed1497208570426258f9c447a1b355322117", v2_5},
    {"deepseek-v3", "3b8267e54b67df6500f231ffa969955cc9d26b3444a291ced4eb96ca7d3ca1ea", v3},
    {"deepseek-v3-0324", "22e97ba043dacf9df1f071a9de9d2bb6b0757491f16e96e810834b86e1641286", v3_0324},
    {"deepseek-r1", "563b1ce7d61d50a9b4c7439a912a1116f095b712df5b5e4d3e1116049874eb64", r1},
    {"deepseek-r1-unopened", "3a3036eeb96ca0e48565fc1f19b4d7d3fa17ada32bb1b3d5ed539ae74cf22923", r1_unopened},
    {"deepseek-r1-distill", "56a1447ad31926fdc21fb07e56e5642bd9c850c4f52d8c8af7bbe5f079a84f5f", r1_distill},
    {"deepseek-r1-distill-unopened", "b6835114b7303ddd78919a82e4d9f7d8c26ed0d7dfc36beeb12d524f6144eab1",
     r1_distill_unopened},
    {"deepseek-r1-0528", "53671bac29bcb3e1f95f51b8c77d85a6011b66dc38bd23dce64eef04384a976b", r1_0528},
    {"deepseek-v3.1", "45690185067ea25c073bff2d3e425a45ee2564d2bbf6cdf7d885e139d460b8e0", v3_1},
};

}  // namespace

std::span<const BuiltinTemplate> deepseek_templates() { return known; }

}  // namespace convoy::model
