#pragma once
// Chat templates that are interpreted: what a Jinja text sees of a conversation. Internal to
// model/chat/chat_template.cpp.

#include <string>
#include <string_view>

#include "model/chat/chat_template.hpp"

namespace convoy::model {

/// Throws InputError at the template's line for what is wrong or not supported.
ChatTemplate interpreted_template(std::string_view jinja, const std::string& sha256,
                                  const SpecialTokens& tokens);

}  // namespace convoy::model
