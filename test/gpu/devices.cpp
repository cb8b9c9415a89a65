// Devices by the names that configuration and commands use.

#include "gpu/devices.hpp"

#include <boost/test/unit_test.hpp>

#include "gpu/backend.hpp"
#include "test/gpu/tiny_model.hpp"

using namespace convoy;
using namespace convoy::gpu;
using namespace convoy::gpu::test;

namespace {

const StageShape shape = stage_shape(TinyCheckpoint(model::DType::f32).config(), {0, 2}, false);

std::string variant(std::string_view name) {
  return std::string(device_named(name, 1)(shape)->facts().variant);
}

bool has_fast() {
  try {
    make_cpu_backend(Kernels::fast, 1);
    return true;
  } catch (const InputError&) {
    return false;
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(names_mean_devices) {
  BOOST_TEST(variant("cpu-reference").starts_with("cpu-reference "));
  if (has_fast()) {
    BOOST_TEST(variant("cpu").starts_with("cpu-int8 "));
  } else {
    BOOST_CHECK_EXCEPTION(device_named("cpu", 1), InputError, [](const InputError& e) {
      return e.mend().find("cpu-reference") != e.mend().npos;
    });
    BOOST_TEST(variant("auto") == variant("cpu-reference"));
  }
  BOOST_TEST(!variant("auto").empty());
}

BOOST_AUTO_TEST_CASE(a_name_is_checked_without_asking_the_machine) {
  for (const char* name :
       {"auto", "cpu", "cpu-reference", "cuda", "cuda:0", "cuda:3", "cuda:15", "cuda-f32", "cuda-f32:3"})
    BOOST_TEST(is_device_name(name), name);
  for (const char* name : {"", "gpu", "CPU", "cpu:0", "cuda:", "cuda:N", "cuda:x", "cuda:-1", "cuda:1 ",
                           "cuda:99999", "cuda3", "cuda-f16", "cuda-f32:", "cuda-f32:x", "cuda:3-f32"})
    BOOST_TEST(!is_device_name(name), name);
}

BOOST_AUTO_TEST_CASE(auto_is_the_cpu_where_no_gpu_works) {
  try {
    device_named("cuda", 1);
    BOOST_TEST(variant("auto") == variant("cuda"));
  } catch (const InputError&) {
    BOOST_TEST(variant("auto") == variant(has_fast() ? "cpu" : "cpu-reference"));
  }
}

BOOST_AUTO_TEST_CASE(all_ranks_share_the_processors) {
  const PlacedDevice placed = place_device("cpu-reference", 1, {.rank = 1, .size = 3});
  BOOST_TEST(!placed.card.has_value());
  BOOST_TEST(placed.text() == "CPU");
  BOOST_TEST(placed.sharers == 3u);
}

BOOST_AUTO_TEST_CASE(an_unknown_name_is_refused_with_those_that_are_known) {
  BOOST_CHECK_EXCEPTION(device_named("quick", 1), InputError, [](const InputError& e) {
    for (const std::string_view name : device_names())
      if (e.mend().find('"' + std::string(name) + '"') == std::string::npos) return false;
    return e.where().find("quick") != std::string::npos;
  });
}

BOOST_AUTO_TEST_CASE(a_device_that_is_not_here_is_refused_when_it_is_named) {
  BOOST_CHECK_EXCEPTION(device_named("cuda:999", 1), InputError,
                        [](const InputError& e) { return e.mend().find("cpu") != std::string::npos; });
}

BOOST_AUTO_TEST_CASE(what_open_takes_grows_with_the_limits) {
  const auto device = device_named("cpu-reference", 2)(shape);
  const DeviceNeeds small = device->needs({.context_tokens = 64, .rows = 8}),
                    large = device->needs({.context_tokens = 512, .rows = 64}),
                    narrow =
                        device->needs({.context_tokens = 512, .rows = 64, .kv_type = model::DType::bf16});
  // Keys and values of 2 heads of 32 values, 64 tokens, 3 layers.
  BOOST_TEST(small.kv_block_bytes == 2u * 2 * 32 * 64 * 3 * sizeof(float));
  BOOST_TEST(narrow.kv_block_bytes * 2 == large.kv_block_bytes);
  BOOST_TEST(large.buffer_bytes == 8 * small.buffer_bytes);
  BOOST_TEST(large.scratch_bytes > small.scratch_bytes);
}
