#pragma once
// Eight consecutive values of a weight's row as float32, decoded from the bytes of its file: the device's
// side of model/tensor.cpp, which says where each bit lies.

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

template <>
struct Decoder<DType::f8_e4m3> {
  static __device__ __forceinline__ void eight(const Matrix& m, int row, int column, float out[8]) {
    const uint2 v = read<uint2>(m.data + row * m.pitch + column);
    const uint32_t words[2] = {v.x, v.y};
    const int blocks = (m.columns + 127) / 128;  // a chunk lies in one of them
    const float scale = m.scales ? __ldg(m.scales + (row / 128) * blocks + column / 128) : 1.0f;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const auto byte = static_cast<__nv_fp8_storage_t>(words[i / 4] >> (i % 4 * 8) & 255);
      out[i] = __half2float(__half(__nv_cvt_fp8_to_halfraw(byte, __NV_E4M3))) * scale;
    }
  }
};

template <>
struct Decoder<DType::i8> {
  static __device__ __forceinline__ void eight(const Matrix& m, int row, int column, float out[8]) {
    const uint2 v = read<uint2>(m.data + row * m.pitch + column);
    const uint32_t words[2] = {v.x, v.y};
    const float scale = m.scales ? __ldg(m.scales + row) : 1.0f;
#pragma unroll
    for (int i = 0; i < 8; i++)
      out[i] = static_cast<float>(static_cast<int8_t>(words[i / 4] >> (i % 4 * 8) & 255)) * scale;
  }
};

template <>
struct Decoder<DType::q8_0> {
  static __device__ __forceinline__ void eight(const Matrix& m, int row, int column, float out[8]) {
    const std::byte* block = m.data + row * m.pitch + column / 32 * 34;
    const float d = read_f16(block);
    uint32_t bytes[8];
    read_bytes(block + 2 + column % 32, bytes);
#pragma unroll
    for (int i = 0; i < 8; i++) out[i] = d * static_cast<float>(static_cast<int8_t>(bytes[i]));
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
struct Decoder<DType::q4_0> {
  static __device__ __forceinline__ void eight(const Matrix& m, int row, int column, float out[8]) {
    const std::byte* block = m.data + row * m.pitch + column / 32 * 18;
    const float d = read_f16(block);
    uint32_t q[8];
    read_nibbles(block + 2, column % 32, q);
#pragma unroll
    for (int i = 0; i < 8; i++) out[i] = d * static_cast<float>(static_cast<int>(q[i]) - 8);
  }
};

template <>
struct Decoder<DType::q4_1> {
  static __device__ __forceinline__ void eight(const Matrix& m, int row, int column, float out[8]) {
    const std::byte* block = m.data + row * m.pitch + column / 32 * 20;
    const float d = read_f16(block), least = read_f16(block + 2);
    uint32_t q[8];
    read_nibbles(block + 4, column % 32, q);
#pragma unroll
    for (int i = 0; i < 8; i++) out[i] = d * static_cast<float>(q[i]) + least;
  }
};

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

/// Scale and minimum of part `part` of a q4_k or q5_k block.
__device__ __forceinline__ float2 part_scale(const std::byte* block, int part) {
  const auto at = [&](int i) { return static_cast<uint32_t>(read<unsigned char>(block + 4 + i)); };
  const int j = part & 3;
  const uint32_t a = at(j), b = at(j + 4);
  uint32_t scale = a & 63, least = b & 63;
  if (part >= 4) {
    const uint32_t both = at(j + 8);
    scale = (both & 15) | (a >> 6) << 4, least = both >> 4 | (b >> 6) << 4;
  }
  return {read_f16(block) * static_cast<float>(scale), read_f16(block + 2) * static_cast<float>(least)};
}

template <bool FiveBits>
__device__ __forceinline__ void decode_k(const std::byte* block, int value, float out[8]) {
  const int part = value / 32, j = value % 32;
  const float2 scale = part_scale(block, part);
  uint32_t q[8];
  read_bytes(block + (FiveBits ? 48 : 16) + part / 2 * 32 + j, q);
#pragma unroll
  for (int i = 0; i < 8; i++) q[i] = q[i] >> (part % 2 * 4) & 15;
  if constexpr (FiveBits) {
    uint32_t top[8];
    read_bytes(block + 16 + j, top);
#pragma unroll
    for (int i = 0; i < 8; i++) q[i] |= (top[i] >> part & 1) << 4;
  }
#pragma unroll
  for (int i = 0; i < 8; i++) out[i] = scale.x * static_cast<float>(q[i]) - scale.y;
}

template <>
struct Decoder<DType::q4_k> {
  static __device__ __forceinline__ void eight(const Matrix& m, int row, int column, float out[8]) {
    decode_k<false>(m.data + row * m.pitch + column / 256 * 144, column % 256, out);
  }
};

template <>
struct Decoder<DType::q5_k> {
  static __device__ __forceinline__ void eight(const Matrix& m, int row, int column, float out[8]) {
    decode_k<true>(m.data + row * m.pitch + column / 256 * 176, column % 256, out);
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

}  // namespace convoy::cuda
