#pragma once
// NarrowScales: scales that a checkpoint has in BF16, as Qwen's FP8 ones do, where kernels read float32. Each
// has its place in memory from the beginning, and its values there from when a stage first asks for its
// weight: a process reads those of its own layers alone. Any thread.

#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <span>

#include "model/mapping.hpp"
#include "model/tensor.hpp"

namespace convoy::model {

class NarrowScales {
 public:
  /// The scales of these weights are BF16, and are theirs in float32 from now on, all in one piece of memory:
  /// a part in 4096 of the weights' size.
  NarrowScales(std::span<Tensor* const> weights, const std::filesystem::path& checkpoint);

  /// Fills in the scales of these weights, as far as they are among ours and still empty.
  void widen(std::span<const Tensor* const> weights) const;

 private:
  struct Narrow {
    std::span<const std::byte> bits;
    std::shared_ptr<const Mapping> owner;
    std::span<std::byte> wide;
  };

  std::shared_ptr<const Mapping> memory_;
  mutable std::mutex filling_;
  mutable std::map<const std::byte*, Narrow> empty_;  // by where the wide ones begin
};

}  // namespace convoy::model
