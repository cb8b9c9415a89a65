#pragma once
// What an I/O thread of a process runs: its context, until that has no more work. Where memory is short, one
// handler is lost and not the process with all its clients; whoever waits for it has a time-out or a lease.

#include <boost/asio/io_context.hpp>
#include <new>

#include "actors/process/log.hpp"

namespace convoy::actors {

/// of: the thread, for the log.
inline void run_io(boost::asio::io_context& io, const char* of) {
  for (;;) {
    try {
      io.run();
      return;
    } catch (const std::bad_alloc&) {
      log::warn_limited("process.out_of_memory", {{"thread", of}});
    }
  }
}

}  // namespace convoy::actors
