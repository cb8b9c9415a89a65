#pragma once
// What this binary is built from. Constants of the build (model/version.cmake).

#include <string_view>

namespace convoy {

std::string_view version();  // such as 0.1.0
std::string_view commit();   // twelve hex digits, -dirty if files differed from it, or unknown

}  // namespace convoy
