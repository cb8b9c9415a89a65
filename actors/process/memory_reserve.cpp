#include "actors/process/memory_reserve.hpp"

#include <array>
#include <atomic>
#include <cassert>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace convoy::actors {

namespace {

/// 4 MiB in pieces that do not touch, so that whoever wants more than a piece does not get it together.
constexpr size_t pieces = 256, piece_bytes = 16 * 1024,
                 between_bytes = 2048;  // large enough not to lie elsewhere

std::array<std::atomic<void*>, pieces> kept{};
std::array<void*, pieces> between{};

/// What `new` calls when malloc gave nothing, before it asks again.
void give_one() {
  for (auto& piece : kept)
    if (void* const memory = piece.exchange(nullptr)) return std::free(memory);
  throw std::bad_alloc();
}

}  // namespace

MemoryReserve::MemoryReserve() {
  for (size_t i = 0; i < pieces; ++i) {
    kept[i] = std::malloc(piece_bytes);
    between[i] = std::malloc(between_bytes);
  }
  [[maybe_unused]] const auto before = std::set_new_handler(give_one);
  assert(!before);
}

MemoryReserve::~MemoryReserve() {
  std::set_new_handler(nullptr);
  for (auto& piece : kept) std::free(piece.exchange(nullptr));
  for (void*& memory : between) std::free(memory), memory = nullptr;
}

void MemoryReserve::refill() {
  for (auto& piece : kept) {
    if (piece) continue;
    void* const memory = std::malloc(piece_bytes);
    if (!memory) return;
    piece = memory;
  }
}

}  // namespace convoy::actors
