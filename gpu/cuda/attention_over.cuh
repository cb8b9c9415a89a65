#pragma once
// Which kernel attends over a cache of type Kv. attention_f32.cu and its neighbours compile it, a type each.

#include "gpu/cuda/attention.cuh"

namespace convoy::cuda {

template <class Kv, int E>
void attend_grouped(const Attention& a, const RowTables& tables, cudaStream_t stream) {
  const int group = a.heads / a.kv_heads;
  if (group == 1) return launch_attend<Kv, E, E, 1, 4, false>(a, tables, stream);
  if (group <= 4) return launch_attend<Kv, E, E, 4, 4, false>(a, tables, stream);
  // Of the widest heads four at a time: more do not fit the registers.
  return launch_attend<Kv, E, E, (E > 4 ? 4 : 8), 2, false>(a, tables, stream);
}

template <class Kv>
void attend_over(const Attention& a, const RowTables& tables, cudaStream_t stream) {
  if (a.latent) {
    constexpr int values = latent_max / 32, keys = values + latent_rope_max / 32;
    return launch_attend<Kv, keys, values, 4, 1, true>(a, tables, stream);
  }
  if (a.key_width <= 64) return attend_grouped<Kv, 2>(a, tables, stream);
  if (a.key_width <= 128) return attend_grouped<Kv, 4>(a, tables, stream);
  return attend_grouped<Kv, head_dim_max / 32>(a, tables, stream);
}

}  // namespace convoy::cuda
