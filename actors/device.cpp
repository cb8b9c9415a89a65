#include "actors/device.hpp"

#include <stdexcept>

#include "actors/step_codec.hpp"

namespace convoy::actors {

namespace {

/// The hidden states of a step, checked against it. [rows, hidden]
std::span<const float> input_of(const msg::Activations::Reader& message, const gpu::StepPlan& plan) {
  const auto data = message.getData();
  const uint64_t values = uint64_t{message.getRows()} * message.getHidden();
  if (message.getRows() != plan.rows() || data.size() != values * sizeof(float))
    throw std::runtime_error("hidden states of step " + std::to_string(plan.step) + " have " +
                             std::to_string(message.getRows()) + " rows in " + std::to_string(data.size()) +
                             " bytes; the plan has " + std::to_string(plan.rows()) + " rows");
  return {reinterpret_cast<const float*>(data.begin()), values};
}

DeviceDone run(gpu::Engine& engine, const DeviceStep& step) {
  DeviceDone done{DeviceDone::What::step, step.plan.epoch, step.plan.step};
  gpu::StepOutput output;
  if (step.input) {
    const msg::Reading input(step.input);
    output = engine.run(step.plan, input_of(*input, step.plan));
  } else {
    output = engine.run(step.plan, {});
  }
  if (engine.last())
    done.result = encode(output.result);
  else
    done.hidden = encode_activations(step.plan.epoch, step.plan.step, output.hidden, step.plan.rows());
  return done;
}

/// Runs work and mails a failure to the owner: a stage that failed is replaced, it does not go on.
template <class Work>
void guarded(DeviceActor::pointer self, const StageActor& owner, uint64_t epoch, Work work) {
  DeviceDone failed{DeviceDone::What::failed, epoch};
  try {
    return work();
  } catch (const std::exception& e) {
    failed.error = e.what();
  } catch (const kj::Exception& e) {
    failed.error = e.getDescription().cStr();
  }
  self->send(owner, std::move(failed));
}

}  // namespace

DeviceActor::behavior_type device(DeviceActor::stateful_pointer<DeviceState> self, gpu::Kernels kernels,
                                  int threads, std::shared_ptr<const model::Checkpoint> checkpoint,
                                  StageActor owner) {
  return {
      [=](const DeviceAssign& assign) {
        guarded(self, owner, assign.epoch, [&] {
          DeviceState& state = self->state;
          const bool same = state.engine && state.range.first == assign.range.first &&
                            state.range.last == assign.range.last;
          if (same) {
            state.engine->reset();
          } else {
            state.engine.reset();
            state.engine = std::make_unique<gpu::Engine>(
                gpu::make_cpu_backend(kernels, threads), checkpoint, assign.range, assign.limits,
                [&](int64_t layers, int64_t total) {
                  DeviceDone progress{DeviceDone::What::loading, assign.epoch};
                  progress.loaded_permille = static_cast<uint32_t>(1000 * layers / total);
                  self->send(owner, std::move(progress));
                });
            state.range = assign.range;
          }
          self->send(owner, DeviceDone{DeviceDone::What::loaded, assign.epoch});
        });
      },
      [=](const DeviceStep& step) {
        guarded(self, owner, step.plan.epoch, [&] {
          if (!self->state.engine) throw std::runtime_error("a step came before any layers were loaded");
          self->send(owner, run(*self->state.engine, step));
        });
      },
  };
}

}  // namespace convoy::actors
