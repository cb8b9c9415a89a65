#include "model/nearest.hpp"

#include <algorithm>
#include <numeric>
#include <vector>

namespace convoy::model {

namespace {

/// Changes of one character that turn a into b.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({change, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

constexpr size_t name_bytes_max = 100;  // nobody misspells a longer one, and the distance costs their product

}  // namespace

std::string_view nearest(std::string_view name, std::span<const std::string_view> known) {
  if (known.empty() || name.size() > name_bytes_max) return {};
  const std::string_view best = *std::min_element(known.begin(), known.end(), [&](auto a, auto b) {
    return edit_distance(name, a) < edit_distance(name, b);
  });
  return edit_distance(name, best) <= std::max<size_t>(2, best.size() / 3) ? best : std::string_view{};
}

std::string suggestion(std::string_view name, std::span<const std::string_view> known) {
  if (const std::string_view best = nearest(name, known); !best.empty())
    return "; did you mean `" + std::string(best) + "`?";
  std::string all;
  for (const std::string_view k : known) all += (all.empty() ? "" : ", ") + std::string(k);
  return "; there are " + all;
}

}  // namespace convoy::model
