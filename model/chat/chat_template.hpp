#pragma once
// Chat templates: a Jinja text, of a checkpoint, of those that come with Convoy, or of a file. From messages
// to segments, of which only the template's own may hold control tokens. Immutable; any thread.

#include <ctime>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/chat/chat_message.hpp"
#include "model/chat/jinja/meter.hpp"
#include "model/tokenizer/tokenizer.hpp"

namespace convoy::model {

namespace jinja {
struct Statement;
}

struct RenderOptions {
  bool add_generation_prompt = false;         // end with what opens the assistant's answer
  const boost::json::array* tools = nullptr;  // as the client describes them; none if null
  std::optional<bool> thinking = {};          // for templates that leave the choice; else as they default
  std::time_t now = 0;                        // the caller's clock, for templates that write the date
  jinja::Limits limits = {};
  /// Sees how the prompt begins each time that it has doubled; what it throws ends the rendering.
  std::function<void(std::span<const Segment>)> watch = {};
};

/// What templates call `bos_token` and `eos_token`; absent: undefined.
struct SpecialTokens {
  std::optional<std::string> bos = {}, eos = {};
};
SpecialTokens special_tokens(const Tokenizer& tokenizer);

class ChatTemplate final {
 public:
  /// Throws InputError that names the line where the text is wrong or not supported.
  static ChatTemplate from_text(std::string_view jinja, const SpecialTokens& tokens);
  /// The checkpoint's own; nullopt if it brings none. Throws as from_text().
  static std::optional<ChatTemplate> of(const Tokenizer& tokenizer);
  /// As the `chat_template` setting gives it: the name of one that comes with Convoy ("qwen3"), or a file's
  /// path. Throws InputError that names the choices, or what is wrong with the file.
  static ChatTemplate named(std::string_view name_or_path, const SpecialTokens& tokens);
  /// Whether it is a path rather than a name: one that ends in ".jinja", or has a slash.
  static bool is_path(std::string_view name_or_path);
  static std::vector<std::string_view> names();

  /// The name that the text has in Convoy, else "jinja-" and its SHA-256.
  const std::string& name() const { return name_; }
  /// Of the text, without the newline at its end.
  const std::string& sha256() const { return sha256_; }
  const std::string& text() const { return text_; }  // Jinja, as given
  /// Whether what it renders depends on the time.
  bool reads_clock() const { return reads_clock_; }
  /// Byte for byte what jinja2 gives. Throws InputError where that fails, at the limits, and for no messages
  /// or a tool that is not an object.
  std::vector<Segment> render(std::span<const Message> messages, const RenderOptions& options) const;
  std::vector<Segment> render(LateMessages& messages, const RenderOptions& options) const;

 private:
  ChatTemplate() = default;
  template <class Messages>
  std::vector<Segment> segments(Messages& messages, const RenderOptions& options) const;

  std::string name_, sha256_, text_;
  std::shared_ptr<const std::vector<jinja::Statement>> body_;
  SpecialTokens tokens_;
  bool reads_clock_ = false;
};

/// The segments' text, one after the other.
std::string plain_text(std::span<const Segment> segments);

}  // namespace convoy::model
