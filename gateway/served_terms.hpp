#pragma once
// What a served model and GatewayTerms have to do with each other: what a head says of it, and what a gateway
// makes of that.

#include <memory>
#include <string>

#include "gateway/gateway.hpp"
#include "gateway/gateway_terms.hpp"

namespace convoy::gateway {

ModelTerms terms_of(const ServedModel& model, std::string pipeline);

/// As the terms say, with the tokenizer of a copy of the model's files; null: there is none here, and none is
/// needed. Throws InputError if it is another tokenizer.
ServedModel served_model(const ModelTerms& terms, std::shared_ptr<const model::Tokenizer> tokenizer);

}  // namespace convoy::gateway
