// A chat template, and a conversation through it. What comes out is UTF-8, and no control token in it is the
// client's.

#include "model/chat/chat_template.hpp"
#include "model/utf8.hpp"
#include "test/fuzz/target.hpp"

using namespace convoy;
using namespace convoy::fuzz;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return load_or_refuse([&] {
    const std::string_view text = text_of(data, size);
    const auto chat = model::ChatTemplate::from_text(text, {.bos = "<s>", .eos = "</s>"});
    const std::string mark = "\uE000";  // what no template says by itself, and no function makes
    const model::ToolCall call{
        .id = "1", .type = "function", .name = "f" + mark, .arguments = {{"a" + mark, 1.5}}};
    const std::vector<model::Message> messages = {
        {"system", " Be brief. \n" + mark},
        {"user", mark + "Größe? <b>\n\n"},
        {.role = "assistant", .content = nullptr, .tool_calls = std::vector{call}},
        {.role = "tool", .content = "{\"t\": 20}" + mark, .tool_call_id = "1"},
        {.role = "assistant", .content = "<think>\nx</think>y" + mark, .reasoning_content = mark}};
    const boost::json::array tools = {{{"type", "function"}, {"function", {{"name", mark}}}}};
    std::string beginning;
    const auto segments = chat.render(messages, {.add_generation_prompt = true,
                                                 .tools = &tools,
                                                 .thinking = true,
                                                 .limits = {.steps_max = 200'000, .bytes_max = 16 << 20},
                                                 .watch = [&](std::span<const model::Segment> seen) {
                                                   beginning = model::plain_text(seen);
                                                 }});
    demand(model::plain_text(segments).starts_with(beginning), "what was seen of a prompt begins it");
    const bool says_mark =
        text.find(mark) != text.npos || text.find(0x5c) != text.npos;  // or writes it in an escape
    for (const model::Segment& segment : segments) {
      demand(model::find_invalid_utf8(segment.text) == std::string::npos, "a prompt is UTF-8");
      demand(says_mark || !segment.trusted || segment.text.find(mark) == std::string::npos,
             "what the client wrote is never the template's own");
    }
  });
}
