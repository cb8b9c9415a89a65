#include "gpu/cpu/packed.hpp"

#include <cassert>
#include <cstring>

namespace convoy::gpu {

namespace {

/// Where in a block a lone half-precision number is; -1: nowhere.
int64_t lone_half(model::DType type) {
  switch (type) {
    case model::DType::q4_0:
    case model::DType::iq4_nl:
    case model::DType::q8_0:
      return 0;
    case model::DType::q6_k:
      return 208;
    default:
      return -1;
  }
}

int64_t bytes_of_block(model::DType type) {
  assert(model::info(type).block_values > 1);
  return static_cast<int64_t>(model::info(type).block_bytes);
}

/// use(offset in a stored block, bytes) for each unit, in order. In a tile a unit of the first output begins
/// at output_tile times its offset in the row.
template <class Use>
void each_unit(model::DType type, const Use& use) {
  const int64_t block_bytes = bytes_of_block(type), half = lone_half(type);
  for (int64_t at = 0, bytes = 0; at < block_bytes; at += bytes) use(at, bytes = at == half ? 2 : 4);
}

}  // namespace

size_t packed_bytes(int64_t rows, int64_t row_bytes) {
  return static_cast<size_t>((rows + output_tile - 1) / output_tile * output_tile * row_bytes);
}

void pack_tile(model::DType type, const std::byte* rows, int64_t count, int64_t row_bytes, std::byte* tile) {
  const auto copy = [&]<class Unit>(int64_t at, Unit) {
    std::byte* const to = tile + at * output_tile;
    for (int64_t row = 0; row < output_tile; ++row) {
      Unit unit{};
      if (row < count) std::memcpy(&unit, rows + row * row_bytes + at, sizeof unit);
      std::memcpy(to + row * static_cast<int64_t>(sizeof unit), &unit, sizeof unit);
    }
  };
  for (int64_t block = 0; block < row_bytes; block += bytes_of_block(type))
    each_unit(type, [&](int64_t at, int64_t bytes) {
      bytes == 2 ? copy(block + at, uint16_t{}) : copy(block + at, uint32_t{});
    });
}

void unpack_block(model::DType type, const std::byte* packed, int64_t row_bytes, int64_t row, int64_t block,
                  std::byte* to) {
  const std::byte* const from =
      packed + (row / output_tile * row_bytes + block * bytes_of_block(type)) * output_tile;
  each_unit(type, [&](int64_t at, int64_t bytes) {
    std::memcpy(to + at, from + at * output_tile + row % output_tile * bytes, static_cast<size_t>(bytes));
  });
}

}  // namespace convoy::gpu
