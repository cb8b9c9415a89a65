#pragma once
// Where a token lies in the paged cache: the one spelling of block addresses. Pure arithmetic; the kernels
// use it too, and are compiled for several instruction sets, so all of it is always inlined.

#include <concepts>
#include <cstdint>

namespace convoy::gpu {

/// Tokens per KV block.
inline constexpr int64_t kv_block_tokens = 64;
/// Of a block's tokens, so many lie side by side where values come first (KvPlace::by_head_value).
inline constexpr int64_t kv_strip_tokens = 16;
static_assert(kv_block_tokens % kv_strip_tokens == 0);

/// The KV blocks that so many tokens fill, the last one maybe in part.
template <std::integral T>
[[gnu::always_inline]] constexpr T kv_blocks_for(T tokens) {
  return (tokens + T{kv_block_tokens} - 1) / T{kv_block_tokens};
}

/// A token's place: a block of the pool, and which of its tokens.
struct KvPlace {
  int64_t block = 0, token = 0;

  /// Of a position, by its sequence's block table.
  [[gnu::always_inline]] static constexpr KvPlace of(const uint32_t* table, int64_t position) {
    return {table[table_index(position)], position % kv_block_tokens};
  }
  /// Of the first token in the block of a table's entry.
  [[gnu::always_inline]] static constexpr KvPlace first_in(const uint32_t* table, int64_t index) {
    return {table[index], 0};
  }
  /// Which entry of a block table a position belongs to.
  [[gnu::always_inline]] static constexpr int64_t table_index(int64_t position) {
    return position / kv_block_tokens;
  }

  /// The index of the token's first value, in a stream that keeps `width` of them for each: token after
  /// token, [blocks, tokens, width].
  [[gnu::always_inline]] constexpr int64_t by_token(int64_t width) const {
    return (block * kv_block_tokens + token) * width;
  }
  /// The index of a head's first value, where what a block holds of a head lies together, so that whoever
  /// attends to it reads on and on: token after token, [blocks, heads, tokens, head_dim]. width: of all
  /// heads.
  [[gnu::always_inline]] constexpr int64_t by_head_token(int64_t width, int64_t head_dim,
                                                         int64_t head) const {
    return block * kv_block_tokens * width + (head * kv_block_tokens + token) * head_dim;
  }
  /// Or in strips of tokens and there value after value, [blocks, heads, strips, head_dim, strip's
  /// tokens].
  [[gnu::always_inline]] constexpr int64_t by_head_value(int64_t width, int64_t head_dim,
                                                         int64_t head) const {
    const int64_t in_strip = token % kv_strip_tokens;
    return KvPlace{block, token - in_strip}.by_head_token(width, head_dim, head) + in_strip;
  }
};

}  // namespace convoy::gpu
