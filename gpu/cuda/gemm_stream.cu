#include "gpu/cuda/gemm_stream_kernel.cuh"

namespace convoy::cuda {

bool stream_takes_norm(int64_t columns, int64_t rows) {
  return rows <= normed_rows_max && columns % chunk_values == 0 &&
         staged_bytes(columns, rows) <= normed_bytes_max;
}

void stream(const StreamCall& call, cudaStream_t cuda_stream) {
  const StreamArgs args{.weight = call.product.weight,
                        .up = call.up ? call.up->weight : Matrix{},
                        .bias = call.product.bias,
                        .up_bias = call.up ? call.up->bias : nullptr,
                        .in = static_cast<const __nv_bfloat16*>(call.in.data),
                        .in_pitch = call.in.pitch,
                        .norm = call.norm ? *call.norm : Norm{},
                        .keeps_norm = call.keeps_norm,
                        .out = call.product.out,
                        .gated = static_cast<__nv_bfloat16*>(call.gated.data),
                        .out_pitch = call.up ? call.gated.pitch : call.product.pitch,
                        .adds = call.product.adds,
                        .rows = call.rows};
  for_streamed(args.weight.type, [&]<DType W>() { stream_type<W>(args, cuda_stream); });
}

}  // namespace convoy::cuda
