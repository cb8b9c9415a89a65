#pragma once
// What to do where the system has no more to give: descriptors, room on a disk, memory, threads. Whoever
// reports that it refused something asks here, so that nobody is sent to look at permissions. Any thread.

#include <string>
#include <string_view>

namespace convoy {

/// By errno's number. Empty: it is about something else.
std::string_view mend_of_scarce(int error);
/// The same, or else what to do about any other error.
std::string mend_of(int error, std::string_view otherwise);

}  // namespace convoy
