#pragma once
// Walks a whole message along its schema, so that bytes of a peer are known to be readable before an actor
// gets them. Called by links on their I/O thread.

#include <capnp/schema.h>

#include "schema/frame.hpp"

namespace convoy::schema {

/// Why reading the message would throw kj::Exception somewhere (a pointer out of bounds, a text without its
/// end, too much nesting, more words than the frame has), or nothing. What fields mean is not judged. Costs
/// about a microsecond for a small message; lists of numbers and data are not visited.
std::optional<std::string> refuse_message(capnp::StructSchema schema, const FrameBytes& bytes);

template <class T>
std::optional<std::string> refuse_message(const FrameBytes& bytes) {
  return refuse_message(capnp::Schema::from<T>(), bytes);
}

}  // namespace convoy::schema
