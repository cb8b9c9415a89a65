#pragma once
// Device: the detached actor that owns a stage's engine. Executes what it is mailed, in order, and mails back
// what came of it; blocks on the device so that nobody else has to.

#include <memory>

#include "actors/messages.hpp"
#include "gpu/engine.hpp"

namespace convoy::actors {

/// Be this part of the model from now on. Keeps the loaded weights if the range did not change.
struct DeviceAssign {
  uint64_t epoch = 0;
  model::LayerRange range;
  gpu::EngineLimits limits;
};

struct DeviceStep {
  gpu::StepPlan plan;
  Frame<msg::Activations> input;  // null on the first stage
};

struct DeviceDone {
  enum class What : uint8_t { loading, loaded, step, failed } what = What::failed;
  uint64_t epoch = 0, step = 0;
  uint32_t loaded_permille = 0;
  Frame<msg::Activations> hidden;  // step: one of these two
  Frame<msg::StepResult> result;
  std::string error;  // failed
};

}  // namespace convoy::actors

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::actors::DeviceAssign)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::actors::DeviceStep)

namespace convoy::actors {

using DeviceActor = caf::typed_actor<caf::reacts_to<DeviceAssign>, caf::reacts_to<DeviceStep>>;

struct DeviceState {
  std::unique_ptr<gpu::Engine> engine;
  model::LayerRange range;
  static inline const char* name = "device";
};

DeviceActor::behavior_type device(DeviceActor::stateful_pointer<DeviceState> self, gpu::Kernels kernels,
                                  int threads, std::shared_ptr<const model::Checkpoint> checkpoint,
                                  StageActor owner);

}  // namespace convoy::actors
