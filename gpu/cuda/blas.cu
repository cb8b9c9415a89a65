#include "gpu/cuda/blas.hpp"

#include <cublasLt.h>
#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <limits>
#include <string>

#include "gpu/cuda/memory.hpp"

namespace convoy::cuda {
namespace {

constexpr size_t workspace_bytes = size_t{32} << 20;
/// Algorithms that are tried for a shape, and how often each: the shortest time counts.
constexpr int candidates_max = 12, tries = 3;
/// One that takes so many times as long as the fastest is not tried again.
constexpr float hopeless = 1.1f;
/// Written before each try, so that no cache holds the weights: in a step none does either.
constexpr size_t cold_bytes = size_t{128} << 20;

template <class Function>
bool resolve(void* library, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(dlsym(library, name));
  return function != nullptr;
}

}  // namespace

struct Blas::Library {
  void* handle = nullptr;
  cublasLtHandle_t blas = nullptr;
  DeviceMemory workspace;
  decltype(cublasLtCreate)* create = nullptr;
  decltype(cublasLtDestroy)* destroy = nullptr;
  decltype(cublasLtMatmulDescCreate)* desc_create = nullptr;
  decltype(cublasLtMatmulDescDestroy)* desc_destroy = nullptr;
  decltype(cublasLtMatmulDescSetAttribute)* desc_set = nullptr;
  decltype(cublasLtMatrixLayoutCreate)* layout_create = nullptr;
  decltype(cublasLtMatrixLayoutDestroy)* layout_destroy = nullptr;
  decltype(cublasLtMatmulPreferenceCreate)* preference_create = nullptr;
  decltype(cublasLtMatmulPreferenceDestroy)* preference_destroy = nullptr;
  decltype(cublasLtMatmulPreferenceSetAttribute)* preference_set = nullptr;
  decltype(cublasLtMatmulAlgoGetHeuristic)* heuristic = nullptr;
  decltype(cublasLtMatmul)* matmul = nullptr;

  bool open() {
    // The version of the toolkit that this was compiled with: its functions are what the headers say.
    const std::string name = "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR);
    handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    return handle && resolve(handle, "cublasLtCreate", create) &&
           resolve(handle, "cublasLtDestroy", destroy) &&
           resolve(handle, "cublasLtMatmulDescCreate", desc_create) &&
           resolve(handle, "cublasLtMatmulDescDestroy", desc_destroy) &&
           resolve(handle, "cublasLtMatmulDescSetAttribute", desc_set) &&
           resolve(handle, "cublasLtMatrixLayoutCreate", layout_create) &&
           resolve(handle, "cublasLtMatrixLayoutDestroy", layout_destroy) &&
           resolve(handle, "cublasLtMatmulPreferenceCreate", preference_create) &&
           resolve(handle, "cublasLtMatmulPreferenceDestroy", preference_destroy) &&
           resolve(handle, "cublasLtMatmulPreferenceSetAttribute", preference_set) &&
           resolve(handle, "cublasLtMatmulAlgoGetHeuristic", heuristic) &&
           resolve(handle, "cublasLtMatmul", matmul) && create(&blas) == CUBLAS_STATUS_SUCCESS;
  }
  ~Library() {
    if (blas) destroy(blas);
    if (handle) dlclose(handle);
  }
};

/// A shape in cuBLASLt's terms: columns first, so all is transposed.
struct Blas::Plan {
  const Library& library;
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t weight = nullptr, in = nullptr, out = nullptr;
  std::array<cublasLtMatmulHeuristicResult_t, candidates_max> found{};
  int count = 0;
  size_t chosen = 0;
  bool measured = false;

  explicit Plan(const Library& l) : library(l) {}
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    if (product) library.desc_destroy(product);
    for (const cublasLtMatrixLayout_t layout : {weight, in, out})
      if (layout) library.layout_destroy(layout);
  }
};

Blas::Blas(std::unique_ptr<Library> library) : library_(std::move(library)) {}
Blas::~Blas() { plans_.clear(); }

std::unique_ptr<Blas> Blas::find() {
  auto library = std::make_unique<Library>();
  if (!library->open()) return nullptr;
  library->workspace = DeviceMemory(workspace_bytes, "what cuBLASLt works in");
  return std::unique_ptr<Blas>(new Blas(std::move(library)));
}

