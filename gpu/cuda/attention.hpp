#pragma once
// Causal attention over the paged cache; the step's own rows are already in it. Of grouped queries, or of
// queries in the latents' space (absorbed), where an entry's first `latent` values are its value too.
// A row's positions are cut into parts at absolute positions, so that a row's bits depend on its own length
// alone, whether one block walks over all parts or each part has its own.

#include "gpu/cuda/bucket.hpp"
#include "gpu/cuda/elementwise.hpp"

namespace convoy::cuda {

struct Attention {
  const float* q = nullptr;  // of a row and a head: q + row · q_pitch + head · key_width
  int64_t q_pitch = 0;
  int32_t heads = 0, kv_heads = 0;         // latent: kv_heads = 1
  int32_t key_width = 0, value_width = 0;  // of a head; latent: of an entry, and of its latent
  float scale = 0;
  bool latent = false;
  CacheStream keys, values;  // latent: keys alone
  Rows out;                  // [rows, heads, value_width]
  RowRange rows;
  bool ordered = false;  // a row's bits may depend on its own length alone
  bool runs = false;     // many rows of a sequence come together
  /// Queries are still to be turned, and keys and values to be written, as this says: then no row may look at
  /// another one's, and attends_and_writes() has to hold. Else nullptr.
  const GroupedWrite* write = nullptr;

  int32_t part_tokens = 0;  // a multiple of kv_block_tokens
  /// How many blocks share a row's positions: 1, or, if they are ordered, as many as the longest row may have
  /// parts.
  int32_t parts = 1;
  int32_t cluster = 1;       // on tensor cores: of these, so many join in one cluster
  float* partial = nullptr;  // [rows, heads, parts, value_width + 2], or of clusters value_width + 4
  /// Where clusters that share a row count each other: zeros, and zeros again when a launch has ended. One
  /// for each of `shared_blocks_max`.
  uint32_t* arrived = nullptr;
};
void attend(const Attention& attention, const RowTables& tables, cudaStream_t stream);

/// Whether there are faster kernels, on tensor cores (attention_tensor.hpp), which know no order.
bool attends_on_tensor_cores(const Attention& attention);
/// Whether those for decodes write keys and values too.
bool attends_and_writes(const Attention& attention, const RotationView& rotations);
/// How many clusters of each size the current card takes at once there.
ClusterRoom cluster_room(bool latent);

/// The widest heads, and the widest entries of latents, that there are kernels for.
inline constexpr int head_dim_max = 256, latent_max = 512, latent_rope_max = 64;

}  // namespace convoy::cuda
