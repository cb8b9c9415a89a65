#include "actors/weights/tensor_hasher.hpp"

#include "actors/process/log.hpp"
#include "model/checkpoint/kept_digest.hpp"
#include "model/digest.hpp"
#include "model/error.hpp"

namespace convoy::actors {

namespace {
constexpr size_t hash_bytes = 8 << 20;  // read at once
}

TensorHasher::TensorHasher(std::shared_ptr<const model::Checkpoint> checkpoint,
                           const model::TensorMap& tensors, std::filesystem::path folder, Found found)
    : checkpoint_(std::move(checkpoint)),
      tensors_(tensors),
      folder_(std::move(folder)),
      found_(std::move(found)),
      thread_([this](const std::stop_token& stop) { run(stop); }) {}

void TensorHasher::ask(const std::string& name) {
  const std::lock_guard lock(mutex_);
  asked_.push_back(name);
  changed_.notify_one();
}

void TensorHasher::run(const std::stop_token& stop) {
  auto other = tensors_.end();  // the next that nobody asked for; none before anybody asked for any
  bool begun = false;
  for (;;) {
    std::string name;
    {
      std::unique_lock lock(mutex_);
      const bool idle = !begun || other == tensors_.end();
      if (idle && !changed_.wait(lock, stop, [this] { return !asked_.empty(); })) return;
      if (stop.stop_requested()) return;
      if (!asked_.empty()) {
        name = std::move(asked_.front());
        asked_.pop_front();
      }
    }
    const bool was_asked = !name.empty();
    if (!std::exchange(begun, true)) {
      other = tensors_.begin();
      digests_ = model::kept_tensor_digests(*checkpoint_, folder_);
      if (digests_.size() == tensors_.size()) other = tensors_.end();
    }
    if (!was_asked) name = (other++)->first;
    try {
      if (!digests_.contains(name)) digests_[name] = hash(tensors_.at(name), stop);
      if (stop.stop_requested()) return;
      if (was_asked) found_(name, digests_.at(name), "");
    } catch (const InputError& e) {
      digests_.erase(name);
      log::warn_limited("weights.not_readable", {{"tensor", name}, {"reason", e.what()}});
      if (was_asked) found_(name, "", e.what());
    }
    if (!was_asked && other == tensors_.end() && digests_.size() == tensors_.size())
      log::info("weights.digests_known",
                {{"tensors", digests_.size()},
                 {"kept", model::keep_tensor_digests(*checkpoint_, folder_, digests_)}});
  }
}

std::string TensorHasher::hash(const model::Tensor& tensor, const std::stop_token& stop) const {
  model::Sha256 sha;
  for (size_t at = 0; at < tensor.bytes.size() && !stop.stop_requested(); at += hash_bytes) {
    const auto piece = tensor.bytes.subspan(at, std::min(hash_bytes, tensor.bytes.size() - at));
    model::fetch(piece);
    sha.update(piece);
    tensor.owner->forget(piece);
  }
  return sha.hex();
}

}  // namespace convoy::actors
