#pragma once
// TensorHasher: computes digests of a model's tensors on a thread of its own: first those that were asked
// for, in that order, then, once anything was, all others, and keeps them beside the model. Ends with the
// object.

#include <condition_variable>
#include <deque>
#include <filesystem>
#include <functional>
#include <mutex>
#include <thread>

#include "model/checkpoint/weight_outline.hpp"

namespace convoy::actors {

class TensorHasher {
 public:
  /// On the hasher's thread, once for each that was asked for. No digest: it cannot be read, for that reason.
  using Found =
      std::function<void(const std::string& name, const std::string& digest, const std::string& reason)>;

  TensorHasher(std::shared_ptr<const model::Checkpoint> checkpoint, const model::TensorMap& tensors,
               std::filesystem::path folder, Found found);

  /// Of a tensor of the model. Any thread.
  void ask(const std::string& name);

 private:
  void run(const std::stop_token& stop);
  std::string hash(const model::Tensor& tensor, const std::stop_token& stop) const;

  const std::shared_ptr<const model::Checkpoint> checkpoint_;
  const model::TensorMap& tensors_;
  const std::filesystem::path folder_;
  const Found found_;
  std::mutex mutex_;  // guards the next two
  std::condition_variable_any changed_;
  std::deque<std::string> asked_;
  model::TensorDigests digests_;  // the thread's own
  std::jthread thread_;
};

}  // namespace convoy::actors
