#pragma once
// MemoryReserve: memory that a process keeps back for when the system gives no more, so that what is small
// can still be had: an operation that ends, an answer that says why. A coroutine of Asio's that cannot be
// resumed or unwound for want of some hundred bytes ends the process. What is large is refused as before.

namespace convoy::actors {

class MemoryReserve {
 public:
  /// Takes it, and from now on `new` has it. One at a time; on the main thread.
  MemoryReserve();
  ~MemoryReserve();
  MemoryReserve(const MemoryReserve&) = delete;
  MemoryReserve& operator=(const MemoryReserve&) = delete;

  /// Takes back what was given, as far as there is memory again. Once a second or so.
  void refill();
};

}  // namespace convoy::actors
