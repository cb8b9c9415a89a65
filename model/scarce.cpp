#include "model/scarce.hpp"

#include <cerrno>

namespace convoy {

std::string_view mend_of_scarce(int error) {
  switch (error) {
    case EMFILE:
      return "allow it more open files (ulimit -n)";
    case ENFILE:
      return "close files of other programs, or allow the machine more of them (fs.file-max)";
    case ENOSPC:
    case EDQUOT:
      return "make room on its disk, or choose another one";
    case ENOMEM:
      return "free some memory, or allow it more (ulimit -v, a control group's limit)";
    case EAGAIN:
      return "allow it more threads (ulimit -u, a control group's limit), or free some memory";
    default:
      return {};
  }
}

std::string mend_of(int error, std::string_view otherwise) {
  const std::string_view scarce = mend_of_scarce(error);
  return std::string(scarce.empty() ? otherwise : scarce);
}

}  // namespace convoy
