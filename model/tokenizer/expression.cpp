#define PCRE2_CODE_UNIT_WIDTH 8
#include "model/tokenizer/expression.hpp"

#include <pcre2.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <new>

#include "model/error.hpp"
#include "model/tokenizer/unicode_16.hpp"

namespace convoy::model {
namespace {

// One match may take this many steps, and this many more for each byte of the text: enough for a run of
// blanks as long as the text, far too few for an expression that backtracks exponentially.
constexpr size_t match_steps_max = 1'000'000;
constexpr size_t match_steps_per_byte = 32;
constexpr size_t jit_stack_bytes_min = 32 << 10;
constexpr size_t jit_stack_bytes_max = 8 << 20;
constexpr uint32_t heap_kib_max = 256 << 10;
constexpr size_t expression_bytes_max = 64 << 10;

std::string pcre_message(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

/// Walks an expression once, copying it while it rewrites or refuses what the two engines read differently.
class Translation {
 public:
  Translation(std::string_view pattern, std::string_view where) : in_(pattern), where_(where) {}

  std::string run() {
    while (at_ < in_.size()) {
      if (in_[at_] == '\\') {
        escape();
      } else if (in_class_) {
        class_character();
      } else {
        character();
      }
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(std::string_view what) const {
    throw InputError(
        "the expression " + std::string(in_) + " uses " + std::string(what) + ", which is not supported",
        std::string(where_), "use a tokenizer whose expressions do without it");
  }

  void copy(size_t bytes) {
    out_ += in_.substr(at_, bytes);
    at_ += bytes;
  }

  void escape() {
    if (at_ + 1 == in_.size()) refuse("a backslash at its end");
    const char c = in_[at_ + 1];
    // White_Space, not PCRE2's own \s, which has U+180E as well.
    if (c == 's' || c == 'S') {
      out_ += c == 's' ? "\\p{White_Space}" : "\\P{White_Space}";
      at_ += 2;
    } else if (c == 'u') {
      const std::string_view digits = in_.substr(at_ + 2, 4);
      if (digits.size() < 4 || digits.find_first_not_of("0123456789abcdefABCDEF") != digits.npos) {
        refuse("\\u without four hexadecimal digits");
      }
      out_ += "\\x{" + std::string(digits) + "}";
      at_ += 6;
    } else if ((c == 'p' || c == 'P') && at_ + 2 < in_.size() && in_[at_ + 2] == '{') {
      const size_t close = in_.find('}', at_);
      if (close == in_.npos) refuse("a property without its closing brace");
      property(in_.substr(at_ + 3, close - at_ - 3), c == 'P');
      at_ = close + 1;
    } else if (c == 'x' && at_ + 2 < in_.size() && in_[at_ + 2] == '{') {
      const size_t close = in_.find('}', at_);
      if (close == in_.npos) refuse("\\x{ without its closing brace");
      copy(close + 1 - at_);
    } else if (std::string_view("rntdD").find(c) != std::string_view::npos ||
               std::ispunct(static_cast<unsigned char>(c))) {
      copy(2);
    } else {
      refuse("\\" + std::string(1, c));
    }
  }

  /// Completes a general category (L, Lu, …) with the characters that PCRE2 does not know yet; where it does,
  /// naming them again changes nothing.
  void property(std::string_view name, bool negated) {
    if (name.starts_with("^")) refuse("a property with ^");
    const std::string plain = "\\p{" + std::string(name) + "}";
    std::string set = plain + additions(name);
    if (set == plain) {
      out_ += (negated ? "\\P{" : "\\p{") + std::string(name) + "}";
    } else if (!in_class_) {
      out_ += (negated ? "[^" : "[") + set + "]";
    } else if (!negated) {
      out_ += set;
    } else {
      refuse("\\P{" + std::string(name) + "} in a set");
    }
  }

  /// The additions of a category, as ranges of a set; empty for other properties.
  static std::string additions(std::string_view category) {
    std::string ranges;
    for (const UnicodeAddition& a : unicode_16_additions) {
      if (category.empty() || !std::string_view(a.category).starts_with(category)) continue;
      char range[32];
      std::snprintf(range, sizeof range, "\\x{%X}-\\x{%X}", static_cast<unsigned>(a.first),
                    static_cast<unsigned>(a.last));
      ranges += range;
    }
    return ranges;
  }

  void class_character() {
    if (in_[at_] == '[') refuse("a set inside a set");
    if (in_.substr(at_).starts_with("&&")) refuse("&& in a set");
    if (in_[at_] == ']') in_class_ = false;
    copy(1);
  }

  void repetition() {
    const std::string_view rest = in_.substr(at_);
    const size_t close = rest.find('}');
    const std::string_view count = rest.substr(1, close == rest.npos ? close : close - 1);
    if (close == rest.npos || count.find_first_not_of("0123456789,") != count.npos)
      refuse("a brace that is no repetition");
    const std::string_view behind = rest.substr(close + 1);
    if (behind.starts_with("+")) refuse("a repetition in braces followed by +");
    // To Oniguruma a{2}? is (?:a{2})?.
    if (behind.starts_with("?") && count.find(',') == count.npos) refuse("a fixed repetition followed by ?");
    if (count.size() > 1 && count[0] == ',' && count.find(',', 1) == count.npos) {
      out_ += "{0";  // {,n}, which PCRE2 takes for a text
      ++at_;
      copy(close);
    } else {
      copy(close + 1);
    }
  }

  void character() {
    const std::string_view rest = in_.substr(at_);
    if (rest[0] == '[') {
      in_class_ = true;
      copy(rest.starts_with("[^") ? 2 : 1);
      if (in_.substr(at_).starts_with("]")) refuse("an empty set");
    } else if (rest[0] == '{') {
      repetition();
    } else if (rest.starts_with("(?")) {
      static constexpr std::string_view known[] = {"(?:", "(?!", "(?=", "(?<!", "(?<=", "(?>", "(?i:"};
      const auto* group = std::find_if(std::begin(known), std::end(known),
                                       [&](std::string_view k) { return rest.starts_with(k); });
      const bool leading_flag = at_ == 0 && rest.starts_with("(?i)");
      if (group == std::end(known) && !leading_flag) refuse("the group " + std::string(rest.substr(0, 4)));
      copy(leading_flag ? 4 : group->size());
    } else if (rest.starts_with("(*")) {
      refuse("(*");
    } else {
      copy(1);
    }
  }

  std::string_view in_, where_;
  std::string out_;
  size_t at_ = 0;
  bool in_class_ = false;
};

}  // namespace

std::string translate_expression(std::string_view pattern, std::string_view where) {
  // DeepSeek V2's rule for blanks that end a line. Tried at every blank of a run that ends elsewhere it takes
  // the square of the run's length where there is no JIT compiler, which sees by itself that only the first
  // blank of a run, or of the search, is worth a try.
  if (pattern == R"(\s+$)") return R"((?:\G|(?<!\p{White_Space}))\p{White_Space}+$)";
  return Translation(pattern, where).run();
}

struct Expression::Code {
  pcre2_code* code = nullptr;
  ~Code() { pcre2_code_free(code); }
};

struct Expression::Scratch::Memory {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(jit_stack_bytes_min, jit_stack_bytes_max, nullptr);
  ~Memory() {
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
  }
};

Expression::Scratch::Scratch(size_t text_bytes) : memory_(std::make_unique<Memory>()) {
  if (!memory_->data || !memory_->context || !memory_->stack) throw std::bad_alloc();
  const size_t steps = match_steps_max + match_steps_per_byte * text_bytes;
  pcre2_set_match_limit(memory_->context, static_cast<uint32_t>(std::min<size_t>(steps, UINT32_MAX)));
  pcre2_set_heap_limit(memory_->context, heap_kib_max);
  pcre2_jit_stack_assign(memory_->context, nullptr, memory_->stack);
}
Expression::Scratch::~Scratch() = default;

Expression::Expression(std::string_view pattern, std::string_view where)
    : code_(std::make_unique<Code>()), where_(where) {
  if (pattern.size() > expression_bytes_max) {
    throw InputError("an expression of " + std::to_string(pattern.size()) + " bytes, at most " +
                         std::to_string(expression_bytes_max) + " are supported",
                     where_, "check that the file is a tokenizer");
  }
  const std::string translated = translate_expression(pattern, where);
  int error = 0;
  PCRE2_SIZE offset = 0;
  // Multi-line, as Oniguruma's ^ and $ always are.
  code_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                              PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                              &offset, nullptr);
  if (!code_->code) {
    throw InputError("the expression " + translated + " is wrong at its byte " + std::to_string(offset) +
                         ": " + pcre_message(error),
                     where_, "check that the file is whole");
  }
  // Where PCRE2 has no JIT compiler, its interpreter gives the same matches.
  (void)pcre2_jit_compile(code_->code, PCRE2_JIT_COMPLETE);
}
Expression::~Expression() = default;
Expression::Expression(Expression&&) noexcept = default;

bool Expression::find(std::string_view text, size_t from, Scratch& scratch, Match& match) const {
  const int found = pcre2_match(code_->code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                                PCRE2_NO_UTF_CHECK, scratch.memory_->data, scratch.memory_->context);
  if (found == PCRE2_ERROR_NOMATCH) return false;
  if (found < 0) {
    throw InputError("a pre-tokenizer expression gave up on the text: " + pcre_message(found), where_,
                     "shorten the text");
  }
  const PCRE2_SIZE* range = pcre2_get_ovector_pointer(scratch.memory_->data);
  match = {range[0], range[1]};
  return true;
}

}  // namespace convoy::model
