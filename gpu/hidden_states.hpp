#pragma once
// What a stage hands to the next one: the rows of a step behind its last layer. Views; whoever owns the bytes
// keeps them until the step is done.

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>

namespace convoy::gpu {

/// How hidden states travel. Every device takes and gives float32. edge: straight from device to device, and
/// no host has their bytes.
enum class HiddenForm : uint8_t { f32, bf16, edge };

constexpr int64_t value_bytes(HiddenForm form) {
  return form == HiddenForm::f32 ? 4 : form == HiddenForm::bf16 ? 2 : 0;
}

/// Which of a stage's neighbours an edge goes to. Hidden states go from one's to_next to the other's
/// from_before.
enum class EdgeEnd : uint8_t { from_before, to_next };
inline constexpr size_t edge_ends = 2;
/// What the two ends of an edge find each other by: drawn by the one that sends, told to the other.
struct EdgeKey {
  std::byte bytes[128];
};
enum class EdgeState : uint8_t { none, forming, up, failed };

template <class Byte, class Float>
struct HiddenStates {
  std::span<Byte> bytes;  // [rows, hidden]; none on an edge, of no rows, and where the model begins or ends
  HiddenForm form = HiddenForm::f32;

  HiddenStates() = default;
  HiddenStates(std::span<Byte> bytes, HiddenForm form) : bytes(bytes), form(form) {}
  HiddenStates(std::span<Float> values)
      : bytes(reinterpret_cast<Byte*>(values.data()), values.size_bytes()) {}

  /// Of float32 alone.
  std::span<Float> values() const {
    assert(form == HiddenForm::f32);
    return {reinterpret_cast<Float*>(bytes.data()), bytes.size() / sizeof(Float)};
  }
};
using HiddenIn = HiddenStates<const std::byte, const float>;
using HiddenOut = HiddenStates<std::byte, float>;

}  // namespace convoy::gpu
