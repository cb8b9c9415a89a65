#pragma once
// BPE, byte-level or sentencepiece-like, exact: from tokenizer.json or from a GGUF's metadata. Immutable
// after loading; any thread may use it.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

namespace convoy::model {

/// A piece of a prompt. Control tokens are recognised only in trusted pieces (the template's own text): user
/// text never becomes a control token. Neighbouring pieces are encoded as one text, as the reference does.
struct Segment {
  std::string text;
  bool trusted = false;
};

class Tokenizer {
 public:
  /// From a checkpoint directory, a GGUF file or a tokenizer.json. Reads no weights. Throws InputError;
  /// an unknown pre-tokenizer, normalizer or post-processor is an error that names it.
  static std::shared_ptr<const Tokenizer> load(const std::filesystem::path& path);
  virtual ~Tokenizer() = default;

  /// Whether the tokenizer's own post-processing (such as a leading BOS) applies is the reference's
  /// `add_special_tokens`; the golden cases use the tokenizer as the reference's encode(text) does with it
  /// false.
  /// Throws InputError for a segment that is not UTF-8, and for text that a pre-tokenizer expression gives up
  /// on. Once `stop` is requested nobody wants the ids any more: it returns soon, with some of them.
  virtual std::vector<int32_t> encode(std::span<const Segment> segments,
                                      const std::stop_token& stop) const = 0;
  std::vector<int32_t> encode(std::span<const Segment> segments) const { return encode(segments, {}); }
  /// One segment, trusted or not.
  std::vector<int32_t> encode(std::string_view text, bool recognise_control) const;

  /// No more tokens than encode() gives, told by a look at the bytes: a text that cannot fit is known before
  /// any of it is encoded.
  virtual size_t tokens_min(std::span<const Segment> text) const = 0;

  /// Text of the ids, as one text of its own; bytes that are not UTF-8 become U+FFFD. Control tokens appear
  /// as their text unless skipped.
  virtual std::string decode(std::span<const int32_t> ids, bool skip_control = false) const = 0;
  /// Whether a blank that begins a text is not written: sentencepiece puts one before the first word.
  virtual bool drops_leading_blank() const = 0;
  /// What kind it is, for people.
  virtual std::string_view kind() const = 0;
  /// Raw bytes of one token (may be part of a character); empty for an id out of range.
  virtual std::string_view bytes(int32_t id) const = 0;
  /// Whether it is a control token: "special" in tokenizer.json, type control in a GGUF. Added tokens that
  /// are not
  /// (<think>, <tool_call>) belong to an answer's text.
  virtual bool is_control(int32_t id) const = 0;
  /// By its text: an added token's own, another's as the vocabulary writes it (a leading blank as Ġ).
  virtual std::optional<int32_t> id_of(std::string_view token) const = 0;
  virtual int64_t size() const = 0;
  /// SHA-256, hex, over everything that shapes its output.
  virtual const std::string& digest() const = 0;
  /// The checkpoint's own chat template (Jinja text), if it has one.
  virtual const std::optional<std::string>& chat_template() const = 0;
  virtual std::optional<int32_t> bos() const = 0;
  virtual std::optional<int32_t> eos() const = 0;
};

}  // namespace convoy::model
