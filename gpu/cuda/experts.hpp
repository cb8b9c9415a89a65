#pragma once
// A layer's experts: which rows go to which (as gpu/routing.cpp says, in float32), the list of tiles that one
// grouped product works through, and the sum of what a row's experts gave. All on the device.

#include "gpu/cuda/elementwise.hpp"
#include "model/config.hpp"

namespace convoy::cuda {

/// What there are kernels for; with shared ones.
inline constexpr int experts_max = 1024, experts_chosen_max = 32;

/// Device memory that routing works in. A visit is a row at one of its experts; visits are kept by expert.
struct RoutingTables {
  int32_t* expert = nullptr;     // [rows, visits of a row], ascending in a row
  float* weight = nullptr;       // [rows, visits of a row]
  int32_t* place = nullptr;      // [rows, visits of a row]: which visit
  int32_t* visit_row = nullptr;  // [all visits]: whose
  int32_t* visits = nullptr;     // how many
  Tile* tiles = nullptr;
  int32_t* tile_count = nullptr;
};

struct Route {
  const float* logits = nullptr;  // [rows, experts]
  const float* bias = nullptr;    // [experts], or none
  model::Routing routing;
  const int32_t* given = nullptr;  // [rows, chosen]: which ones, in place of those that the scores say
  int32_t shared = 0;              // experts behind the others that every row visits, with weight 1
  RoutingTables tables;
  RowRange rows;
  int32_t tile_rows = 0;

  __host__ __device__ int visits() const { return static_cast<int>(routing.chosen) + shared; }  // of a row
};
/// to[visit] = from[its row], in bf16; both as wide.
void gather_visits(const Rows& from, const RoutingTables& tables, int32_t visits_max, const Rows& to,
                   cudaStream_t stream);
/// Tiles that its rows may need.
int tiles_max(const Route& route);
void route_rows(const Route& route, cudaStream_t stream);
/// The same of few rows without their logits, which it computes: the router's products with the rows of the
/// norm, which are left in norm.out. False: there is no kernel for that.
bool score_and_route(const Route& route, const Matrix& router, const Norm& norm, cudaStream_t stream);

/// out[r] += Σ weight · results[visit], in the order of the experts' numbers.
struct JoinExperts {
  const float* results = nullptr;  // [visits, pitch]
  float* out = nullptr;            // [rows, pitch]
  int64_t pitch = 0;
  int32_t width = 0, visits = 0;  // of a row
  RoutingTables tables;
  RowRange rows;
};
void join_experts(const JoinExperts& join, cudaStream_t stream);
/// The same of a single row, whose results it computes first, as products of `in` [visits] with its experts'
/// matrices: `experts` of the product's weight, those behind them of its shared one's. Weights are fetched as
/// soon as it begins: when the kernel before lets it, the list has to be there. False: there is no kernel for
/// that.
bool multiply_and_join(const Product& product, const Rows& in, int32_t experts, const JoinExperts& join,
                       cudaStream_t stream);

}  // namespace convoy::cuda
