#include "model/chat/jinja/spelling.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <cmath>

#include "model/chat/python_json.hpp"
#include "model/utf8.hpp"

namespace convoy::model::jinja {
namespace {

/// What str.isprintable() says.
bool is_printable(char32_t character) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(character))) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    case UTF8PROC_CATEGORY_ZS:
      return character == ' ';
    default:
      return true;
  }
}

std::string hex(char32_t value, int digits) {
  std::string text;
  for (int i = digits - 1; i >= 0; i--) text += "0123456789abcdef"[(value >> (4 * i)) & 15];
  return text;
}

void escape_for_repr(char32_t character, char quote, std::string& out) {
  if (character == static_cast<char32_t>(quote) || character == '\\')
    (out += '\\') += static_cast<char>(character);
  else if (character == '\n')
    out += "\\n";
  else if (character == '\r')
    out += "\\r";
  else if (character == '\t')
    out += "\\t";
  else if (is_printable(character))
    append_utf8(character, out);
  else if (character < 0x100)
    out += "\\x" + hex(character, 2);
  else if (character < 0x10000)
    out += "\\u" + hex(character, 4);
  else
    out += "\\U" + hex(character, 8);
}

void escape_for_json(char32_t character, bool ascii, std::string& out) {
  if (character < 0x7f || (character == 0x7f && !ascii)) {
    out += json_escaped(static_cast<char>(character));
  } else if (!ascii) {
    append_utf8(character, out);
  } else if (character < 0x10000) {
    out += "\\u" + hex(character, 4);
  } else {
    out += "\\u" + hex(0xd800 + ((character - 0x10000) >> 10), 4);
    out += "\\u" + hex(0xdc00 + ((character - 0x10000) & 0x3ff), 4);
  }
}

std::string_view number_words(const Value& value) {
  if (const bool* boolean = value.get<bool>()) return *boolean ? "True" : "False";
  if (value.none()) return "None";
  return {};
}

class Writer {
 public:
  explicit Writer(Meter& meter) : meter_(meter) {}
  Text take() { return std::move(out_); }

 protected:
  void own(std::string_view text) {
    meter_.bytes(text.size());
    out_.append(text, false);
  }
  template <class Escape>
  void quoted(const Text& text, std::string_view quote, Escape escape) {
    meter_.bytes(text.cost());
    own(quote);
    text.for_each_run([&](std::string_view bytes, bool trusted) {
      std::string escaped;
      for (size_t at = 0; at < bytes.size();) {
        const Utf8Character c = character_at(bytes, at);
        escape(c.value, escaped);
        at += c.bytes;
      }
      meter_.bytes(escaped.size());
      out_.append(escaped, trusted);
    });
    own(quote);
  }
  /// Whether it was a number.
  bool number(const Value& value) {
    if (const int64_t* integer = value.get<int64_t>())
      own(std::to_string(*integer));
    else if (const auto big = value.big())
      own(std::to_string(*big));
    else if (const double* real = value.get<double>())
      own(python_float(*real));
    else
      return false;
    return true;
  }

  Meter& meter_;
  Text out_;
};

class Repr final : public Writer {
 public:
  using Writer::Writer;

  void write(const Value& value) {
    meter_.steps(1);
    if (const Text* text = value.text()) {
      const bool has_single = text->view().find('\'') != std::string_view::npos,
                 has_double = text->view().find('"') != std::string_view::npos;
      const char quote = has_single && !has_double ? '"' : '\'';
      quoted(*text, {&quote, 1},
             [quote](char32_t character, std::string& out) { escape_for_repr(character, quote, out); });
    } else if (const std::string_view words = number_words(value); !words.empty()) {
      own(words);
    } else if (const Dictionary* dictionary = value.dictionary()) {
      own("{");
      separate(dictionary->entries(), [this](const Dictionary::Entry& entry) {
        write(entry.key);
        own(": ");
        write(entry.value);
      });
      own("}");
    } else if (value.list() &&
               (value.list()->kind == List::Kind::list || value.list()->kind == List::Kind::tuple)) {
      const bool tuple = value.list()->kind == List::Kind::tuple;
      own(tuple ? "(" : "[");
      separate(value.list()->elements, [this](const Value& element) { write(element); });
      own(tuple ? value.list()->elements.size() == 1 ? ",)" : ")" : "]");
    } else if (value.undefined()) {
      own("Undefined");
    } else if (!number(value)) {
      meter_.fail("prints " + std::string(value.list() ? "what a filter goes through" : value.kind()),
                  "use a template that prints text");
    }
  }

