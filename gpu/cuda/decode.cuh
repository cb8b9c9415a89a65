#pragma once
// Eight consecutive values of a weight's row as float32: the device's side of model/tensor.cpp, which says
// where each bit lies in a file, and of matrix.hpp, which says where it lies here.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "gpu/cuda/matrix.hpp"

namespace convoy::cuda {

/// Loads that may stay in the read-only cache. Block types lie at even addresses only.
template <class T>
__device__ __forceinline__ T read(const std::byte* from) {
  return __ldg(reinterpret_cast<const T*>(from));
}
__device__ __forceinline__ float read_f16(const std::byte* from) {
  return __half2float(__ushort_as_half(read<unsigned short>(from)));
}
/// Eight bytes at an even address.
__device__ __forceinline__ void read_bytes(const std::byte* from, uint32_t bytes[8]) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const uint32_t pair = read<unsigned short>(from + 2 * i);
    bytes[2 * i] = pair & 255, bytes[2 * i + 1] = pair >> 8;
  }
}

/// Values `column` to `column` + 7 of row `row`; column is a multiple of 8.
template <DType T>
struct Decoder;

template <>
struct Decoder<DType::f32> {
  static __device__ __forceinline__ void eight(const Matrix& m, int row, int column, float out[8]) {
    const std::byte* from = m.data + row * m.pitch + column * 4;
    const float4 a = read<float4>(from), b = read<float4>(from + 16);
    out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w;
    out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
  }
};

__device__ __forceinline__ void widen_bf16(const uint4& v, float out[8]) {
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    out[2 * i] = __uint_as_float(words[i] << 16);
    out[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}

template <>
struct Decoder<DType::bf16> {
  static __device__ __forceinline__ void eight(const Matrix& m, int row, int column, float out[8]) {
    widen_bf16(read<uint4>(m.data + row * m.pitch + column * 2), out);
  }
};

template <>
struct Decoder<DType::f16> {
  static __device__ __forceinline__ void eight(const Matrix& m, int row, int column, float out[8]) {
    const uint4 v = read<uint4>(m.data + row * m.pitch + column * 2);
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      out[2 * i] = __half2float(__ushort_as_half(static_cast<unsigned short>(words[i] & 0xffff)));
      out[2 * i + 1] = __half2float(__ushort_as_half(static_cast<unsigned short>(words[i] >> 16)));
    }
  }
};

/// The sixteen bytes of a row's units that hold eight values from `column` on, a run's, and eight of the
/// other run. Nibbles: those of both runs' halves.
template <DType T>
__device__ __forceinline__ const std::byte* piece_of(const Matrix& m, int row, int column) {
  return m.data + row * m.pitch + column / unit_values(T) * unit_bytes + column % 32 / chunk_values * 16;
}
/// What the file keeps with the block of a column.
template <DType T>
__device__ __forceinline__ const std::byte* head_of(const Matrix& m, int row, int column) {
  return m.data + row * m.pitch + m.heads_from + column / block_size(T).values * head_bytes(T);
}

/// Eight bytes of a row's units.
template <DType T>
__device__ __forceinline__ uint2 read_values(const Matrix& m, int row, int column) {
  return read<uint2>(piece_of<T>(m, row, column) + column % unit_values(T) / 32 * chunk_values);
}
__device__ __forceinline__ uint32_t byte_of(const uint2& v, int i) {
  return (i < 4 ? v.x : v.y) >> (i % 4 * 8) & 255;
}

template <>
struct Decoder<DType::f8_e4m3> {
  static __device__ __forceinline__ void eight(const Matrix& m, int row, int column, float out[8]) {
    const uint2 v = read_values<DType::f8_e4m3>(m, row, column);
    const float scale = m.scales ? __ldg(m.scales + (row / 128) * m.scale_pitch + column / 128) : 1.0f;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const auto byte = static_cast<__nv_fp8_storage_t>(byte_of(v, i));
      out[i] = __half2float(__half(__nv_cvt_fp8_to_halfraw(byte, __NV_E4M3))) * scale;
    }
  }
};

