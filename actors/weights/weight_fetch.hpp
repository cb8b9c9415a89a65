#pragma once
// WeightFetch: which tensors this machine lacks, and in which order their bytes are asked for. First the
// digests of all that is wanted, which say what the store has; then the bytes, so many parts at a time, each
// tensor from where it ended before. It decides, and writes into the store; who sends what it asks for, and
// hands in what comes, is its actor, or a test. One thread.

#include <deque>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "actors/weights/weight_store.hpp"

namespace convoy::actors {

struct FetchLimits {
  uint64_t part_bytes = 1 << 20;
  uint32_t parts_in_flight = 8;
  uint32_t digests_in_flight = 256;
  uint32_t attempts_max = 3;  // of a tensor whose bytes have another digest than they should
};

class WeightFetch {
 public:
  /// What to ask a peer for. Of no bytes: the tensor's digest.
  struct Ask {
    std::string name;
    uint64_t begin = 0;
    uint32_t bytes = 0;
    bool operator==(const Ask&) const = default;
  };
  struct Progress {
    uint64_t bytes = 0, of = 0;         // that are there, of all that is wanted
    uint32_t digests = 0, tensors = 0;  // that are known, of so many
  };

  /// The store outlives it.
  WeightFetch(WeightStore& store, std::string model, FetchLimits limits);

  /// These, in this order, and no others.
  void want(const std::vector<model::NeededTensor>& needed);
  /// What to send now, in this order; without a peer nothing, but what the store has is found. Asked again
  /// whenever anything changed, and now and then: another process of this machine may fetch the same. Throws
  /// InputError if the store cannot take what is wanted; then want() again.
  std::vector<Ask> asks(bool peer_is_there = true);

  // What comes. Answers to asks for bytes come in the order of these. Throws InputError for one that nobody
  // asked for, if the store cannot take it, and if a tensor's bytes are wrong once too often; then want()
  // again.
  void digest(const std::string& name, const std::string& digest);
  void part(const std::string& name, uint64_t begin, std::span<const std::byte> bytes);
  /// Nothing that was asked for comes any more.
  void disconnected();

  bool done() const { return have_ == tensors_.size() && !tensors_.empty(); }
  bool waits() const { return !in_flight_.empty() || !digests_asked_.empty(); }
  Progress progress() const;
  uint64_t bytes_received() const { return bytes_received_; }
  uint32_t wrong() const { return wrong_; }  // tensors that came with the wrong bytes
  /// Of all that are wanted, once done().
  const model::TensorDigests& digests() const { return digests_; }

 private:
  struct Tensor {
    model::NeededTensor needed;
    bool there = false;
    uint64_t asked = 0;  // bytes, from its beginning
    uint32_t attempts = 0;
    std::unique_ptr<WeightStore::Part> part;
  };
  struct InFlight {
    Ask ask;
    bool stale;  // of what was wanted before
  };

  StoredTensor stored(const Tensor& tensor) const;
  void ask_for_digests(std::vector<Ask>& asks, bool peer_is_there);
  void look_into_store();
  void ask_for_bytes(std::vector<Ask>& asks);
  bool open(Tensor& tensor);
  void arrived(Tensor& tensor);
  void finish(Tensor& tensor);

  WeightStore& store_;
  const std::string model_;
  const FetchLimits limits_;
  model::TensorDigests digests_, learnt_;  // learnt: not in the store's list yet
  std::vector<Tensor> tensors_;
  std::map<std::string, size_t, std::less<>> index_;
  size_t have_ = 0, next_digest_ = 0;
  bool looked_ = false;      // what the store has is known
  std::deque<size_t> todo_;  // not there, not all asked for
  std::set<std::string, std::less<>> digests_asked_;
  std::deque<InFlight> in_flight_;
  uint64_t have_bytes_ = 0, want_bytes_ = 0, bytes_received_ = 0;
  uint32_t wrong_ = 0;
};

}  // namespace convoy::actors
