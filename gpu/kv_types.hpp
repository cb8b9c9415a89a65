#pragma once
// What keys and values may be cached in. Engine takes these types; cluster.conf and options of commands name
// them so.

#include <array>
#include <map>
#include <string>
#include <string_view>

#include "model/tensor.hpp"

namespace convoy::gpu {

struct KvType {
  std::string_view name;
  model::DType type;
};

/// Values are rounded to nearest even when they are written. f8_e4m3 has no scale: what is beyond ±448 is
/// kept as that (docs/decisions/0039).
inline constexpr std::array<KvType, 4> kv_types{{{"f32", model::DType::f32},
                                                 {"bf16", model::DType::bf16},
                                                 {"f16", model::DType::f16},
                                                 {"f8_e4m3", model::DType::f8_e4m3}}};

/// What `cpu` and `cuda` are quickest with: they cache in it unless they are told otherwise.
inline constexpr model::DType cpu_kv_type = model::DType::f16, cuda_kv_type = model::DType::bf16;

/// kv_types for options of commands.
inline std::map<std::string, model::DType> kv_types_by_name() {
  std::map<std::string, model::DType> types;
  for (const KvType& of : kv_types) types.emplace(of.name, of.type);
  return types;
}

}  // namespace convoy::gpu
