#include "actors/balance.hpp"

#include <algorithm>
#include <cassert>
#include <map>

#include "model/checkpoint/inspect.hpp"

namespace convoy::actors {

namespace {

/// Who is not slower than the quickest by so much is never left out: measurements are not that good.
constexpr double much_slower = 2;

using Place = std::pair<std::string, std::string>;
Place place_of(const StageOffer& offer) { return {offer.machine, offer.card}; }

bool all_known(const std::vector<StageOffer>& offers) {
  return std::ranges::all_of(offers, [](const StageOffer& offer) { return offer.layer_us > 0; });
}

/// How many layers each has room for: those of one place divide its memory.
std::vector<StageShare> shares_of(const LayerCosts& costs, const std::vector<StageOffer>& offers) {
  std::map<Place, uint64_t> sharers;
  for (const StageOffer& offer : offers) ++sharers[place_of(offer)];
  const bool fast_known = all_known(offers);
  std::vector<StageShare> shares;
  for (size_t i = 0; i < offers.size(); ++i) {
    StageShare share;
    if (fast_known) share.speed = 1 / offers[i].layer_us;
    if (costs.layer_bytes > 0 && offers[i].memory_bytes > 0) {
      const uint64_t beside =
          (i == 0 ? costs.first_bytes : 0) + (i + 1 == offers.size() ? costs.last_bytes : 0);
      const uint64_t room = offers[i].memory_bytes / sharers[place_of(offers[i])];
      share.layers_max = static_cast<int64_t>((room - std::min(room, beside)) / costs.layer_bytes);
    }
    shares.push_back(share);
  }
  return shares;
}

Balance of_all(const LayerCosts& costs, const std::vector<StageOffer>& offers) {
  Balance balance;
  for (const model::LayerRange& range :
       stage_layers(costs.layers, shares_of(costs, offers), costs.head_layers))
    balance.emplace_back(range);
  return balance;
}

bool fits(const LayerCosts& costs, const std::vector<StageOffer>& offers, const Balance& layers) {
  const auto shares = shares_of(costs, offers);
  for (size_t i = 0; i < offers.size(); ++i)
    if (layers[i]->count() > shares[i].layers_max) return false;
  return true;
}

}  // namespace

LayerCosts layer_costs(const model::Checkpoint& checkpoint) {
  const int64_t layers = checkpoint.config().layers;
  const auto bytes = [&](int64_t first, int64_t last) {
    return model::stage_bytes(checkpoint, {first, last});
  };
  const auto beyond = [](uint64_t bytes, uint64_t layer) { return bytes - std::min(bytes, layer); };
  LayerCosts costs{.layers = layers, .head_layers = head_layers(checkpoint)};
  if (layers < 3) return costs;  // one of them has an end of the model beside it, whichever is asked for
  costs.layer_bytes = bytes(1, layers - 2) / static_cast<uint64_t>(layers - 2);
  costs.first_bytes = beyond(bytes(0, 0), costs.layer_bytes);
  costs.last_bytes = beyond(bytes(layers - 1, layers - 1), costs.layer_bytes);
  return costs;
}

double work_of(const LayerCosts& costs, const model::LayerRange& layers) {
  const bool last = layers.last + 1 == costs.layers;
  return static_cast<double>(layers.count()) + (last ? head_share * costs.head_layers : 0);
}

void pool_speeds(std::vector<StageOffer>& offers) {
  struct Sum {
    double us = 0, count = 0;
    void add(double more_us) { us += more_us, count += 1; }
    double mean() const { return count > 0 ? us / count : 0; }
  };
  std::map<Place, Sum> places;
  for (const StageOffer& offer : offers)
    if (offer.layer_us > 0) places[place_of(offer)].add(offer.layer_us);
  Sum all;
  for (const auto& [place, sum] : places) all.add(sum.mean());
  for (StageOffer& offer : offers) {
    const auto place = places.find(place_of(offer));
    offer.layer_us = place != places.end() ? place->second.mean() : all.mean();
  }
}

Balance balance(const LayerCosts& costs, const std::vector<StageOffer>& offers) {
  assert(!offers.empty());
  Balance best = of_all(costs, offers);
  if (offers.size() == 1 || !all_known(offers)) return best;
  // The slowest first: what the others gain by it is the most.
  const auto slowest = std::ranges::max_element(offers, {}, &StageOffer::layer_us);
  const auto quickest = std::ranges::min_element(offers, {}, &StageOffer::layer_us);
  if (slowest->layer_us < much_slower * quickest->layer_us) return best;
  std::vector<StageOffer> others = offers;
  const auto out = slowest - offers.begin();
  others.erase(others.begin() + out);
  Balance without = balance(costs, others);
  std::vector<StageOffer> used;
  Balance used_layers;
  for (size_t i = 0; i < others.size(); ++i)
    if (without[i]) used.push_back(others[i]), used_layers.push_back(without[i]);
  if (!fits(costs, used, used_layers) ||
      slowest_us(costs, others, without) >= slowest_us(costs, offers, best))
    return best;
  without.insert(without.begin() + out, std::nullopt);
  return without;
}

double slowest_us(const LayerCosts& costs, const std::vector<StageOffer>& offers, const Balance& layers) {
  double slowest = 0;
  for (size_t i = 0; i < offers.size(); ++i)
    if (layers[i]) slowest = std::max(slowest, work_of(costs, *layers[i]) * offers[i].layer_us);
  return slowest;
}

double whole_us(const LayerCosts& costs, const std::vector<StageOffer>& offers, const Balance& layers) {
  double sum = 0;
  for (size_t i = 0; i < offers.size(); ++i)
    if (layers[i]) sum += work_of(costs, *layers[i]) * offers[i].layer_us;
  return sum;
}

}  // namespace convoy::actors
