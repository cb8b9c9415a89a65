#pragma once
// Chat templates, built in and recognised by comparing the checkpoint's own template with the known ones.
// No Jinja interpreter: a template is a pure function from messages to segments. Any thread.

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/chat/chat_message.hpp"
#include "model/tokenizer/tokenizer.hpp"

namespace convoy::model {

struct RenderOptions {
  bool add_generation_prompt = false;         // end with what opens the assistant's answer
  const boost::json::array* tools = nullptr;  // as the client describes them; none if null
  std::optional<bool> thinking = {};          // for templates that leave the choice; else as they default
};

class ChatTemplate final {
 public:
  using Render = std::vector<Segment>(std::span<const Message>, const RenderOptions&);

  /// sha256: of the publisher's Jinja text, without the newline at its end, which Jinja drops.
  constexpr ChatTemplate(std::string_view name, std::string_view sha256, Render* render)
      : name_(name), sha256_(sha256), render_(render) {}

  /// By name, as the `chat_template` setting gives it ("smollm2", …). Throws InputError that names the
  /// choices.
  static const ChatTemplate& by_name(std::string_view name);
  /// By the checkpoint's own template text. Throws InputError that names the choices for `chat_template`.
  static const ChatTemplate& recognise(std::string_view jinja);
  static std::vector<std::string_view> names();

  std::string_view name() const { return name_; }
  std::string_view sha256() const { return sha256_; }
  /// Byte for byte what the publisher's template gives. Throws InputError where that one fails or refuses,
  /// and for no messages or a tool that is not an object.
  std::vector<Segment> render(std::span<const Message> messages, const RenderOptions& options) const;

 private:
  std::string_view name_, sha256_;
  Render* render_;
};

/// The text of the template `made`, which the checkpoints that we make bring along.
extern const std::string_view made_template_jinja;

/// The segments' text, one after the other.
std::string plain_text(std::span<const Segment> segments);

}  // namespace convoy::model
