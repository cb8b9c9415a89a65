// The outline of a model, as a head sends it to a machine without the model's files: a frame, and a
// checkpoint of it.

#include "actors/weights/outline_codec.hpp"
#include "model/checkpoint/weight_outline.hpp"
#include "test/fuzz/frame.hpp"

using namespace convoy;
using namespace convoy::fuzz;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = frame_of_message<schema::ModelOutline>(data, size);
  if (!bytes) return 0;
  return load_or_refuse([&] {
    const auto outline = actors::decode(schema::Frame<schema::ModelOutline>{bytes});
    const auto checkpoint = model::StoredCheckpoint::open(outline, [](const auto&) { return nullptr; });
    const int64_t last = checkpoint->config().layers - 1;
    demand(!checkpoint->needs({0, last}).empty(), "a model has tensors");
    demand(checkpoint->layout({last, last}).layers.size() == 1, "and each of its layers");
  });
}
