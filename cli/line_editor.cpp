#include "cli/line_editor.hpp"

#include <histedit.h>
#include <poll.h>
#include <unistd.h>

#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <cwchar>
#include <new>
#include <string_view>

namespace convoy::cli {

namespace {

constexpr int history_lines_max = 500;
constexpr int paste_gap_ms = 20;  // between the pieces of a paste, at most; nobody types that fast
constexpr std::wstring_view paste_end = L"\033[201~";
char continuation_prompt[] = "… ";

bool more_is_there() {
  pollfd input{STDIN_FILENO, POLLIN, 0};
  return ::poll(&input, 1, paste_gap_ms) > 0 && (input.revents & POLLIN);
}

LineEditor& owner_of(EditLine* editor) {
  void* owner = nullptr;
  el_get(editor, EL_CLIENTDATA, &owner);
  return *static_cast<LineEditor*>(owner);
}

void say(const char* sequence) {
  std::fputs(sequence, stdout);
  std::fflush(stdout);
}

}  // namespace

LineEditor::LineEditor(std::string prompt) : prompt_(std::move(prompt)) {
  std::setlocale(LC_CTYPE, "");
  if (MB_CUR_MAX == 1) std::setlocale(LC_CTYPE, "C.UTF-8");  // where none is set, people type UTF-8 too
  editor_ = el_init("convoy", stdin, stdout, stderr);
  history_ = history_init();
  if (!editor_ || !history_) throw std::bad_alloc();
  HistEvent event;
  ::history(history_, &event, H_SETSIZE, history_lines_max);
  el_set(editor_, EL_CLIENTDATA, this);
  el_set(editor_, EL_PROMPT, &LineEditor::prompt_of);
  el_set(editor_, EL_EDITOR, "emacs");
  el_set(editor_, EL_HIST, ::history, history_);
  el_set(editor_, EL_SIGNAL, 1);  // the terminal is put right when a signal ends us
  el_set(editor_, EL_SETTY, "-d", "-isig", nullptr);
  el_set(editor_, EL_ADDFN, "convoy-interrupt", "Drop the line", &LineEditor::take_interrupt);
  el_set(editor_, EL_BIND, "^C", "convoy-interrupt", nullptr);
  el_set(editor_, EL_ADDFN, "convoy-paste", "Take a paste as it is", &LineEditor::take_paste);
  el_set(editor_, EL_BIND, "\\e[200~", "convoy-paste", nullptr);
  const char* terminal = std::getenv("TERM");
  brackets_ = terminal && *terminal && std::string_view(terminal) != "dumb";
}

LineEditor::~LineEditor() {
  history_end(history_);
  el_end(editor_);
}

LineEditor::End LineEditor::read(std::string& message) {
  message.clear();
  interrupted_ = continued_ = false;
  do {
    if (brackets_) say("\033[?2004h");
    int bytes = 0;
    const char* line = el_gets(editor_, &bytes);
    if (brackets_) say("\033[?2004l");
    if (interrupted_) return say("\n"), End::interrupted;
    if (!line || bytes <= 0) {
      if (!message.empty()) break;
      return say("\n"), End::end;
    }
    message.append(line, static_cast<size_t>(bytes));
    continued_ = true;
  } while (more_is_there());
  while (message.ends_with('\n')) message.pop_back();
  HistEvent event;
  if (!message.empty()) ::history(history_, &event, H_ENTER, message.c_str());
  return End::message;
}

char* LineEditor::prompt_of(EditLine* editor) {
  LineEditor& self = owner_of(editor);
  return self.continued_ ? continuation_prompt : self.prompt_.data();
}

unsigned char LineEditor::take_interrupt(EditLine* editor, int) {
  owner_of(editor).interrupted_ = true;
  return CC_EOF;
}

unsigned char LineEditor::take_paste(EditLine* editor, int) {
  std::wstring text;
  for (wchar_t c; !text.ends_with(paste_end) && el_wgetc(editor, &c) == 1;) text += c == L'\r' ? L'\n' : c;
  if (text.ends_with(paste_end)) text.resize(text.size() - paste_end.size());
  return el_winsertstr(editor, text.c_str()) == 0 ? CC_REFRESH : CC_ERROR;
}

}  // namespace convoy::cli
