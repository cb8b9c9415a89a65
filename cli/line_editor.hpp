#pragma once
// LineEditor: reads what somebody types at a terminal, with editing and a history in memory (libedit). One at
// a time, used by one thread. Its terminal is as before between two reads, so that Ctrl-C is a signal there
// and a key here.

#include <string>

struct editline;
struct history;

namespace convoy::cli {

class LineEditor {
 public:
  explicit LineEditor(std::string prompt);
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  enum class End {
    message,      // Enter
    interrupted,  // Ctrl-C: what stood in the line is gone
    end           // Ctrl-D in an empty line, or the terminal is gone
  };
  /// One message. What is pasted stays one, of several lines: by the terminal's bracketed paste, or since
  /// more was there at the line's end.
  End read(std::string& message);

 private:
  static char* prompt_of(editline* editor);
  static unsigned char take_paste(editline* editor, int);
  static unsigned char take_interrupt(editline* editor, int);

  std::string prompt_;
  bool continued_ = false, interrupted_ = false, brackets_ = false;
  editline* editor_;
  history* history_;
};

}  // namespace convoy::cli
