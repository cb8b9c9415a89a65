#include "gpu/cuda/gemm.hpp"

#include "gpu/cuda/blas.hpp"
#include "gpu/cuda/check.hpp"

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

}  // namespace

namespace {

/// Products whose weights, biases and outputs lie behind each other, as one.
bool join(Product& all, const Product& next) {
  Matrix& weight = all.weight;
  const bool behind = next.weight.data == weight.data + weight.rows * weight.pitch &&
                      next.weight.columns == weight.columns && next.out == all.out + weight.rows &&
                      next.pitch == all.pitch &&
                      (all.bias ? next.bias == all.bias + weight.rows : !next.bias);
  if (behind) weight.rows += next.weight.rows;
  return behind;
}

/// False: not all of the products are made.
bool multiply_by_blas(const GemmCall& call, cudaStream_t stream) {
  if (!call.blas || call.visits || call.kind != GemmKind::many_rows || call.in.type != Activations::bf16)
    return false;
  for (int i = 0; i < call.count; i++)
    if (call.products[i].weight.type != DType::bf16) return false;
  for (int i = 0; i < call.count;) {
    Product product = call.products[i++];
    while (i < call.count && join(product, call.products[i])) i++;
    if (!call.blas->multiply(product, call.in, call.rows.max, stream)) return false;
  }
  return true;
}

}  // namespace

/// Neighbours of one type in one launch.
void multiply(const GemmCall& call, cudaStream_t stream) {
  if (multiply_by_blas(call, stream)) return;
  for (int first = 0; first < call.count;) {
    GemmCall same = call;
    same.count = 0;
    const DType type = call.products[first].weight.type;
    while (first < call.count && call.products[first].weight.type == type)
      same.products[same.count++] = call.products[first++];
    for_type(type, [&]<DType W>() { launch_gemm<W>(same, stream); });
  }
}

void multiply_heads(const HeadProduct& product, cudaStream_t stream) {
  for_type(product.weight.type, [&]<DType W>() { launch_heads<W>(product, false, stream); });
}

void multiply_heads_transposed(const HeadProduct& product, cudaStream_t stream) {
  for_type(product.weight.type, [&]<DType W>() { launch_heads<W>(product, true, stream); });
}

}  // namespace convoy::cuda
