#include "gpu/cuda/gemm_stream_experts_kernel.cuh"

namespace convoy::cuda {

int stream_experts_tile(DType type, int64_t rows, int64_t columns) {
  if (columns % chunk_values != 0) return 0;
  const int64_t most = shared_memory_max();
  const auto bytes = [&](int height) {
    return experts_ring_bytes(type, height / 8) + staged_bytes(columns, height);
  };
  int height = stream_tile(rows);
  while (height > 8 && bytes(height) > most) height /= 2;
  return bytes(height) <= most ? height : 0;
}

void stream_visits(const StreamCall& call, const Visits& visits, int tile_rows, cudaStream_t cuda_stream) {
  const ExpertArgs args{.product = call.product,
                        .up = call.up ? *call.up : Product{},
                        .in = static_cast<const __nv_bfloat16*>(call.in.data),
                        .in_pitch = call.in.pitch,
                        .gated = call.up ? static_cast<__nv_bfloat16*>(call.gated.data) : nullptr,
                        .out_pitch = call.up ? call.gated.pitch : call.product.pitch,
                        .visits = visits};
  for_streamed(args.product.weight.type,
               [&]<DType W>() { stream_experts_type<W>(args, tile_rows, cuda_stream); });
}

}  // namespace convoy::cuda
