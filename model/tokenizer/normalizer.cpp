#include "model/tokenizer/normalizer.hpp"

#include <algorithm>
#include <span>

#include "model/utf8.hpp"

namespace convoy::model {
namespace {

constexpr size_t nfc_shrinks_by_max = 3;  // a Hangul syllable of three letters

/// Form C, with the ranges' ends moved inwards to where a cut changes nothing.
std::string form_c(std::string_view text, std::span<ByteRange> ranges) {
  std::string out;
  size_t done = 0;
  const auto advance = [&](size_t at) {
    if (at > done) out += normalise_nfc(text.substr(done, at - done));
    done = std::max(done, at);
    return out.size();
  };
  for (ByteRange& range : ranges) {
    ByteRange kept = range;
    while (kept.begin < kept.end && !is_nfc_boundary(text, kept.begin))
      kept.begin += character_at(text, kept.begin).bytes;
    while (kept.end > kept.begin && !is_nfc_boundary(text, kept.end))
      kept.end = previous_character(text, kept.end);
    range.begin = range.end = out.size();
    if (kept.begin == kept.end) continue;
    range.begin = advance(kept.begin);
    range.end = advance(kept.end);
  }
  advance(text.size());
  return out;
}

std::string prepended(std::string_view text, const std::string& prefix, std::span<ByteRange> ranges) {
  if (text.empty()) return {};
  for (ByteRange& range : ranges) {
    if (range.begin > 0) range.begin += prefix.size();
    range.end += prefix.size();
  }
  return prefix + std::string(text);
}

std::string replaced(std::string_view text, const NormalStep& step, std::span<ByteRange> ranges) {
  std::string out;
  out.reserve(text.size());
  // Where the begins and ends come to lie: an end inside a match moves out of it, inwards.
  size_t begin = 0, end = 0;
  const auto pass = [&](size_t at, size_t match_bytes, size_t out_behind) {
    for (; begin < ranges.size() && ranges[begin].begin < at + match_bytes; ++begin)
      ranges[begin].begin = ranges[begin].begin <= at ? out.size() - (at - ranges[begin].begin) : out_behind;
    for (; end < ranges.size() && ranges[end].end < at + match_bytes; ++end)
      ranges[end].end = ranges[end].end <= at ? out.size() - (at - ranges[end].end) : out.size();
  };
  for (size_t at = 0;;) {
    const size_t match = std::min(text.find(step.from, at), text.size());
    out += text.substr(at, match - at);
    const bool found = match < text.size();
    pass(match, found ? step.from.size() : 1, out.size() + step.to.size());
    if (!found) break;
    out += step.to;
    at = match + step.from.size();
  }
  for (ByteRange& range : ranges) range.end = std::max(range.begin, range.end);
  return out;
}

}  // namespace

std::string Normalizer::apply(std::string_view text, std::vector<ByteRange>& ranges) const {
  std::string out(text);
  for (const NormalStep& step : steps_) {
    switch (step.kind) {
      case NormalStep::Kind::nfc:
        out = form_c(out, ranges);
        break;
      case NormalStep::Kind::prepend:
        out = prepended(out, step.to, ranges);
        break;
      case NormalStep::Kind::replace:
        out = replaced(out, step, ranges);
        break;
    }
  }
  return out;
}

std::string Normalizer::apply(std::string_view text) const {
  std::vector<ByteRange> none;
  return apply(text, none);
}

size_t Normalizer::shrinks_by_max() const {
  size_t factor = 1;
  for (const NormalStep& step : steps_) {
    if (step.kind == NormalStep::Kind::nfc) factor *= nfc_shrinks_by_max;
    if (step.kind == NormalStep::Kind::replace && step.to.size() < step.from.size()) return 0;
  }
  return factor;
}

}  // namespace convoy::model
