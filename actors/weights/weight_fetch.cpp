#include "actors/weights/weight_fetch.hpp"

#include <algorithm>
#include <cassert>

#include "model/error.hpp"

namespace convoy::actors {

namespace {

[[noreturn]] void refuse_answer(const std::string& name) {
  throw InputError("came although nobody asked for it", "tensor " + name, "run one version of Convoy");
}

}  // namespace

WeightFetch::WeightFetch(WeightStore& store, std::string model, FetchLimits limits)
    : store_(store), model_(std::move(model)), limits_(limits), digests_(store_.digests(model_)) {}

void WeightFetch::want(const std::vector<model::NeededTensor>& needed) {
  for (InFlight& one : in_flight_) one.stale = true;
  tensors_.clear(), index_.clear(), todo_.clear();
  have_ = next_digest_ = 0, have_bytes_ = want_bytes_ = 0;
  looked_ = false;
  for (const auto& each : needed) {
    index_[each.name] = tensors_.size();
    tensors_.push_back({.needed = each});
    want_bytes_ += each.bytes;
  }
}

StoredTensor WeightFetch::stored(const Tensor& tensor) const {
  return {digests_.at(tensor.needed.name), tensor.needed.bytes};
}

std::vector<WeightFetch::Ask> WeightFetch::asks(bool peer_is_there) {
  std::vector<Ask> asks;
  if (!looked_) ask_for_digests(asks, peer_is_there);
  if (!looked_ && next_digest_ == tensors_.size() && digests_asked_.empty()) look_into_store();
  if (looked_ && peer_is_there) ask_for_bytes(asks);
  return asks;
}

void WeightFetch::ask_for_digests(std::vector<Ask>& asks, bool peer_is_there) {
  for (; next_digest_ < tensors_.size() && digests_asked_.size() < limits_.digests_in_flight;
       ++next_digest_) {
    const std::string& name = tensors_[next_digest_].needed.name;
    if (digests_.contains(name)) continue;
    if (!peer_is_there) return;
    if (digests_asked_.insert(name).second) asks.push_back({name});
  }
}

void WeightFetch::look_into_store() {
  if (!learnt_.empty()) store_.learn(model_, std::exchange(learnt_, {}));
  std::vector<StoredTensor> all;
  for (const Tensor& tensor : tensors_) all.push_back(stored(tensor));
  store_.need(all);
  for (size_t i = 0; i < tensors_.size(); ++i)
    if (store_.find(all[i]))
      arrived(tensors_[i]);
    else
      todo_.push_back(i);
  looked_ = true;
}

void WeightFetch::arrived(Tensor& tensor) {
  tensor.there = true;
  tensor.part.reset();
  have_bytes_ += tensor.needed.bytes;
  ++have_;
}

void WeightFetch::ask_for_bytes(std::vector<Ask>& asks) {
  // One that another process is at goes behind the others; each is looked at once.
  for (size_t looks = todo_.size(); looks > 0 && in_flight_.size() < limits_.parts_in_flight; --looks) {
    Tensor& tensor = tensors_[todo_.front()];
    if (!open(tensor)) {
      if (!tensor.there) todo_.push_back(todo_.front());
      todo_.pop_front();
      continue;
    }
    while (tensor.asked < tensor.needed.bytes && in_flight_.size() < limits_.parts_in_flight) {
      const auto bytes =
          static_cast<uint32_t>(std::min(limits_.part_bytes, tensor.needed.bytes - tensor.asked));
      asks.push_back({tensor.needed.name, tensor.asked, bytes});
      in_flight_.push_back({asks.back(), false});
      tensor.asked += bytes;
    }
    if (tensor.asked == tensor.needed.bytes) todo_.pop_front();
  }
}

/// False if there is nothing to ask for: it is there by now, or another process is at it.
bool WeightFetch::open(Tensor& tensor) {
  if (tensor.part) return true;
  if (store_.find(stored(tensor))) {
    arrived(tensor);
    return false;
  }
  tensor.part = store_.begin(stored(tensor));
  if (!tensor.part) return false;
  tensor.asked = tensor.part->bytes();
  if (tensor.part->whole()) finish(tensor);  // whoever wrote it was killed just then
  return tensor.part != nullptr;
}

void WeightFetch::digest(const std::string& name, const std::string& digest) {
  if (digests_asked_.erase(name) == 0 || !is_digest(digest)) refuse_answer(name);
  digests_[name] = learnt_[name] = digest;
}

void WeightFetch::part(const std::string& name, uint64_t begin, std::span<const std::byte> bytes) {
  if (in_flight_.empty() || in_flight_.front().ask != Ask{name, begin, static_cast<uint32_t>(bytes.size())})
    refuse_answer(name);
  const bool stale = in_flight_.front().stale;
  in_flight_.pop_front();
  bytes_received_ += bytes.size();
  if (stale) return;
  Tensor& tensor = tensors_[index_.find(name)->second];
  assert(tensor.part && tensor.part->bytes() == begin);
  tensor.part->append(bytes);
  if (tensor.part->whole()) finish(tensor);
}

/// Its last byte is there.
void WeightFetch::finish(Tensor& tensor) {
  if (tensor.part->finish()) return arrived(tensor);
  ++wrong_;
  tensor.part.reset();
  if (++tensor.attempts >= limits_.attempts_max)
    throw InputError("came " + std::to_string(tensor.attempts) + " times with bytes of another digest than " +
                         digests_.at(tensor.needed.name),
                     "tensor " + tensor.needed.name, "look at the disk and the memory of that machine");
  tensor.asked = 0;
  const size_t index = index_.find(tensor.needed.name)->second;
  if (std::ranges::find(todo_, index) == todo_.end()) todo_.push_front(index);
}

void WeightFetch::disconnected() {
  in_flight_.clear();
  digests_asked_.clear();
  next_digest_ = 0;
  todo_.clear();
  for (size_t i = 0; looked_ && i < tensors_.size(); ++i) {
    tensors_[i].part.reset();
    if (!tensors_[i].there) todo_.push_back(i);
  }
}

WeightFetch::Progress WeightFetch::progress() const {
  Progress progress{have_bytes_, want_bytes_, 0, static_cast<uint32_t>(tensors_.size())};
  for (const Tensor& tensor : tensors_) {
    if (tensor.part) progress.bytes += tensor.part->bytes();
    progress.digests += digests_.contains(tensor.needed.name) ? 1 : 0;
  }
  return progress;
}

}  // namespace convoy::actors
