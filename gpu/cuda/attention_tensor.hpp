#pragma once
// Attention on tensor cores, for caches and activations in bf16: of decodes, of prompts, and over latents.
// Heads of 64 or 128 values, or latents of 512 with 64 rotated: what published models have.
// The order of a row's additions depends on how its positions are shared out, so they are not for
// deterministic ranges.

#include "gpu/cuda/attention.hpp"

namespace convoy::cuda {

/// A few rows of each sequence: a block a row, its positions shared out over attention.parts blocks.
void attend_few(const Attention& attention, const RowTables& tables, cudaStream_t stream);
void attend_latent(const Attention& attention, const RowTables& tables, cudaStream_t stream);
ClusterRoom cluster_room_of_rows();
ClusterRoom cluster_room_of_latents();
/// Runs of many rows: a block as many rows of a sequence as fill the tensor cores. Grouped queries only.
void attend_many(const Attention& attention, const RowTables& tables, cudaStream_t stream);
/// Queries of one key that fit a block of attend_many.
inline constexpr int many_group_max = 64;

}  // namespace convoy::cuda
