#pragma once
// What clients of OpenAI, vLLM and SGLang may ask for and this version does not have. Pure; any thread.

#include "gateway/json_fields.hpp"
#include "gateway/openai_request.hpp"

namespace convoy::gateway {

/// Throws ApiError for the first field that would make another answer. Values that ask for nothing pass.
void refuse_unsupported(const Fields& f, const boost::json::object& body, Endpoint endpoint);

}  // namespace convoy::gateway
