#include "gpu/devices.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <string>

#include "gpu/backend.hpp"
#include "gpu/cpu/kernels.hpp"
#include "model/error.hpp"

namespace convoy::gpu {

namespace {

constexpr std::array<std::string_view, 5> names{"auto", "cpu", "cpu-reference", "cuda", "cuda:N"};
constexpr std::string_view gpu_prefix = "cuda:";
constexpr size_t gpu_digits_max = 3;

bool is_gpu(std::string_view name) {
  if (name == "cuda") return true;
  if (!name.starts_with(gpu_prefix)) return false;
  const std::string_view number = name.substr(gpu_prefix.size());
  return !number.empty() && number.size() <= gpu_digits_max &&
         std::ranges::all_of(number, [](unsigned char c) { return std::isdigit(c) != 0; });
}

[[noreturn]] void refuse(std::string_view name, const std::string& why, const std::string& mend) {
  throw InputError(why, "backend \"" + std::string(name) + "\"", mend);
}

DeviceFactory gpu_named(std::string_view name) {
  refuse(name, "this build of Convoy computes on the CPU alone", "use \"auto\" or \"cpu\"");
}

}  // namespace

std::span<const std::string_view> device_names() { return names; }

bool is_device_name(std::string_view name) {
  return name == "auto" || name == "cpu" || name == "cpu-reference" || is_gpu(name);
}

DeviceFactory device_named(std::string_view name, int threads) {
  if (name == "auto") name = best_kernels() ? "cpu" : "cpu-reference";
  if (name == "cpu-reference") return cpu_device(Kernels::reference, threads);
  if (name == "cpu") {
    if (!best_kernels())
      refuse(name, "this processor has neither AVX2 with FMA and F16C nor AVX-512 VNNI",
             "use \"cpu-reference\", which is slow");
    return cpu_device(Kernels::fast, threads);
  }
  if (is_gpu(name)) return gpu_named(name);
  std::string known;
  for (const std::string_view n : names) known += (known.empty() ? "\"" : ", \"") + std::string(n) + '"';
  refuse(name, "there is no such device", "known: " + known);
}

}  // namespace convoy::gpu
