#include "gpu/cuda/attention.cuh"
#include "gpu/cuda/attention_tensor.hpp"

namespace convoy::cuda {
namespace {

/// Joins a row's parts, one after the other: a block a row and head.
__global__ void __launch_bounds__(attend_threads) join_parts(const Attention a, const RowTables tables) {
  follow_previous();
  const int row = static_cast<int>(blockIdx.x), head = static_cast<int>(blockIdx.y);
  if (!has_row(a.rows, row)) return;
  const int parts = tables.position[row] / a.part_tokens + 1, pitch = a.value_width + 2;
  const float* const from = a.partial + (static_cast<int64_t>(row) * a.heads + head) * a.parts * pitch;
  for (int i = static_cast<int>(threadIdx.x); i < a.value_width; i += attend_threads) {
    float largest = -INFINITY, sum = 0, value = 0;
    for (int part = 0; part < parts; part++) {
      const float* const own = from + part * pitch;
      const Merge m = merge(largest, sum, own[0], own[1]);
      largest = m.largest, sum = m.sum, value = merged(m, value, own[2 + i]);
    }
    const int64_t at = row * a.out.pitch + head * a.value_width + i;
    if (a.out.type == Activations::bf16)
      static_cast<__nv_bfloat16*>(a.out.data)[at] = __float2bfloat16_rn(value / sum);
    else
      static_cast<float*>(a.out.data)[at] = value / sum;
  }
}

}  // namespace

extern template void attend_over<float>(const Attention&, const RowTables&, cudaStream_t);
extern template void attend_over<__half>(const Attention&, const RowTables&, cudaStream_t);
extern template void attend_over<__nv_bfloat16>(const Attention&, const RowTables&, cudaStream_t);
extern template void attend_over<Float8>(const Attention&, const RowTables&, cudaStream_t);

bool attends_on_tensor_cores(const Attention& a) {
  if (a.ordered || a.keys.type != DType::bf16) return false;
  if (a.latent) return a.value_width == 512 && a.key_width == 576;
  return a.out.type == Activations::bf16 && (a.key_width == 64 || a.key_width == 128);
}

bool attends_and_writes(const Attention& a, const RotationView& rotations) {
  // A thread has both halves of what is turned together.
  return attends_on_tensor_cores(a) && !a.latent && 2 * rotations.half == a.key_width;
}

ClusterRoom cluster_room(bool latent) { return latent ? cluster_room_of_latents() : cluster_room_of_rows(); }

void attend(const Attention& a, const RowTables& tables, cudaStream_t stream) {
  if (attends_on_tensor_cores(a)) {
    const bool fill = a.runs && !a.latent && a.heads / a.kv_heads <= many_group_max;
    return fill ? attend_many(a, tables, stream) : attend_few(a, tables, stream);
  }
  switch (a.keys.type) {
    case DType::f32:
      attend_over<float>(a, tables, stream);
      break;
    case DType::f16:
      attend_over<__half>(a, tables, stream);
      break;
    case DType::f8_e4m3:
      attend_over<Float8>(a, tables, stream);
      break;
    default:
      attend_over<__nv_bfloat16>(a, tables, stream);
  }
  if (a.parts == 1) return;
  launch("join_parts", join_parts, dim3(grid_of(a.rows.max), static_cast<unsigned>(a.heads)), attend_threads,
         0, stream, a, tables);
}

}  // namespace convoy::cuda
