// Products of the fast CPU backend with one weight matrix that no cache holds: for each type, number of rows
// of activations and number of threads, the bytes of weights read and the arithmetic done in a second, as
// JSON lines.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <cstring>
#include <iostream>
#include <random>
#include <span>
#include <vector>

#include "bench/seconds.hpp"
#include "gpu/backend.hpp"
#include "gpu/cpu/fast.hpp"

namespace {

using namespace convoy;
using bench::Seconds;
using model::DType;

constexpr DType types[] = {DType::f32,  DType::f16,    DType::bf16, DType::f8_e4m3, DType::q8_0, DType::q4_0,
                           DType::q4_1, DType::iq4_nl, DType::q4_k, DType::q5_k,    DType::q6_k};

/// Random bytes as blocks of a type. Bytes from 0x20 to 0x3b make every half-precision scale, every bfloat16
/// and every 8-bit number an ordinary one: some processors take a hundred times as long with subnormal ones.
std::vector<std::byte> random_blocks(size_t bytes) {
  std::vector<std::byte> blocks(bytes);
  std::mt19937_64 random(1);
  for (size_t i = 0; i < bytes; i += sizeof(uint64_t)) {
    const uint64_t eight = (random() & 0x1b1b1b1b1b1b1b1b) | 0x2020202020202020;
    std::memcpy(&blocks[i], &eight, std::min(sizeof eight, bytes - i));
  }
  return blocks;
}

/// Of a product, the best of several.
Seconds time_of_product(gpu::Backend& backend, const gpu::Weight& weight, int64_t rows, int repeats) {
  const auto values = [&](int64_t width) { return static_cast<size_t>(rows * width); };
  const gpu::Buffer h = backend.allocate(values(weight.columns) * sizeof(float));
  const gpu::Buffer out = backend.allocate(values(weight.rows) * sizeof(float));
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::generate_n(static_cast<float*>(h.get()), values(weight.columns), [&] { return normal(random); });
  const gpu::Projection projection[] = {{&weight, nullptr, {out.get(), rows, weight.rows}}};
  Seconds best{1e9, 1e9};
  for (int i = 0; i <= repeats; ++i) {  // the first touches pages and wakes threads
    const Seconds took = bench::time_of([&] { backend.linear({h.get(), rows, weight.columns}, projection); });
    if (i > 0) best = {std::min(best.wall, took.wall), std::min(best.cpu, took.cpu)};
  }
  return best;
}

}  // namespace

int main(int argc, char** argv) try {
  int64_t columns = 7168, megabytes = 256;
  int repeats = 5;
  std::vector<int64_t> rows_list{1, 64}, threads_list{1, 2};
  std::vector<std::string> names;
  std::string kernels = "best";
  CLI::App app{"Measures the products of the fast CPU kernels with weights of every type"};
  app.add_option("--type", names, "types as GGUF names them; all if not given");
  app.add_option("--columns", columns, "of the weight matrix")->check(CLI::Range(256, 1 << 20));
  app.add_option("--megabytes", megabytes, "of the weight matrix")->check(CLI::Range(1, 1 << 16));
  app.add_option("--rows", rows_list, "rows of activations")->check(CLI::Range(1, 1 << 16));
  app.add_option("--threads", threads_list)->check(CLI::Range(1, 256));
  app.add_option("--repeats", repeats, "the best of so many is kept")->check(CLI::Range(1, 1000));
  app.add_option("--kernels", kernels)->check(CLI::IsMember({"best", "avx2"}));
  CLI11_PARSE(app, argc, argv);
  columns = columns / 256 * 256;  // whole blocks of every type

  const gpu::KernelTable* table = kernels == "best" ? gpu::best_kernels() : &gpu::avx2_kernels();
  if (!table || !gpu::supports_avx2()) throw std::runtime_error("this processor has no vector kernels");
  const auto bytes = random_blocks(static_cast<size_t>(megabytes) << 20);
  for (const DType type : types) {
    if (!names.empty() && std::ranges::find(names, model::info(type).name) == names.end()) continue;
    model::Tensor tensor{type, {1, columns}, {}, nullptr};
    const auto outputs = static_cast<int64_t>(bytes.size() / tensor.row_bytes());
    tensor.shape = {outputs, columns};
    tensor.bytes = std::span(bytes).first(static_cast<size_t>(outputs) * tensor.row_bytes());
    const double weight_bytes = static_cast<double>(outputs) * static_cast<double>(tensor.row_bytes());
    for (const int64_t threads : threads_list) {
      const auto backend = gpu::make_fast_backend(*table, static_cast<int>(threads));
      const gpu::Weight weight = backend->adopt(tensor);
      for (const int64_t rows : rows_list) {
        const Seconds best = time_of_product(*backend, weight, rows, repeats);
        const double flops = 2.0 * static_cast<double>(outputs) * static_cast<double>(columns * rows);
        boost::json::object line{{"type", std::string(model::info(type).name)},
                                 {"kernels", table->name},
                                 {"threads", threads},
                                 {"rows", rows},
                                 {"outputs", outputs},
                                 {"columns", columns}};
        line["GB_per_s"] = weight_bytes / best.wall * 1e-9;
        line["GFLOP_per_s"] = flops / best.wall * 1e-9;
        line["GB_per_cpu_s"] = weight_bytes / best.cpu * 1e-9;
        line["GFLOP_per_cpu_s"] = flops / best.cpu * 1e-9;
        std::cout << boost::json::serialize(line) << std::endl;
      }
    }
  }
} catch (const std::exception& e) {
  std::cerr << "convoy_bench_kernels: " << e.what() << '\n';
  return 1;
}
