#pragma once
// A layer's experts: which rows go to which (as gpu/routing.cpp says, in float32), the list of tiles that one
// grouped product works through, and the sum of what a row's experts gave. All on the device.

#include "gpu/cuda/elementwise.hpp"
#include "model/config.hpp"

namespace convoy::cuda {

/// What there are kernels for.
inline constexpr int experts_max = 1024, experts_chosen_max = 32;

/// Device memory that routing works in. A visit is a row at one of its experts; visits are kept by expert.
struct RoutingTables {
  int32_t* expert = nullptr;     // [rows, chosen], ascending in a row
  float* weight = nullptr;       // [rows, chosen]
  int32_t* place = nullptr;      // [rows, chosen]: which visit
  int32_t* visit_row = nullptr;  // [rows · chosen]: whose
  int32_t* visits = nullptr;     // how many
  Tile* tiles = nullptr;
  int32_t* tile_count = nullptr;
};

struct Route {
  const float* logits = nullptr;  // [rows, experts]
  const float* bias = nullptr;    // [experts], or none
  model::Routing routing;
  RoutingTables tables;
  RowRange rows;
  int32_t tile_rows = 0;
};
/// Tiles that so many rows may need.
int tiles_max(const model::Routing& routing, int rows, int tile_rows);
void route_rows(const Route& route, cudaStream_t stream);

/// out[r] += Σ weight · results[visit], in the order of the experts' numbers. `fresh`: out begins at 0.
struct JoinExperts {
  const float* results = nullptr;  // [visits, pitch]
  float* out = nullptr;            // [rows, pitch]
  int64_t pitch = 0;
  int32_t width = 0, chosen = 0;
  bool fresh = false;
  RoutingTables tables;
  RowRange rows;
};
void join_experts(const JoinExperts& join, cudaStream_t stream);

}  // namespace convoy::cuda
