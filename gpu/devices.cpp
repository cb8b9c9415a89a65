#include "gpu/devices.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <optional>
#include <string>

#include "gpu/backend.hpp"
#include "gpu/cpu/kernels.hpp"
#include "gpu/cuda_device.hpp"
#include "model/error.hpp"

namespace convoy::gpu {

namespace {

constexpr std::array<std::string_view, 7> names{"auto",   "cpu",      "cpu-reference", "cuda",
                                                "cuda:N", "cuda-f32", "cuda-f32:N"};
constexpr std::string_view gpu_prefix = "cuda", float_suffix = "-f32";
constexpr size_t gpu_digits_max = 3;

/// What a GPU's name says; nothing: it is none.
std::optional<cuda::OpenOptions> parse_gpu(std::string_view name) {
  cuda::OpenOptions options;
  if (!name.starts_with(gpu_prefix)) return std::nullopt;
  name.remove_prefix(gpu_prefix.size());
  if (name.starts_with(float_suffix)) {
    name.remove_prefix(float_suffix.size());
    options.activations = cuda::Activations::f32;
  }
  if (name.empty()) return options;
  if (name.front() != ':') return std::nullopt;
  name.remove_prefix(1);
  if (name.empty() || name.size() > gpu_digits_max ||
      !std::ranges::all_of(name, [](unsigned char c) { return std::isdigit(c) != 0; }))
    return std::nullopt;
  std::from_chars(name.data(), name.data() + name.size(), options.ordinal);
  return options;
}

[[noreturn]] void refuse(std::string_view name, const std::string& why, const std::string& mend) {
  throw InputError(why, "backend \"" + std::string(name) + "\"", mend);
}

/// The first card, if there is one that works.
std::optional<DeviceFactory> first_gpu() {
  try {
    return cuda_device(CudaLibrary::load(), {});
  } catch (const InputError&) {
    return std::nullopt;  // this machine has none: nothing was asked for that it should have
  }
}

}  // namespace

std::span<const std::string_view> device_names() { return names; }

bool is_device_name(std::string_view name) {
  return name == "auto" || name == "cpu" || name == "cpu-reference" || parse_gpu(name);
}

DeviceFactory device_named(std::string_view name, int threads) {
  if (name == "auto") {
    if (auto gpu = first_gpu()) return *gpu;
    name = best_kernels() ? "cpu" : "cpu-reference";
  }
  if (name == "cpu-reference") return cpu_device(Kernels::reference, threads);
  if (name == "cpu") {
    if (!best_kernels())
      refuse(name, "this processor has neither AVX2 with FMA and F16C nor AVX-512 VNNI",
             "use \"cpu-reference\", which is slow");
    return cpu_device(Kernels::fast, threads);
  }
  if (const auto options = parse_gpu(name)) return cuda_device(CudaLibrary::load(), *options);
  std::string known;
  for (const std::string_view n : names) known += (known.empty() ? "\"" : ", \"") + std::string(n) + '"';
  refuse(name, "there is no such device", "known: " + known);
}

}  // namespace convoy::gpu
