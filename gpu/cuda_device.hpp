#pragma once
// Devices of NVIDIA's CUDA: they live in a library of their own, which is looked for when one is asked for,
// so that one binary runs on machines with and without a GPU. devices.cpp names them.

#include <filesystem>
#include <memory>
#include <vector>

#include "gpu/cuda/table.hpp"
#include "gpu/devices.hpp"

namespace convoy::gpu {

/// The library, as long as somebody uses it.
class CudaLibrary {
 public:
  /// Beside the binary, or in ../lib from there; or the path that is given. Throws InputError if there is
  /// none, or it is of another build.
  static std::shared_ptr<const CudaLibrary> load(const std::filesystem::path& path = {});
  /// What the functions do is the caller's to say; tests bring a table of their own.
  explicit CudaLibrary(const cuda::Table& table) : table_(&table) {}
  ~CudaLibrary();
  CudaLibrary(const CudaLibrary&) = delete;
  CudaLibrary& operator=(const CudaLibrary&) = delete;

  const cuda::Table& table() const { return *table_; }
  /// Throws InputError if this card is not there or not for this library, or the driver is too old. Takes
  /// nothing of the card.
  void check(int32_t ordinal) const;
  /// The numbers of all cards that check() lets pass: at least one, or what is wrong with the first is
  /// thrown.
  std::vector<int32_t> cards() const;

 private:
  void* handle_ = nullptr;
  const cuda::Table* table_;
};

/// The card of that number. Throws as CudaLibrary::check.
DeviceFactory cuda_device(std::shared_ptr<const CudaLibrary> library, const cuda::OpenOptions& options);

/// One of the cards that work, as place_device() says. Every rank comes to the same sharing by itself, as
/// long as all see the same cards; so a process that takes another's place takes its card, too. Throws as
/// CudaLibrary::cards.
PlacedDevice place_on_cards(std::shared_ptr<const CudaLibrary> library, cuda::Activations activations,
                            LocalRank rank);

}  // namespace convoy::gpu
