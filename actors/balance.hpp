#pragma once
// Balance: which layers each stage has, by what a layer takes it and what its memory holds, and whether it
// has any: a device that would only slow the others is left out. Values and pure functions.
// docs/decisions/0036

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "actors/config/placement.hpp"
#include "actors/stage_name.hpp"

namespace convoy::actors {

/// A model as its stages divide it.
struct LayerCosts {
  int64_t layers = 0;
  double head_layers = 0;    // that its head counts as
  uint64_t layer_bytes = 0;  // of one layer's weights; 0: not known, so that nobody's memory counts
  uint64_t first_bytes = 0, last_bytes = 0;  // what the first stage has beside them, and the last
};
LayerCosts layer_costs(const model::Checkpoint& checkpoint);

/// What these layers take, and the head with the last, in layers.
double work_of(const LayerCosts& costs, const model::LayerRange& layers);

/// What a stage brings.
struct StageOffer {
  StageName name;
  std::string machine = {}, card = {};  // what it computes on; on one card, or machine without, it shares
  uint64_t memory_bytes = 0;            // of that card, or machine; 0: not known
  double layer_us = 0;                  // what a layer takes of a step of balance_rows; 0: not measured yet
};
inline constexpr size_t balance_rows = 8;

/// The stages of one place, a card or a machine's processors, are taken as equally fast, since they take
/// turns on it: what layers take them is the mean of those that were measured. Who was not measured, and
/// nobody beside it, is taken as fast as the others are on average.
void pool_speeds(std::vector<StageOffer>& offers);

/// Its layers, for each; nothing: it is left out. One at least is not. There are no more offers than layers.
using Balance = std::vector<std::optional<model::LayerRange>>;
Balance balance(const LayerCosts& costs, const std::vector<StageOffer>& offers);

/// What a step of balance_rows takes in the stage where it takes longest, by their speeds; 0: not known.
double slowest_us(const LayerCosts& costs, const std::vector<StageOffer>& offers, const Balance& layers);
/// What it takes in all of them, one after the other; 0: not known.
double whole_us(const LayerCosts& costs, const std::vector<StageOffer>& offers, const Balance& layers);

}  // namespace convoy::actors
