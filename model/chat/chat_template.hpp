#pragma once
// Chat templates: the checkpoint's own Jinja text, or one of the built-in ones by name. From messages to
// segments, of which only the template's own may hold control tokens. Immutable; any thread.

#include <ctime>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/chat/chat_message.hpp"
#include "model/chat/jinja/meter.hpp"
#include "model/tokenizer/tokenizer.hpp"

namespace convoy::model {

struct RenderOptions {
  bool add_generation_prompt = false;         // end with what opens the assistant's answer
  const boost::json::array* tools = nullptr;  // as the client describes them; none if null
  std::optional<bool> thinking = {};          // for templates that leave the choice; else as they default
  std::time_t now = 0;                        // the caller's clock, for templates that write the date
  jinja::Limits limits = {};                  // of templates that are interpreted
};

/// What templates call `bos_token` and `eos_token`; absent: undefined.
struct SpecialTokens {
  std::optional<std::string> bos = {}, eos = {};
};

class ChatTemplate final {
 public:
  using Render = std::function<std::vector<Segment>(std::span<const Message>, const RenderOptions&)>;

  /// sha256: of its Jinja text without the newline at its end. reads_clock: what it renders depends on the
  /// time.
  ChatTemplate(std::string name, std::string sha256, Render render, bool reads_clock = false)
      : name_(std::move(name)),
        sha256_(std::move(sha256)),
        render_(std::move(render)),
        reads_clock_(reads_clock) {}

  /// By name, as the `chat_template` setting gives it ("smollm2", …). Throws InputError that names the
  /// choices.
  static ChatTemplate by_name(std::string_view name);
  /// From a Jinja text: the built-in one that has it, else it is interpreted. Throws InputError that names
  /// the line where it is wrong or not supported.
  static ChatTemplate from_text(std::string_view jinja, const SpecialTokens& tokens);
  /// The checkpoint's own; nullopt if it brings none. Throws as from_text().
  static std::optional<ChatTemplate> of(const Tokenizer& tokenizer);
  static std::vector<std::string_view> names();

  /// Unlike for every text: "jinja-" and the text's SHA-256 if it is not built in.
  const std::string& name() const { return name_; }
  const std::string& sha256() const { return sha256_; }
  bool reads_clock() const { return reads_clock_; }
  /// Byte for byte what the publisher's template gives. Throws InputError where that one fails or refuses,
  /// at the limits, and for no messages or a tool that is not an object.
  std::vector<Segment> render(std::span<const Message> messages, const RenderOptions& options) const;

 private:
  std::string name_, sha256_;
  Render render_;
  bool reads_clock_;
};

/// The text of the template `made`, which the checkpoints that we make bring along.
extern const std::string_view made_template_jinja;

/// The segments' text, one after the other.
std::string plain_text(std::span<const Segment> segments);

}  // namespace convoy::model
