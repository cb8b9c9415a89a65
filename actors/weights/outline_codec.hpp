#pragma once
// A model's outline as a frame, and back. Pure; any thread.

#include "model/checkpoint/weight_outline.hpp"
#include "schema/frame.hpp"

namespace convoy::actors {

schema::Frame<schema::ModelOutline> encode(const model::WeightOutline& outline);

/// Throws InputError if it cannot be an outline, kj::Exception if the bytes are malformed. What the headers
/// say is checked by who opens a checkpoint of them.
model::WeightOutline decode(const schema::Frame<schema::ModelOutline>& frame);

}  // namespace convoy::actors
