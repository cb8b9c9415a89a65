#pragma once
// Text as a template computes with it: each byte knows whether the template wrote it or whether it came in as
// a value. Only what the template wrote may become a control token. Always UTF-8. Plain values; any thread.

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace convoy::model::jinja {

class Text {
 public:
  Text() = default;
  Text(std::string_view bytes, bool trusted) { append(bytes, trusted); }

  std::string_view view() const { return bytes_; }
  size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }
  /// What it costs to hold or to copy.
  size_t cost() const { return bytes_.size() + runs() * sizeof(Run); }

  void append(std::string_view bytes, bool trusted);
  void append(const Text& text) { append(text, 0, text.size()); }
  /// The bytes [begin, end) of another text.
  void append(const Text& text, size_t begin, size_t end);
  Text slice(size_t begin, size_t end) const;

  /// With the characters that mean something in HTML written as jinja2 escapes them.
  Text escaped() const;
  /// Whether it is what jinja2 calls markup, as `| safe` makes it: joined by `+` to another text it stays so,
  /// and that one is escaped. Copies keep it, what is cut or made out of it does not.
  bool markup() const { return markup_; }
  void set_markup() { markup_ = true; }

  /// Calls `each(bytes, trusted)` for every stretch of one origin, in order.
  template <class Each>
  void for_each_run(Each each) const {
    size_t begin = 0;
    for (size_t i = 0; i < runs(); i++) {
      const auto [end, trusted] = run(i);
      each(view().substr(begin, end - begin), trusted);
      begin = end;
    }
  }
  bool trusted_at(size_t at) const { return run(run_at(at)).trusted; }

 private:
  struct Run {
    size_t end;
    bool trusted;
  };
  size_t runs() const { return empty() ? 0 : runs_before_.size() + 1; }
  Run run(size_t i) const { return i < runs_before_.size() ? runs_before_[i] : Run{size(), trusted_}; }
  size_t run_at(size_t at) const;

  std::string bytes_;
  std::vector<Run> runs_before_;  // the last one: most texts have one alone. Ends ascend; neighbours differ
  bool trusted_ = false;          // the last one, which goes on to the end
  bool markup_ = false;
};

// Python counts characters; a Text counts bytes.

size_t count_characters(std::string_view text);
/// Where each character begins, and the end.
std::vector<size_t> character_offsets(std::string_view text);

/// What str.isspace() says: Unicode's white space and the four separators of ASCII.
bool is_python_space(char32_t character);

struct Range {
  size_t begin, end;
};
/// What str.strip() leaves: without white space, or without the characters of `chars`, at the ends asked for.
Range stripped(std::string_view text, bool left, bool right);
Range stripped(std::string_view text, bool left, bool right, std::string_view chars);

/// Where each line stands that str.splitlines() finds, without what ends it.
std::vector<Range> lines_of(std::string_view text);

/// Each character through `convert`, with the origin that it had.
Text converted(const Text& text, char32_t (*convert)(char32_t));
char32_t upper_case(char32_t character);
char32_t lower_case(char32_t character);
bool is_cased(char32_t character);

}  // namespace convoy::model::jinja
