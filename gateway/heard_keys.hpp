#pragma once
// HeardKeys: the API keys that count, in a gateway that has no file of them: as the head said last. Any
// thread.

#include <memory>
#include <mutex>

#include "gateway/api_keys.hpp"

namespace convoy::gateway {

class HeardKeys {
 public:
  void set(std::shared_ptr<const ApiKeys> keys) {
    const std::lock_guard lock(mutex_);
    keys_ = std::move(keys);
  }
  /// Null: it has not said them yet.
  std::shared_ptr<const ApiKeys> get() const {
    const std::lock_guard lock(mutex_);
    return keys_;
  }

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<const ApiKeys> keys_;
};

}  // namespace convoy::gateway
