// A libconvoy_cuda.so of another build, for test_devices: its structures have another layout.

#include "gpu/cuda/table.hpp"

extern "C" const convoy::cuda::Table* convoy_cuda_table() {
  static const convoy::cuda::Table table{.version = convoy::cuda::table_version,
                                         .layout = convoy::cuda::table_layout() + 1};
  return &table;
}
