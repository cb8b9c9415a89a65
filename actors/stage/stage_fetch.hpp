#pragma once
// StageFetch: for a stage whose machine has not the model's files, which layers' weights it has, which it
// waits for before it can load, and which it fetches ahead of a plan to come. It decides: its stage loads,
// and hands in what it hears. On the stage's thread.

#include <functional>
#include <optional>

#include "actors/messages.hpp"

namespace convoy::actors {

class StageFetch {
 public:
  using Ask = std::function<void(model::LayerRange)>;

  /// ask: the fetcher, of which the last layers that it was asked for count. Empty: the model's files are
  /// here.
  explicit StageFetch(Ask ask) : ask_(std::move(ask)) {}

  bool lacks_model() const { return static_cast<bool>(ask_); }
  const std::optional<model::LayerRange>& fetched() const { return fetched_; }

  /// Orders came. True if they can be followed now: the weights are there, or loaded already. Else they wait.
  bool assigned(const Frame<msg::Assign>& orders, model::LayerRange layers, bool is_loaded) {
    waiting_.reset();
    if (!lacks_model() || is_loaded || fetched_ == layers) return true;
    waiting_ = {orders, layers};
    ask_(layers);
    return false;
  }

  /// Before they are this stage's, and behind what it needs now.
  void prepare(model::LayerRange layers) {
    ahead_ = layers;
    go_on();
  }

  /// The orders that can be followed now.
  std::optional<Frame<msg::Assign>> heard(const FetchReport& report) {
    if (!report.done) return std::nullopt;
    fetched_ = report.layers;
    if (ahead_ == report.layers) ahead_.reset();
    if (!waiting_ || waiting_->layers != report.layers) return std::nullopt;
    const Frame<msg::Assign> orders = waiting_->orders;
    waiting_.reset();
    return orders;
  }

  /// They are followed: what was to be fetched ahead may take their place in the store now.
  void go_on() {
    if (lacks_model() && !waiting_ && ahead_) ask_(*ahead_);
  }

 private:
  struct Waiting {
    Frame<msg::Assign> orders;
    model::LayerRange layers;
  };

  const Ask ask_;
  std::optional<model::LayerRange> fetched_, ahead_;
  std::optional<Waiting> waiting_;
};

}  // namespace convoy::actors