std::unique_ptr<Blas::Plan> Blas::make_plan(const Shape& s) const {
  const Library& l = *library_;
  auto plan = std::make_unique<Plan>(l);
  const auto good = [](cublasStatus_t status) { return status == CUBLAS_STATUS_SUCCESS; };
  const cublasOperation_t transposed = CUBLAS_OP_T;
  const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
  const cudaDataType_t bias_type = CUDA_R_32F;
  const auto outputs = static_cast<uint64_t>(s.outputs), columns = static_cast<uint64_t>(s.columns),
             rows = static_cast<uint64_t>(s.rows);
  bool made = good(l.desc_create(&plan->product, CUBLAS_COMPUTE_32F, CUDA_R_32F)) &&
              good(l.desc_set(plan->product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed)) &&
              good(l.layout_create(&plan->weight, CUDA_R_16BF, columns, outputs, s.weight_pitch)) &&
              good(l.layout_create(&plan->in, CUDA_R_16BF, columns, rows, s.in_pitch)) &&
              good(l.layout_create(&plan->out, CUDA_R_32F, outputs, rows, s.out_pitch));
  if (made && s.bias)
    made = good(l.desc_set(plan->product, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue)) &&
           good(l.desc_set(plan->product, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias_type, sizeof bias_type));
  cublasLtMatmulPreference_t preference = nullptr;
  made = made && good(l.preference_create(&preference)) &&
         good(l.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes,
                               sizeof workspace_bytes)) &&
         good(l.heuristic(l.blas, plan->product, plan->weight, plan->in, plan->out, plan->out, preference,
                          candidates_max, plan->found.data(), &plan->count));
  if (preference) l.preference_destroy(preference);
  if (!made) plan->count = 0;
  return plan;
}

bool Blas::run(const Plan& plan, size_t algorithm, const Product& product, const Rows& in,
               cudaStream_t stream) {
  const Library& l = *library_;
  if (product.bias && l.desc_set(plan.product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &product.bias,
                                 sizeof product.bias) != CUBLAS_STATUS_SUCCESS)
    return false;
  const float one = 1, kept = product.adds ? 1 : 0;
  return l.matmul(l.blas, plan.product, &one, product.weight.data, plan.weight, in.data, plan.in, &kept,
                  product.out, plan.out, product.out, plan.out, &plan.found[algorithm].algo,
                  l.workspace.as<void>(), workspace_bytes, stream) == CUBLAS_STATUS_SUCCESS;
}

/// Tries all algorithms, which leaves anything in the product's output. Those that fail count as infinitely
/// slow.
void Blas::choose(Plan& plan, const Product& product, const Rows& in, cudaStream_t stream) {
  cudaEvent_t begin = nullptr, end = nullptr;
  check(cudaEventCreate(&begin), "cudaEventCreate"), check(cudaEventCreate(&end), "cudaEventCreate");
  float best = std::numeric_limits<float>::infinity();
  if (cold_.bytes() == 0) cold_ = DeviceMemory(cold_bytes, "what products are measured with");
  for (int algorithm = 0; algorithm < plan.count; algorithm++) {
    // What is needed the first time is not counted.
    if (!run(plan, static_cast<size_t>(algorithm), product, in, stream)) continue;
    for (int t = 0; t < tries; t++) {
      check(cudaMemsetAsync(cold_.as<void>(), t, cold_bytes, stream), "cudaMemsetAsync");
      check(cudaEventRecord(begin, stream), "cudaEventRecord");
      if (!run(plan, static_cast<size_t>(algorithm), product, in, stream)) break;
      check(cudaEventRecord(end, stream), "cudaEventRecord");
      check(cudaEventSynchronize(end), "measuring a product");
      float took_ms = 0;
      check(cudaEventElapsedTime(&took_ms, begin, end), "cudaEventElapsedTime");
      if (took_ms > hopeless * best) break;
      if (took_ms < best) best = took_ms, plan.chosen = static_cast<size_t>(algorithm);
    }
  }
  cudaEventDestroy(begin), cudaEventDestroy(end);
  if (!(best < std::numeric_limits<float>::infinity())) plan.count = 0;
  plan.measured = true;
}

bool Blas::multiply(const Product& product, const Rows& in, int rows, cudaStream_t stream) {
  const Shape shape{.rows = rows,
                    .outputs = product.weight.rows,
                    .columns = product.weight.columns,
                    .weight_pitch = product.weight.pitch / 2,
                    .in_pitch = in.pitch,
                    .out_pitch = product.pitch,
                    .bias = product.bias != nullptr};
  auto& plan = plans_[shape];
  if (!plan) plan = make_plan(shape);
  if (measuring_ && plan->count > 0 && !plan->measured) choose(*plan, product, in, stream);
  return plan->count > 0 && run(*plan, plan->chosen, product, in, stream);
}

}  // namespace convoy::cuda
