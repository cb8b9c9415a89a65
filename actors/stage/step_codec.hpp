#pragma once
// Steps between their two shapes: the plain structs that scheduler and engine work with (gpu/step.hpp) and
// the frames that travel. Pure. Decoding copies (all but hidden states), and throws kj::Exception if the
// bytes are malformed; what the numbers mean is checked by the engine and the scheduler.

#include "actors/messages.hpp"
#include "gpu/step.hpp"

namespace convoy::actors {

Frame<msg::StepPlan> encode(const gpu::StepPlan& plan);
void encode(const gpu::StepPlan& from, msg::StepPlan::Builder to);
gpu::StepPlan decode(msg::StepPlan::Reader from);

Frame<msg::StepResult> encode(const gpu::StepResult& result);
gpu::StepResult decode(const Frame<msg::StepResult>& frame);

/// hidden: [rows, width] float32, what a stage made of that step. core: where the next one may compute on it,
/// if it is on the same machine and they take turns.
Frame<msg::Activations> encode_activations(const gpu::StepPlan& plan, std::span<const float> hidden,
                                           std::optional<int> core = {});
/// [rows, width], valid as long as the message. Throws std::runtime_error if they do not fit the plan.
std::span<const float> decode_hidden(msg::Activations::Reader from, const gpu::StepPlan& plan);

void encode(const model::Sampling& from, msg::Sampling::Builder to);
model::Sampling decode(msg::Sampling::Reader from);

void encode(const gpu::SampledToken& from, msg::Token::Builder to);
gpu::SampledToken decode(msg::Token::Reader from);

}  // namespace convoy::actors
