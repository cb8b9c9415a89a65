#pragma once
// InputError: something that came from outside (a file, an argument, a request) is wrong. Thrown by every
// parser; the command line prints it as one line, the gateway as a 400. Faults of our own are asserts, not
// InputErrors.

#include <stdexcept>
#include <string>

namespace convoy {

class InputError : public std::runtime_error {
 public:
  /// what: what is wrong, with the offending value; where: file, tensor, key or field; mend: how to put it
  /// right.
  InputError(std::string what, std::string where, std::string mend)
      : std::runtime_error(where + ": " + what + (mend.empty() ? "" : "; " + mend)),
        what_(std::move(what)),
        where_(std::move(where)),
        mend_(std::move(mend)) {}
  const std::string& problem() const { return what_; }
  const std::string& where() const { return where_; }
  const std::string& mend() const { return mend_; }

 private:
  std::string what_, where_, mend_;
};

}  // namespace convoy
