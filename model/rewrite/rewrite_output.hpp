#pragma once
// The files of a checkpoint that is being written: their layout, the bytes, and a journal of the tensors that
// are whole, so that an interrupted run can go on. Internal to model/: one thread, the rewriter's.

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "model/digest.hpp"
#include "model/rewrite/rewrite.hpp"
#include "model/rewrite/rewrite_plan.hpp"

namespace convoy::model {

/// Where a tensor lies in a file.
struct Place {
  uint64_t begin = 0, bytes = 0;
};

struct OutputFile {
  std::string name;    // in the output's directory; empty: the output is this file
  std::string header;  // before the tensors' data
  uint64_t bytes = 0;  // of the whole file
  std::map<std::string, Place, std::less<>> places{};
};

/// model.safetensors; or, with more data than fits one, shards and their index. Groups stay together.
std::vector<OutputFile> safetensors_files(const std::vector<std::vector<PlannedTensor>>& groups,
                                          uint64_t shard_bytes_max);

class Output {
 public:
  enum class Kind : uint8_t { file, directory };

  /// Lays the files out under OUT.partial, or takes up what a run with the same plan left there. Throws
  /// InputError if `out` exists, another process writes it, or the disk has no room.
  Output(const std::filesystem::path& out, Kind kind, std::vector<OutputFile> files, const std::string& plan);
  ~Output();
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;

  uint64_t bytes() const { return bytes_; }
  uint64_t bytes_of(std::string_view tensor) const { return spots_.find(tensor)->second.place.bytes; }

  /// Whether an earlier run finished the tensor (and its scales, if there is a name for them) and its bytes
  /// are still those that it wrote.
  bool kept(const std::string& tensor, const std::string& scales);
  /// Of a tensor that is finished or kept.
  const RewriteLoss& loss(const std::string& tensor) const { return finished_.find(tensor)->second.loss; }

  /// One tensor on its way to the file, front to back.
  class Writing {
   public:
    void write(std::span<const std::byte> bytes);
    /// Its scales, which are a tensor of their own.
    void write_scales(const std::string& tensor, std::span<const std::byte> bytes);
    /// All of it is written: notes that down.
    void finish(const RewriteLoss& loss);

   private:
    friend class Output;
    Writing(Output& output, const std::string& tensor) : output_(output), tensor_(tensor) {}
    Output& output_;
    std::string tensor_;
    uint64_t written_ = 0;
    Sha256 digest_;
  };
  Writing begin(const std::string& tensor) { return {*this, tensor}; }

  /// A small file beside the weights.
  void write_file(const std::string& name, std::string_view content);

  const std::filesystem::path& partial() const { return partial_; }
  void finish();

 private:
  struct Descriptor {
    int fd = -1;
    Descriptor() = default;
    Descriptor(Descriptor&& other) noexcept : fd(std::exchange(other.fd, -1)) {}
    Descriptor& operator=(Descriptor&& other) noexcept {
      std::swap(fd, other.fd);
      return *this;
    }
    ~Descriptor();
  };
  struct Spot {
    int fd;
    Place place;
  };
  struct Finished {
    std::string sha256;
    RewriteLoss loss;
  };

  Descriptor open(const std::filesystem::path& path, int flags) const;
  void put(int fd, uint64_t at, std::span<const std::byte> bytes) const;
  bool take_up(const std::string& plan);
  void lay_out(const std::string& plan);
  void note(const std::string& line);
  void hash(const Spot& spot, Sha256& digest) const;
  std::filesystem::path path_of(const OutputFile& file) const;

  std::filesystem::path out_, partial_, journal_path_;
  Kind kind_;
  std::vector<OutputFile> files_;
  uint64_t bytes_ = 0;
  Descriptor journal_;
  std::vector<Descriptor> open_files_;
  std::map<std::string, Spot, std::less<>> spots_;
  std::map<std::string, Finished, std::less<>> finished_;
};

}  // namespace convoy::model
