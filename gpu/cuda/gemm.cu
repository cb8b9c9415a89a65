#include "gpu/cuda/gemm.hpp"

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

namespace {

/// Calls use.operator()<type>() for the type.
template <class Use>
void for_type(DType type, const Use& use) {
  switch (type) {
    case DType::f32:
      return use.template operator()<DType::f32>();
    case DType::f16:
      return use.template operator()<DType::f16>();
    case DType::bf16:
      return use.template operator()<DType::bf16>();
    case DType::f8_e4m3:
      return use.template operator()<DType::f8_e4m3>();
    case DType::i8:
      return use.template operator()<DType::i8>();
    case DType::q8_0:
      return use.template operator()<DType::q8_0>();
    case DType::q4_0:
      return use.template operator()<DType::q4_0>();
    case DType::q4_1:
      return use.template operator()<DType::q4_1>();
    case DType::iq4_nl:
      return use.template operator()<DType::iq4_nl>();
    case DType::q4_k:
      return use.template operator()<DType::q4_k>();
    case DType::q5_k:
      return use.template operator()<DType::q5_k>();
    case DType::q6_k:
      return use.template operator()<DType::q6_k>();
    case DType::i64:
      break;
  }
  throw refusal("a weight of whole numbers", "checkpoint", "convert it");
}

/// Products whose weights, biases and outputs lie behind each other, as one.
bool join(Product& all, const Product& next) {
  Matrix& weight = all.weight;
  const bool behind = next.weight.data == weight.data + weight.rows * weight.pitch &&
                      next.weight.columns == weight.columns && next.out == all.out + weight.rows &&
                      next.pitch == all.pitch && next.adds == all.adds &&
                      (all.bias ? next.bias == all.bias + weight.rows : !next.bias);
  if (behind) weight.rows += next.weight.rows;
  return behind;
}

/// Whether activations and all weights are bf16.
bool all_bf16(const GemmCall& call) {
  for (int i = 0; i < call.count; i++)
    if (!cuda::streams(call.products[i].weight, call.in.type)) return false;
  return true;
}

bool streams(const GemmCall& call) { return call.kind == GemmKind::few_rows && all_bf16(call); }

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

bool multiplies_by_blas(const GemmCall& call) {
  return call.blas && !call.visits && call.kind == GemmKind::many_rows && all_bf16(call);
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

}  // namespace

bool streams(const Matrix& weight, Activations activations) {
  return weight.type == DType::bf16 && activations == Activations::bf16;
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
  if (!streams(call)) return false;
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
  if (multiplies_by_blas(call) && for_joined(call, [&](const Product& product) {
        return call.blas->multiply(product, call.in, call.rows.max, cuda_stream);
      }))
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
