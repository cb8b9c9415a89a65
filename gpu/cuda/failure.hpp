#pragma once
// What goes wrong inside the library: thrown where it is found, turned into a Status at its edge
// (library.cu).

#include <stdexcept>
#include <string>

#include "gpu/cuda/table.hpp"

namespace convoy::cuda {

class Failure : public std::runtime_error {
 public:
  Failure(Code code, std::string what, std::string where, std::string mend)
      : std::runtime_error(what), code(code), where(std::move(where)), mend(std::move(mend)) {}
  const Code code;
  const std::string where, mend;
};

/// Something that was asked for and cannot be done.
inline Failure refusal(std::string what, std::string where, std::string mend) {
  return {Code::refused, std::move(what), std::move(where), std::move(mend)};
}

}  // namespace convoy::cuda
