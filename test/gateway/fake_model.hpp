#pragma once
// A model to test the edge with: token ids are bytes, a few more are control tokens or longer pieces.

#include <stdexcept>

#include "gateway/gateway.hpp"
#include "model/error.hpp"

namespace convoy::gateway::test {

constexpr int32_t end_token = 256, control_token = 257, piece_token = 258;  // piece_token: " piece"
constexpr int64_t vocab = 259;

class ByteTokenizer : public model::Tokenizer {
 public:
  explicit ByteTokenizer(bool drops_leading_blank = false) : drops_leading_blank_(drops_leading_blank) {}

  std::vector<int32_t> encode(std::span<const model::Segment> segments,
                              const std::stop_token&) const override {
    std::vector<int32_t> ids;
    for (const auto& segment : segments) {
      std::string_view text = segment.text;
      while (!text.empty()) {
        if (segment.trusted && text.starts_with("<ctl>")) {
          ids.push_back(control_token);
          text.remove_prefix(5);
        } else {
          ids.push_back(static_cast<unsigned char>(text[0]));
          text.remove_prefix(1);
        }
      }
    }
    return ids;
  }
  size_t tokens_min(std::span<const model::Segment> text) const override {
    size_t bytes = 0;
    for (const model::Segment& segment : text) bytes += segment.text.size();
    return (bytes + 4) / 5;  // "<ctl>"
  }
  std::string decode(std::span<const int32_t>, bool) const override { throw std::logic_error("not used"); }
  bool drops_leading_blank() const override { return drops_leading_blank_; }
  std::string_view kind() const override { return "bytes"; }
  std::string_view bytes(int32_t id) const override {
    static const std::string all = [] {
      std::string s;
      for (int i = 0; i < 256; ++i) s += static_cast<char>(i);
      return s;
    }();
    if (id >= 0 && id < 256) return std::string_view(all).substr(static_cast<size_t>(id), 1);
    return id == end_token ? "<end>" : id == control_token ? "<ctl>" : id == piece_token ? " piece" : "";
  }
  bool is_control(int32_t id) const override { return id == end_token || id == control_token; }
  std::optional<int32_t> id_of(std::string_view) const override { return {}; }
  int64_t size() const override { return vocab; }
  const std::string& digest() const override { return digest_; }
  const std::optional<std::string>& chat_template() const override { return template_; }
  std::optional<int32_t> bos() const override { return {}; }
  std::optional<int32_t> eos() const override { return end_token; }

 private:
  bool drops_leading_blank_ = false;
  std::string digest_ = "bytes";
  std::optional<std::string> template_;
};

/// "<ctl>role:content" for each message.
inline constexpr std::string_view plain_template =
    "{% for m in messages %}"
    "{% if m.content == 'refuse me' %}{{ raise_exception('the template refuses this') }}{% endif %}"
    "{{ '<ctl>' + m.role + ':' + m.content }}"
    "{% endfor %}";

inline ServedModel fake_model(int64_t context_tokens = 1000) {
  return {"fake-model",
          {},
          1700000000,
          context_tokens,
          vocab,
          std::make_shared<ByteTokenizer>(),
          model::ChatTemplate::from_text(plain_template, {}),
          {end_token},
          "0123456789abcdef"};
}

}  // namespace convoy::gateway::test
