#include "gateway/answer_key.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "actors/process/secret.hpp"

namespace convoy::gateway {
namespace {

namespace json = boost::json;

/// Fields that change when and how an answer comes, and how many there are, never what one says.
constexpr std::array<std::string_view, 7> transport_fields = {
    "stream", "stream_options", "user", "priority", "speculation", "n", "best_of"};

void append_number(std::string& out, uint64_t value) {
  for (int shift = 56; shift >= 0; shift -= 8) out += static_cast<char>(value >> shift);
}

/// Lengths come first, so that no text can pretend to be the end of its field.
void append_text(std::string& out, std::string_view text) {
  append_number(out, text.size());
  out += text;
}

void append_integer(std::string& out, bool negative, uint64_t magnitude) {
  out += negative ? '-' : '+';
  append_number(out, magnitude);
}

/// Numbers of equal value have equal bytes: a double that is an integer is written as one. No rounding: what
/// is not exactly an integer of 64 bits keeps its own bits.
void append_double(std::string& out, double value) {
  constexpr double two_to_64 = 18446744073709551616.0;
  const double magnitude = std::fabs(value);
  if (magnitude == std::floor(magnitude) && magnitude < two_to_64)
    return append_integer(out, value < 0, static_cast<uint64_t>(magnitude));
  out += 'd';
  append_number(out, std::bit_cast<uint64_t>(value));
}

void append_value(std::string& out, const json::value& value);

template <class Keep>
void append_object(std::string& out, const json::object& object, Keep keep) {
  std::vector<const json::key_value_pair*> fields;
  for (const auto& field : object)
    if (keep(field.key())) fields.push_back(&field);
  std::sort(fields.begin(), fields.end(), [](auto* a, auto* b) { return a->key() < b->key(); });
  out += 'o';
  append_number(out, fields.size());
  for (const auto* field : fields) {
    append_text(out, field->key());
    append_value(out, field->value());
  }
}

void append_value(std::string& out, const json::value& value) {
  switch (value.kind()) {
    case json::kind::null:
      out += 'n';
      break;
    case json::kind::bool_:
      out += value.get_bool() ? 't' : 'f';
      break;
    case json::kind::int64: {
      const int64_t number = value.get_int64();
      append_integer(out, number < 0,
                     number < 0 ? 0 - static_cast<uint64_t>(number) : static_cast<uint64_t>(number));
      break;
    }
    case json::kind::uint64:
      append_integer(out, false, value.get_uint64());
      break;
    case json::kind::double_:
      append_double(out, value.get_double());
      break;
    case json::kind::string:
      out += 's';
      append_text(out, value.get_string());
      break;
    case json::kind::array:
      out += 'a';
      append_number(out, value.get_array().size());
      for (const auto& item : value.get_array()) append_value(out, item);
      break;
    case json::kind::object:
      append_object(out, value.get_object(), [](std::string_view) { return true; });
      break;
  }
}

}  // namespace

std::string canonical_request(const json::object& request) {
  std::string out;
  append_object(out, request, [](std::string_view key) {
    return std::find(transport_fields.begin(), transport_fields.end(), key) == transport_fields.end();
  });
  return out;
}

std::string answer_key_of(const std::string& secret) { return actors::derive_key(secret, "answer-key"); }

std::string answer_key(const std::string& key, std::string_view tenant, const KeyContext& context,
                       const json::object& request) {
  std::string message;
  for (const std::string_view text :
       {tenant, std::string_view(context.weights_digest), std::string_view(context.tokenizer_digest),
        std::string_view(context.template_id), std::string_view(context.endpoint),
        std::string_view(context.kernel_variant)})
    append_text(message, text);
  append_number(message, context.cache_epoch);
  append_number(message, context.end_tokens.size());
  for (const int32_t id : context.end_tokens) append_number(message, static_cast<uint64_t>(id));
  message += canonical_request(request);
  return actors::hmac_sha256(key, message);
}

}  // namespace convoy::gateway
