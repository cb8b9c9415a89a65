#pragma once
// Steps between their two shapes: the plain structs that scheduler and engine work with (gpu/step.hpp) and
// the frames that travel. Pure. Decoding copies (all but hidden states), and throws kj::Exception if the
// bytes are malformed; what the numbers mean is checked by the engine and the scheduler.

#include "actors/messages.hpp"
#include "gpu/device.hpp"

namespace convoy::actors {

Frame<msg::StepPlan> encode(const gpu::StepPlan& plan);
void encode(const gpu::StepPlan& from, msg::StepPlan::Builder to);
/// Throws std::runtime_error if a block moves in a way of a later version.
gpu::StepPlan decode(msg::StepPlan::Reader from);

Frame<msg::StepResult> encode(const gpu::StepResult& result);
/// Throws std::runtime_error if it says of a token that is not there that it has a fault.
gpu::StepResult decode(const Frame<msg::StepResult>& frame);

/// A step's frame for the next stage, made before its hidden states are known: they are written where they
/// will be sent from.
class ActivationsBuilder {
 public:
  /// width: values of a row.
  ActivationsBuilder(const gpu::StepPlan& plan, int64_t width, gpu::HiddenForm form = gpu::HiddenForm::f32);
  /// [rows, width], arbitrary until they are written.
  gpu::HiddenOut hidden();
  /// hint: of this stage's device for the next one's (gpu::DeviceDone::hint).
  Frame<msg::Activations> finish(int32_t hint) &&;

 private:
  schema::DataFrameBuilder<msg::Activations> frame_;
  gpu::HiddenForm form_;
};
/// The same for a step whose hidden states go by an edge.
Frame<msg::Activations> encode_for_edge(const gpu::StepPlan& plan, int64_t width);
/// The same from hidden states that lie elsewhere.
Frame<msg::Activations> encode_activations(const gpu::StepPlan& plan, std::span<const float> hidden,
                                           int32_t hint = gpu::no_hint);
/// [rows, width], valid as long as the message. Throws std::runtime_error if they do not fit the plan, or are
/// in a form of a later version.
gpu::HiddenIn decode_hidden(msg::Activations::Reader from, const gpu::StepPlan& plan);

msg::HiddenForm encode(gpu::HiddenForm form);
/// Nothing: one of a later version.
std::optional<gpu::HiddenForm> decode(msg::HiddenForm form);

void encode(const model::Sampling& from, msg::Sampling::Builder to);
model::Sampling decode(msg::Sampling::Reader from);

void encode(const gpu::SampledToken& from, msg::Token::Builder to);
gpu::SampledToken decode(msg::Token::Reader from);

}  // namespace convoy::actors
