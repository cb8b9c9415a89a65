#pragma once
// Values of what came in from outside: none of it is the template's own.

#include <boost/json/value.hpp>
#include <string>
#include <string_view>

#include "model/chat/jinja/value.hpp"

namespace convoy::model::jinja {

Value given(Meter& meter, std::string_view text);
/// Throws InputError at `where` for a number that is not kept exactly.
Value given(Meter& meter, const boost::json::value& value, const std::string& where);

}  // namespace convoy::model::jinja