 private:
  template <class Elements, class Write>
  void separate(const Elements& elements, Write write_element) {
    bool first = true;
    for (const auto& element : elements) {
      if (!first) own(", ");
      first = false;
      write_element(element);
    }
  }
};

class Json final : public Writer {
 public:
  Json(Meter& meter, const JsonStyle& style) : Writer(meter), style_(style) {}

  void write(const Value& value) {
    meter_.steps(1);
    if (const Text* text = value.text())
      write_text(*text);
    else if (value.none())
      own("null");
    else if (const bool* boolean = value.get<bool>())
      own(*boolean ? "true" : "false");
    else if (const Dictionary* dictionary = value.dictionary())
      write_dictionary(*dictionary);
    else if (value.list() &&
             (value.list()->kind == List::Kind::list || value.list()->kind == List::Kind::tuple))
      elements('[', value.list()->elements, ']', [this](const Value& element) { write(element); });
    else if (const double* real = value.get<double>(); real && !std::isfinite(*real))
      own(std::isnan(*real) ? "NaN" : *real < 0 ? "-Infinity" : "Infinity");
    else if (!number(value))
      meter_.fail("writes " + std::string(value.kind()) + " as JSON");
  }

 private:
  void write_text(const Text& text) {
    quoted(text, "\"",
           [this](char32_t character, std::string& out) { escape_for_json(character, style_.ascii, out); });
  }
  /// JSON's keys are strings: numbers and none are written as such.
  void write_key(const Value& key) {
    if (key.text()) return write_text(*key.text());
    own("\"");
    write(key);
    own("\"");
  }
  void write_dictionary(const Dictionary& dictionary) {
    std::vector<const Dictionary::Entry*> entries;
    meter_.bytes(dictionary.entries().size() * sizeof(void*));
    for (const auto& entry : dictionary.entries()) entries.push_back(&entry);
    if (style_.sorted) {
      std::stable_sort(entries.begin(), entries.end(),
                       [this](const auto* a, const auto* b) { return less(meter_, a->key, b->key); });
    }
    elements('{', entries, '}', [this](const Dictionary::Entry* entry) {
      write_key(entry->key);
      own(style_.key_separator);
      write(entry->value);
    });
  }
  template <class Elements, class Write>
  void elements(char open, const Elements& all, char close, Write write_element) {
    own({&open, 1});
    depth_++;
    bool first = true;
    for (const auto& element : all) {
      if (!first) own(style_.item_separator);
      first = false;
      new_line();
      write_element(element);
    }
    depth_--;
    if (!first) new_line();
    own({&close, 1});
  }
  void new_line() {
    if (!style_.indent) return;
    own("\n");
    for (size_t i = 0; i < depth_; i++) own(*style_.indent);
  }

  const JsonStyle& style_;
  size_t depth_ = 0;
};

}  // namespace

TextPtr to_text(Meter& meter, const Value& value) {
  if (const auto* text = value.get<TextPtr>()) return *text;
  if (value.undefined()) return std::make_shared<const Text>();
  Repr repr(meter);
  repr.write(value);
  return std::make_shared<const Text>(repr.take());
}

Text to_json(Meter& meter, const Value& value, const JsonStyle& style) {
  Json json(meter, style);
  json.write(value);
  return json.take();
}

}  // namespace convoy::model::jinja
