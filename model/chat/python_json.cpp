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
  for (const char c : text) out += json_escaped(c);
  return out + '"';
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
        if (!is_kept_exactly(value.get_double()))
          throw InputError("holds a number that is too large to be kept exactly", where_,
                           "give it as a string, or leave it out");
        out_ += python_float(value.get_double());
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

std::string json_escaped(char c) {
  switch (c) {
    case '"':
      return "\\\"";
    case '\\':
      return "\\\\";
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    case '\f':
      return "\\f";
    case '\b':
      return "\\b";
    default:
      if (static_cast<unsigned char>(c) >= 0x20) return {c};
      return {'\\', 'u', '0', '0', "0123456789abcdef"[c >> 4], "0123456789abcdef"[c & 15]};
  }
}

bool is_kept_exactly(double value) {
  return std::isfinite(value) && !(std::abs(value) >= 0x1p63 && value == std::trunc(value));
}

/// The shortest digits that read back as the value, with an exponent below 1e-4 and from 1e16.
std::string python_float(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  const double size = std::abs(value);
  const bool fixed = size == 0 || (size >= 1e-4 && size < 1e16);
  char buffer[40];
  const auto [end, error] = std::to_chars(std::begin(buffer), std::end(buffer), value,
                                          fixed ? std::chars_format::fixed : std::chars_format::scientific);
  std::string text(buffer, end);
  if (fixed && text.find('.') == text.npos) text += ".0";
  return text;
}

std::string python_json(const json::value& value, const std::string& where, size_t indent) {
  Writer writer(where, indent);
  writer.write(value);
  return writer.take();
}

}  // namespace convoy::model
