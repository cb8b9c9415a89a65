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

/// What a GPU's name says.
struct GpuName {
  cuda::Activations activations = cuda::Activations::bf16;
  std::optional<int32_t> card;  // nothing: whichever one gets
};

/// Nothing: it is none.
std::optional<GpuName> parse_gpu(std::string_view name) {
  GpuName gpu;
  if (!name.starts_with(gpu_prefix)) return std::nullopt;
  name.remove_prefix(gpu_prefix.size());
  if (name.starts_with(float_suffix)) {
    name.remove_prefix(float_suffix.size());
    gpu.activations = cuda::Activations::f32;
  }
  if (name.empty()) return gpu;
  if (name.front() != ':') return std::nullopt;
  name.remove_prefix(1);
  if (name.empty() || name.size() > gpu_digits_max ||
      !std::ranges::all_of(name, [](unsigned char c) { return std::isdigit(c) != 0; }))
    return std::nullopt;
  std::from_chars(name.data(), name.data() + name.size(), gpu.card.emplace());
  return gpu;
}

[[noreturn]] void refuse(std::string_view name, const std::string& why, const std::string& mend) {
  throw InputError(why, "backend \"" + std::string(name) + "\"", mend);
}

PlacedDevice place_gpu(const GpuName& gpu, LocalRank rank) {
  auto library = CudaLibrary::load();
  if (!gpu.card) return place_on_cards(std::move(library), gpu.activations, rank);
  const cuda::OpenOptions options{.ordinal = *gpu.card, .activations = gpu.activations};
  return {cuda_device(std::move(library), options), gpu.card, rank.size};
}

/// One of the cards, if there are any that work.
std::optional<PlacedDevice> any_gpu(LocalRank rank) {
  try {
    return place_gpu({}, rank);
  } catch (const InputError&) {
    return std::nullopt;  // this machine has none: nothing was asked for that it should have
  }
}

}  // namespace

std::span<const std::string_view> device_names() { return names; }

bool is_device_name(std::string_view name) {
  return name == "auto" || name == "cpu" || name == "cpu-reference" || parse_gpu(name);
}

PlacedDevice place_device(std::string_view name, int threads, LocalRank rank) {
  if (name == "auto") {
    if (auto gpu = any_gpu(rank)) return std::move(*gpu);
    name = best_kernels() ? "cpu" : "cpu-reference";
  }
  if (name == "cpu-reference") return {cpu_device(Kernels::reference, threads), {}, rank.size};
  if (name == "cpu") {
    if (!best_kernels())
      refuse(name, "this processor has neither AVX2 with FMA and F16C nor AVX-512 VNNI",
             "use \"cpu-reference\", which is slow");
    return {cpu_device(Kernels::fast, threads), {}, rank.size};
  }
  if (const auto gpu = parse_gpu(name)) return place_gpu(*gpu, rank);
  std::string known;
  for (const std::string_view n : names) known += (known.empty() ? "\"" : ", \"") + std::string(n) + '"';
  refuse(name, "there is no such device", "known: " + known);
}

uint32_t devices_here() {
  try {
    return static_cast<uint32_t>(CudaLibrary::load()->cards().size());
  } catch (const InputError&) {
    return 1;  // it has no GPU
  }
}

}  // namespace convoy::gpu
