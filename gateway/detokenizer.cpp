#include "gateway/detokenizer.hpp"

#include <algorithm>
#include <cassert>

namespace convoy::gateway {

namespace {

constexpr std::string_view replacement = "\xEF\xBF\xBD";  // U+FFFD

/// Bytes of the character that starts with this byte; 0 if none does.
size_t character_size(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return 2;
  if (lead >= 0xE0 && lead <= 0xEF) return 3;
  if (lead >= 0xF0 && lead <= 0xF4) return 4;
  return 0;
}

}  // namespace

bool Utf8Decoder::continues(unsigned char byte) const {
  unsigned char low = 0x80, high = 0xBF;
  if (pending_.size() ==
      1) {  // overlong forms, surrogates and what lies beyond U+10FFFF end at the second byte
    switch (static_cast<unsigned char>(pending_[0])) {
      case 0xE0:
        low = 0xA0;
        break;
      case 0xED:
        high = 0x9F;
        break;
      case 0xF0:
        low = 0x90;
        break;
      case 0xF4:
        high = 0x8F;
        break;
      default:
        break;
    }
  }
  return byte >= low && byte <= high;
}

void Utf8Decoder::push(std::string_view bytes, std::string& text) {
  for (char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (!pending_.empty()) {
      if (continues(byte)) {
        pending_ += c;
        if (pending_.size() == size_) {
          text += pending_;
          pending_.clear();
        }
        continue;
      }
      text += replacement;
      pending_.clear();
    }
    size_ = character_size(byte);
    if (size_ == 1)
      text += c;
    else if (size_ == 0)
      text += replacement;
    else
      pending_ = c;
  }
}

void Utf8Decoder::finish(std::string& text) {
  if (!pending_.empty()) text += replacement;
  pending_.clear();
}

StopMatcher::StopMatcher(std::vector<std::string> stops) {
  for (std::string& stop : stops) {
    assert(!stop.empty());
    Pattern p{std::move(stop), {}, 0};
    p.border.assign(p.text.size(), 0);
    for (size_t i = 1, k = 0; i < p.text.size(); ++i) {
      while (k > 0 && p.text[i] != p.text[k]) k = p.border[k - 1];
      if (p.text[i] == p.text[k]) ++k;
      p.border[i] = k;
    }
    patterns_.push_back(std::move(p));
  }
}

size_t StopMatcher::advance(char byte, bool may_stop) {
  size_t longest = 0;
  for (Pattern& p : patterns_) {
    while (p.matched > 0 && p.text[p.matched] != byte) p.matched = p.border[p.matched - 1];
    if (p.text[p.matched] == byte) ++p.matched;
    if (p.matched == p.text.size()) {
      if (may_stop) longest = std::max(longest, p.matched);
      p.matched = p.border.back();  // never read past the pattern
    }
  }
  return longest;
}

size_t StopMatcher::held() const {
  size_t most = 0;
  for (const Pattern& p : patterns_) most = std::max(most, p.matched);
  return most;
}

bool StopMatcher::push(std::string_view piece, std::string& text, bool may_stop) {
  assert(!found_);
  for (char c : piece) {
    buffer_ += c;
    if (const size_t size = advance(c, may_stop)) {
      text.append(buffer_, 0, buffer_.size() - size);
      buffer_.clear();
      return found_ = true;
    }
  }
  const size_t certain = buffer_.size() - held();
  text.append(buffer_, 0, certain);
  buffer_.erase(0, certain);
  return false;
}

void StopMatcher::finish(std::string& text) {
  text += buffer_;
  buffer_.clear();
}

bool Detokenizer::push(std::string_view token_bytes, std::string& text, bool may_stop) {
  if (drops_blank_ && !token_bytes.empty()) {
    drops_blank_ = false;
    if (token_bytes.front() == ' ') token_bytes.remove_prefix(1);
  }
  std::string decoded;
  decoder_.push(token_bytes, decoded);
  characters_ += static_cast<uint64_t>(
      std::count_if(decoded.begin(), decoded.end(), [](char c) { return (c & 0xC0) != 0x80; }));
  return matcher_.push(decoded, text, may_stop);
}

bool Detokenizer::finish(std::string& text) {
  std::string rest;
  decoder_.finish(rest);
  if (matcher_.push(rest, text)) return true;
  matcher_.finish(text);
  return false;
}

}  // namespace convoy::gateway
