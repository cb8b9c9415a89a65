#pragma once
// Unavailable: what a command needs is taken or cannot be reached. main() says why in one line and ends with
// the code `unavailable`.

#include <stdexcept>

namespace convoy::cli {

struct Unavailable : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace convoy::cli