template <>
struct Decoder<DType::i8> {
  static __device__ __forceinline__ void eight(const Matrix& m, int row, int column, float out[8]) {
    const uint2 v = read_values<DType::i8>(m, row, column);
    const float scale = m.scales ? __ldg(m.scales + row) : 1.0f;
#pragma unroll
    for (int i = 0; i < 8; i++) out[i] = static_cast<float>(static_cast<int8_t>(byte_of(v, i))) * scale;
  }
};

template <>
struct Decoder<DType::q8_0> {
  static __device__ __forceinline__ void eight(const Matrix& m, int row, int column, float out[8]) {
    const uint2 v = read_values<DType::q8_0>(m, row, column);
    const float d = read_f16(head_of<DType::q8_0>(m, row, column));
#pragma unroll
    for (int i = 0; i < 8; i++) out[i] = d * static_cast<float>(static_cast<int8_t>(byte_of(v, i)));
  }
};

/// Eight halves of bytes of a row's units.
template <DType T>
__device__ __forceinline__ void read_halves(const Matrix& m, int row, int column, uint32_t out[8]) {
  const int in_unit = column % unit_values(T), run = in_unit / 64;
  const uint2 v = read<uint2>(piece_of<T>(m, row, column) + run * chunk_values);
#pragma unroll
  for (int i = 0; i < 8; i++) out[i] = byte_of(v, place_in_unit(T, 0, i)) >> (in_unit / 32 % 2 * 4) & 15;
}

template <>
struct Decoder<DType::q4_0> {
  static __device__ __forceinline__ void eight(const Matrix& m, int row, int column, float out[8]) {
    const float d = read_f16(head_of<DType::q4_0>(m, row, column));
    uint32_t q[8];
    read_halves<DType::q4_0>(m, row, column, q);
#pragma unroll
    for (int i = 0; i < 8; i++) out[i] = d * static_cast<float>(static_cast<int>(q[i]) - 8);
  }
};

template <>
struct Decoder<DType::q4_1> {
  static __device__ __forceinline__ void eight(const Matrix& m, int row, int column, float out[8]) {
    const std::byte* const head = head_of<DType::q4_1>(m, row, column);
    const float d = read_f16(head), least = read_f16(head + 2);
    uint32_t q[8];
    read_halves<DType::q4_1>(m, row, column, q);
#pragma unroll
    for (int i = 0; i < 8; i++) out[i] = d * static_cast<float>(q[i]) + least;
  }
};

/// Of 32 values in 16 bytes: the low halves are the first sixteen.
__device__ __forceinline__ void read_nibbles(const std::byte* nibbles, int value, uint32_t out[8]) {
  read_bytes(nibbles + value % 16, out);
  const int shift = value < 16 ? 0 : 4;
#pragma unroll
  for (int i = 0; i < 8; i++) out[i] = out[i] >> shift & 15;
}

template <>
struct Decoder<DType::iq4_nl> {
  static __device__ __forceinline__ void eight(const Matrix& m, int row, int column, float out[8]) {
    const std::byte* block = m.data + row * m.pitch + column / 32 * 18;
    const float d = read_f16(block);
    uint32_t q[8];
    read_nibbles(block + 2, column % 32, q);
    // model::iq4_nl_values, four to a word.
    constexpr uint32_t table[4] = {0xbfad9881, 0xf6eaddcf, 0x26190d01, 0x71594535};
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const uint32_t word = q[i] < 8 ? (q[i] < 4 ? table[0] : table[1]) : (q[i] < 12 ? table[2] : table[3]);
      out[i] = d * static_cast<float>(static_cast<int8_t>(word >> (q[i] % 4 * 8) & 255));
    }
  }
};

