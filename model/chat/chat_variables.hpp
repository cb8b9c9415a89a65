#pragma once
// What a chat template computes with: a conversation, its tools and the special tokens as Jinja's values.
// Called by chat_template.cpp, once a rendering.

#include <memory>
#include <span>

#include "model/chat/chat_template.hpp"
#include "model/chat/jinja/state.hpp"

namespace convoy::model {

/// What clients wrote is never the template's own, but for roles of the format. Throws InputError for what no
/// value can hold, and at the limits.
jinja::Value message_list(jinja::State& state, std::span<const Message> messages);
/// Of messages that outlive the state.
jinja::Value message_list(jinja::State& state, LateMessages& messages);

/// Throws as message_list().
std::shared_ptr<jinja::Scope> chat_variables(jinja::Meter& meter, jinja::Value messages,
                                             const RenderOptions& options, const SpecialTokens& tokens);

}  // namespace convoy::model
