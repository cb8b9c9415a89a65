// config.json and, behind a zero byte, generation_config.json.

#include "model/config.hpp"

#include <algorithm>
#include <cmath>

#include "test/fuzz/target.hpp"

using namespace convoy;
using namespace convoy::fuzz;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text = text_of(data, size);
  const size_t end = std::min(text.find('\0'), text.size());
  const std::string_view generation = end < text.size() ? text.substr(end + 1) : std::string_view{};
  return load_or_refuse([&] {
    const model::Config config = model::parse_config_json(text.substr(0, end), generation, "config.json");
    for (const double frequency : model::rope_frequencies(config.rope, config.head_dim))
      demand(std::isfinite(frequency), "rotary frequencies are numbers");
    const double magnitude = model::rope_magnitude(config.rope);
    demand(std::isfinite(magnitude) && magnitude > 0, "the rotations' magnitude is a number above 0");
    const float scale = model::attention_scale(config);
    demand(std::isfinite(scale) && scale > 0, "attention's scale is a number above 0");
    for (const model::CacheStream& stream : model::cache_streams(config))
      demand(stream.width > 0 && stream.tokens_per_entry > 0, "a cache's stream has a width");
  });
}