/// Scale and minimum of part `part` of a q4_k or q5_k block with this head.
__device__ __forceinline__ float2 part_scale(const std::byte* head, int part) {
  const auto at = [&](int i) { return static_cast<uint32_t>(read<unsigned char>(head + 4 + i)); };
  const int j = part & 3;
  const uint32_t a = at(j), b = at(j + 4);
  uint32_t scale = a & 63, least = b & 63;
  if (part >= 4) {
    const uint32_t both = at(j + 8);
    scale = (both & 15) | (a >> 6) << 4, least = both >> 4 | (b >> 6) << 4;
  }
  return {read_f16(head) * static_cast<float>(scale), read_f16(head + 2) * static_cast<float>(least)};
}

template <>
struct Decoder<DType::q4_k> {
  static __device__ __forceinline__ void eight(const Matrix& m, int row, int column, float out[8]) {
    const float2 scale = part_scale(head_of<DType::q4_k>(m, row, column), column % 256 / 32);
    uint32_t q[8];
    read_halves<DType::q4_k>(m, row, column, q);
#pragma unroll
    for (int i = 0; i < 8; i++) out[i] = scale.x * static_cast<float>(q[i]) - scale.y;
  }
};

template <>
struct Decoder<DType::q5_k> {
  static __device__ __forceinline__ void eight(const Matrix& m, int row, int column, float out[8]) {
    const std::byte* block = m.data + row * m.pitch + column / 256 * 176;
    const int part = column % 256 / 32, j = column % 32;
    const float2 scale = part_scale(block, part);
    uint32_t q[8], top[8];
    read_bytes(block + 48 + part / 2 * 32 + j, q), read_bytes(block + 16 + j, top);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const uint32_t value = (q[i] >> (part % 2 * 4) & 15) | (top[i] >> part & 1) << 4;
      out[i] = scale.x * static_cast<float>(value) - scale.y;
    }
  }
};

template <>
struct Decoder<DType::q6_k> {
  static __device__ __forceinline__ void eight(const Matrix& m, int row, int column, float out[8]) {
    const std::byte* block = m.data + row * m.pitch + column / 256 * 210;
    const int value = column % 256, half = value / 128, run = value / 32 % 4, j = value % 32;
    const float scale =
        read_f16(block + 208) *
        static_cast<float>(static_cast<int8_t>(read<unsigned char>(block + 192 + value / 16)));
    uint32_t low[8], top[8];
    read_bytes(block + half * 64 + run % 2 * 32 + j, low);
    read_bytes(block + 128 + half * 32 + j, top);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const uint32_t q = (low[i] >> (run / 2 * 4) & 15) | (top[i] >> (2 * run) & 3) << 4;
      out[i] = scale * static_cast<float>(static_cast<int>(q) - 32);
    }
  }
};

/// The same of any type, where how it is told does not matter.
__device__ inline void decode_any(const Matrix& m, int row, int column, float out[8]) {
  switch (m.type) {
    case DType::f32:
      return Decoder<DType::f32>::eight(m, row, column, out);
    case DType::f16:
      return Decoder<DType::f16>::eight(m, row, column, out);
    case DType::bf16:
      return Decoder<DType::bf16>::eight(m, row, column, out);
    case DType::f8_e4m3:
      return Decoder<DType::f8_e4m3>::eight(m, row, column, out);
    case DType::i8:
      return Decoder<DType::i8>::eight(m, row, column, out);
    case DType::q8_0:
      return Decoder<DType::q8_0>::eight(m, row, column, out);
    case DType::q4_0:
      return Decoder<DType::q4_0>::eight(m, row, column, out);
    case DType::q4_1:
      return Decoder<DType::q4_1>::eight(m, row, column, out);
    case DType::iq4_nl:
      return Decoder<DType::iq4_nl>::eight(m, row, column, out);
    case DType::q4_k:
      return Decoder<DType::q4_k>::eight(m, row, column, out);
    case DType::q5_k:
      return Decoder<DType::q5_k>::eight(m, row, column, out);
    case DType::q6_k:
      return Decoder<DType::q6_k>::eight(m, row, column, out);
    case DType::i64:
      break;  // refused when it was loaded
  }
}

}  // namespace convoy::cuda
