#pragma once
// Who may say what to whom over links: one table. Asked by a link's I/O thread for each frame that came.

#include "schema/frame.hpp"

namespace convoy::actors {

/// Whether a process of that role may send frames of that type to an actor of that role.
bool may_send(schema::Role process, uint16_t type, schema::Role actor);

}  // namespace convoy::actors
