#pragma once
// What a stage hands to the next one: the rows of a step behind its last layer. Views; whoever owns the bytes
// keeps them until the step is done.

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>

namespace convoy::gpu {

/// How hidden states travel. Every device takes and gives float32.
enum class HiddenForm : uint8_t { f32, bf16 };

constexpr int64_t value_bytes(HiddenForm form) { return form == HiddenForm::bf16 ? 2 : 4; }

template <class Byte, class Float>
struct HiddenStates {
  std::span<Byte> bytes;  // [rows, hidden]; none where a step has no rows, or the model begins or ends
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
