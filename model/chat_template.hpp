#pragma once
// Chat templates, built in and recognised by comparing the checkpoint's own template with the known ones.
// No Jinja interpreter: a template is a pure function from messages to segments.

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer.hpp"

namespace convoy::model {

struct Message {
  std::string role;  // system, user, assistant
  std::string content;
};

class ChatTemplate {
 public:
  /// By name, as the `chat_template` setting gives it ("smollm2", …). Throws InputError that names the
  /// choices.
  static const ChatTemplate& by_name(std::string_view name);
  /// By the checkpoint's own template text. Throws InputError that names the choices for `chat_template`.
  static const ChatTemplate& recognise(std::string_view jinja);
  static std::vector<std::string_view> names();
  virtual ~ChatTemplate() = default;

  virtual std::string_view name() const = 0;
  /// Throws InputError for a role or an order that the template refuses.
  virtual std::vector<Segment> render(std::span<const Message> messages,
                                      bool add_generation_prompt) const = 0;
};

/// The segments' text, one after the other.
std::string plain_text(std::span<const Segment> segments);

}  // namespace convoy::model
