#pragma once
// WeightStore: tensors on this machine's disk, one file each, named by the SHA-256 of their bytes. All stages
// of the machine share it, each through an object of its own: what they do to one file at a time is settled
// by locks on files. A tensor that is not whole yet is a .part, which whoever comes next goes on with. One
// thread at a time; find() any.
//
//   tensors/DIGEST, tensors/DIGEST.part    models/DIGEST: an outline; models/DIGEST.tensors: digests of its
//   tensors uses/PID: what that process needs, locked while it lives    lock: held by who makes room

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/checkpoint/weight_outline.hpp"
#include "model/digest.hpp"
#include "schema/frame.hpp"

namespace convoy::actors {

/// SHA-256, hex.
bool is_digest(std::string_view text);

/// A tensor in the store.
struct StoredTensor {
  std::string digest;
  uint64_t bytes = 0;
  bool operator==(const StoredTensor&) const = default;
};

/// The file of a whole tensor in the store of that folder; nothing if it is not there.
std::optional<std::filesystem::path> find_tensor(const std::filesystem::path& folder,
                                                 const StoredTensor& tensor);

class WeightStore {
 public:
  /// Makes the folder if it is not there. Throws InputError, as all here do, with what to do.
  WeightStore(std::filesystem::path folder, uint64_t bytes_max);
  ~WeightStore();
  WeightStore(const WeightStore&) = delete;
  WeightStore& operator=(const WeightStore&) = delete;

  const std::filesystem::path& folder() const { return folder_; }

  // Models: what was learnt of them.
  std::vector<std::string> models() const;
  schema::Frame<schema::ModelOutline> outline(const std::string& model) const;
  void keep(const std::string& model, const schema::Frame<schema::ModelOutline>& outline) const;
  model::TensorDigests digests(const std::string& model) const;
  void learn(const std::string& model, const model::TensorDigests& digests) const;

  /// The file of a whole tensor; nothing if it is not there.
  std::optional<std::filesystem::path> find(const StoredTensor& tensor) const {
    return find_tensor(folder_, tensor);
  }

  /// From now on this process needs these and no others. Makes room for them: what nobody needs goes, what
  /// was longest unused first. What is there counts as used now.
  void need(const std::vector<StoredTensor>& tensors);

  /// A tensor that comes. It goes on where one before it ended.
  class Part {
   public:
    ~Part();
    Part(const Part&) = delete;
    Part& operator=(const Part&) = delete;

    uint64_t bytes() const { return bytes_; }  // that are there
    bool whole() const { return bytes_ == tensor_.bytes; }
    void append(std::span<const std::byte> bytes);
    /// Of a whole one: into the store if its digest is right, else away with it.
    bool finish();

   private:
    friend class WeightStore;
    Part(std::filesystem::path file, StoredTensor tensor, int descriptor);
    void read_what_is_there();

    const std::filesystem::path file_;
    const StoredTensor tensor_;
    const int descriptor_;
    uint64_t bytes_ = 0;
    model::Sha256 sha_;
  };
  /// Null while another process is at that tensor, or if it has it by now.
  std::unique_ptr<Part> begin(const StoredTensor& tensor) const;

 private:
  struct Lock;
  std::unique_ptr<const Lock> lock() const;
  std::map<std::string, uint64_t> needed_by_all() const;
  void make_room(const std::map<std::string, uint64_t>& needed) const;

  const std::filesystem::path folder_;
  const uint64_t bytes_max_;
  std::filesystem::path use_;
  int use_descriptor_ = -1;
};

}  // namespace convoy::actors
