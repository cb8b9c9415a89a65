#include "model/chat/python_json.hpp"

#include <charconv>
#include <cmath>
#include <string_view>

#include "model/error.hpp"

namespace convoy::model {
namespace {

namespace json = boost::json;

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\f':
        out += "\\f";
        break;
      case '\b':
        out += "\\b";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          out += "\\u00";
          out += "0123456789abcdef"[c >> 4];
          out += "0123456789abcdef"[c & 15];
        } else {
          out += c;
        }
    }
  }
  return out + '"';
}

/// Python's repr(): the shortest digits that read back as the value, with an exponent below 1e-4 and from
/// 1e16.
std::string spelled(double value, const std::string& where) {
  if (!std::isfinite(value) || (std::abs(value) >= 0x1p63 && value == std::trunc(value))) {
    throw InputError("holds a number that is too large to be kept exactly", where,
                     "give it as a string, or leave it out");
  }
  const double size = std::abs(value);
  const bool fixed = size == 0 || (size >= 1e-4 && size < 1e16);
  char buffer[40];
  const auto [end, error] = std::to_chars(std::begin(buffer), std::end(buffer), value,
                                          fixed ? std::chars_format::fixed : std::chars_format::scientific);
  std::string text(buffer, end);
  if (fixed && text.find('.') == text.npos) text += ".0";
  return text;
}

class Writer {
 public:
  Writer(const std::string& where, size_t indent) : where_(where), indent_(indent) {}

  void write(const json::value& value) {
    switch (value.kind()) {
      case json::kind::null:
        out_ += "null";
        break;
      case json::kind::bool_:
        out_ += value.get_bool() ? "true" : "false";
        break;
      case json::kind::int64:
        out_ += std::to_string(value.get_int64());
        break;
      case json::kind::uint64:
        out_ += std::to_string(value.get_uint64());
        break;
      case json::kind::double_:
        out_ += spelled(value.get_double(), where_);
        break;
      case json::kind::string:
        out_ += quoted(value.get_string());
        break;
      case json::kind::array:
        elements('[', value.get_array(), ']', [this](const json::value& element) { write(element); });
        break;
      case json::kind::object:
        elements('{', value.get_object(), '}', [this](const json::key_value_pair& pair) {
          out_ += quoted(pair.key()) + ": ";
          write(pair.value());
        });
        break;
    }
  }
  std::string take() { return std::move(out_); }

 private:
  template <class Container, class Write>
  void elements(char open, const Container& container, char close, Write write_element) {
    out_ += open;
    depth_++;
    bool first = true;
    for (const auto& element : container) {
      if (!first) out_ += indent_ ? "," : ", ";
      first = false;
      new_line();
      write_element(element);
    }
    depth_--;
    if (!first) new_line();
    out_ += close;
  }
  void new_line() {
    if (indent_) out_ += '\n' + std::string(depth_ * indent_, ' ');
  }

  const std::string& where_;
  size_t indent_, depth_ = 0;
  std::string out_;
};

}  // namespace

std::string python_json(const json::value& value, const std::string& where, size_t indent) {
  Writer writer(where, indent);
  writer.write(value);
  return writer.take();
}

}  // namespace convoy::model
