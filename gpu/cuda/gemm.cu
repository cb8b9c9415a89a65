#include "gpu/cuda/gemm.hpp"

#include <cuda_bf16.h>

#include <algorithm>

#include "gpu/cuda/blas.hpp"
#include "gpu/cuda/check.hpp"
#include "gpu/cuda/gemm_heads_stream.hpp"
#include "gpu/cuda/gemm_stream.hpp"
#include "gpu/cuda/gemm_wgmma.hpp"

namespace convoy::cuda {

template <DType W>
void launch_gemm(const GemmCall& call, cudaStream_t stream);
template <DType W>
void launch_heads(const HeadProduct& product, bool transposed, cudaStream_t stream);
template <DType W>
void launch_expand(const Matrix& weight, __nv_bfloat16* to, cudaStream_t stream);

namespace {

/// Whether the scales of `next` lie where those of further rows of `weight` would.
bool scales_behind(const Matrix& weight, const Matrix& next) {
  if (!weight.scales) return !next.scales;
  if (weight.type == DType::i8) return next.scales == weight.scales + weight.rows;
  constexpr int rows_of_block = 128;
  return weight.rows % rows_of_block == 0 &&
         next.scales == weight.scales + weight.rows / rows_of_block * weight.scale_pitch;
}

/// Products whose weights, biases and outputs lie behind each other, as one.
bool join(Product& all, const Product& next) {
  Matrix& weight = all.weight;
  const bool behind = next.weight.type == weight.type &&
                      next.weight.data == weight.data + weight.rows * weight.pitch &&
                      next.weight.columns == weight.columns && scales_behind(weight, next.weight) &&
                      next.out == all.out + weight.rows && next.pitch == all.pitch && next.adds == all.adds &&
                      (all.bias ? next.bias == all.bias + weight.rows : !next.bias);
  if (behind) weight.rows += next.weight.rows;
  return behind;
}

/// Whether activations and all weights are bf16.
bool all_bf16(const GemmCall& call) {
  for (int i = 0; i < call.count; i++)
    if (call.products[i].weight.type != DType::bf16) return false;
  return call.in.type == Activations::bf16;
}

/// Whether a call's products are streamed. More rows of bf16 have quicker kernels.
bool streams(const GemmCall& call) {
  for (int i = 0; i < call.count; i++) {
    const Matrix& weight = call.products[i].weight;
    const bool few = call.kind == GemmKind::few_rows ||
                     (weight.type != DType::bf16 && !call.visits && call.rows.max <= narrow_rows_max);
    if (!few || !cuda::streams(weight, call.in.type)) return false;
  }
  return true;
}

/// One of a call's products, or with `up` what both give gated.
StreamCall one_of(const GemmCall& call, const Product& product, const Product* up = nullptr,
                  const Rows& gated = {}) {
  return {product, up, gated, call.in, call.norm, call.keeps_norm, call.halved, call.halves, call.rows};
}

/// Whether tensor cores take a product's weights from shared memory: on the cards that can, for as many rows
/// as the kernel has, if not so few that those of the streaming kernel do without a norm before them.
bool multiplies_by_wgmma(const GemmCall& call, const StreamCall& one) {
  const bool in_halves = call.halved || call.halves;
  return (in_halves || call.kind == GemmKind::many_rows) && !call.visits && all_bf16(call) &&
         takes_wgmma(one);
}

void stream_one(const GemmCall& call, const StreamCall& one, cudaStream_t cuda_stream) {
  if (!call.visits)
    stream(one, cuda_stream);
  else if (call.visits->by_tma)
    multiply_visits(one, *call.visits, call.tile_rows, cuda_stream);
  else
    stream_visits(one, *call.visits, call.tile_rows, cuda_stream);
}

/// Calls use(product) for each, those that can be joined as one; false as soon as one of them is.
template <class Use>
bool for_joined(const GemmCall& call, const Use& use) {
  for (int i = 0; i < call.count;) {
    Product product = call.products[i++];
    while (i < call.count && join(product, call.products[i])) i++;
    if (!use(product)) return false;
  }
  return true;
}

/// By cuBLASLt, which takes bf16: of other types as many outputs at once as there is room for.
bool multiply_by_blas(const GemmCall& call, const Product& product, cudaStream_t cuda_stream) {
  const Matrix& weight = product.weight;
  const int rows = call.rows.max;
  if (weight.type == DType::bf16) return call.blas->multiply(product, call.in, rows, cuda_stream);
  Matrix expanded{.data = call.expanded.data,
                  .pitch = row_pitch(DType::bf16, weight.columns),
                  .columns = weight.columns,
                  .type = DType::bf16};
  const int64_t room = call.expanded.bytes / expanded.pitch / expanded_step * expanded_step;
  if (room == 0) return false;
  const int parts = static_cast<int>((weight.rows + room - 1) / room),
            at_once = (weight.rows + parts * expanded_step - 1) / (parts * expanded_step) * expanded_step;
  for (int first = 0; first < weight.rows; first += at_once) {
    const Matrix part = rows_of(weight, first, std::min(at_once, weight.rows - first));
    for_type(weight.type, [&]<DType W>() {
      launch_expand<W>(part, reinterpret_cast<__nv_bfloat16*>(call.expanded.data), cuda_stream);
    });
    expanded.rows = part.rows;
    Product of_part = product;
    of_part.weight = expanded, of_part.out += first;
    if (product.bias) of_part.bias += first;
    if (call.blas->multiply(of_part, call.in, rows, cuda_stream)) continue;
    if (first == 0) return false;
    throw Failure(Code::fault, "cuBLASLt took a part of a product and not the next one", "CUDA",
                  "start again; report it if that helps nothing");
  }
  return true;
}

}  // namespace

bool streams(const Matrix& weight, Activations activations) {
  return is_streamed(weight.type) && activations == Activations::bf16;
}

bool takes_norm(const GemmCall& call) {
  return streams(call) && !call.visits && stream_takes_norm(call.products[0].weight.columns, call.rows.max);
}

bool takes_half(const GemmCall& call) {
  return !call.visits && all_bf16(call) &&
         for_joined(call, [&](const Product& product) { return takes_wgmma(one_of(call, product)); });
}

bool multiply_gated(const GemmCall& call, const Rows& gated, cudaStream_t cuda_stream) {
  // What pads a row of `gated` is not written.
  if (call.products[0].weight.rows % chunk_values != 0) return false;
  const StreamCall both = one_of(call, call.products[0], &call.products[1], gated);
  if (multiplies_by_wgmma(call, both)) return multiply_wgmma(both, cuda_stream), true;
  if (!streams(call) || call.products[0].weight.type != call.products[1].weight.type) return false;
  stream_one(call, both, cuda_stream);
  return true;
}

void multiply(const GemmCall& call, cudaStream_t cuda_stream) {
  if (for_joined(call, [&](const Product& p) { return multiplies_by_wgmma(call, one_of(call, p)); })) {
    for_joined(call, [&](const Product& p) { return multiply_wgmma(one_of(call, p), cuda_stream), true; });
    return;
  }
  if (streams(call)) {
    for_joined(call, [&](const Product& p) { return stream_one(call, one_of(call, p), cuda_stream), true; });
    return;
  }
  if (call.blas && !call.visits && call.kind == GemmKind::many_rows && call.in.type == Activations::bf16 &&
      for_joined(call, [&](const Product& p) { return multiply_by_blas(call, p, cuda_stream); }))
    return;
  for (int first = 0; first < call.count;) {  // neighbours of one type in one launch
    GemmCall same = call;
    same.count = 0;
    const DType type = call.products[first].weight.type;
    while (first < call.count && call.products[first].weight.type == type)
      same.products[same.count++] = call.products[first++];
    for_type(type, [&]<DType W>() { launch_gemm<W>(same, cuda_stream); });
  }
}

void multiply_heads(const HeadProduct& product, cudaStream_t stream) {
  if (product.rounds && stream_heads(product, false, stream)) return;
  for_type(product.weight.type, [&]<DType W>() { launch_heads<W>(product, false, stream); });
}

void multiply_heads_transposed(const HeadProduct& product, cudaStream_t stream) {
  if (product.rounds && stream_heads(product, true, stream)) return;
  for_type(product.weight.type, [&]<DType W>() { launch_heads<W>(product, true, stream); });
}

}  // namespace convoy::cuda
