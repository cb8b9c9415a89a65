"""convoy chat against a small gateway of the test's own: at a terminal (a pty), with a question, and with a pipe."""
import http.server
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
import time

from cluster import BINARY, PATIENCE_S
failures = []


class Gateway(http.server.ThreadingHTTPServer):
    """Answers by what the last message says, and keeps what it was asked."""
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.bodies, self.gone, self.busy = [], [], threading.Event(), 0
        self.retry_after_ms = 50
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def piece(self, text):
        data = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def say(self, text):
        self.piece("data: " + json.dumps({"choices": [{"delta": {"content": text}}]}) + "\n\n")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body["messages"])
        self.server.bodies.append(body)
        last = body["messages"][-1]["content"]
        if self.server.busy:
            self.server.busy -= 1
            error = json.dumps({"error": {"message": "too many requests wait"}}).encode()
            self.send_response(503)
            self.send_header("retry-after-ms", str(self.server.retry_after_ms))
            self.send_header("Content-Length", str(len(error)))
            self.end_headers()
            self.wfile.write(error)
            return
        if last == "mute":  # no answer at all
            return time.sleep(PATIENCE_S)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.say("echo: ")
        if last == "break":
            self.close_connection = True
            return self.connection.close()
        if last == "short":  # ends as HTTP wants it, but without the last event
            return self.piece("")
        if last == "error":
            return self.piece('data: {"error": {"message": "a stage was lost"}}\n\n')
        if last == "pause":
            return time.sleep(PATIENCE_S)
        try:
            while last == "endless":
                self.say("and on ")
                time.sleep(0.01)
        except OSError:
            return self.server.gone.set()
        self.say(last)
        self.piece("data: [DONE]\n\n")
        self.piece("")


class Terminal:
    """convoy chat at a terminal of its own."""

    def __init__(self, gateway, *options, term="xterm"):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = term
            os.execv(BINARY, [BINARY, "chat", "--url", gateway.url(), "--model", "m", *options])
        self.seen = ""
        self.prompt()

    def read(self, seconds):
        if not select.select([self.fd], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # what a pty says when its other side is gone
            data = b""
        self.seen += data.decode(errors="replace")
        return bool(data)

    def wait_for(self, text):
        """Waits until the terminal shows that, behind what was waited for before."""
        end = time.monotonic() + PATIENCE_S
        while text not in self.seen:
            if time.monotonic() > end or not self.read(1) and not self.alive():
                raise AssertionError(f"no {text!r} in {self.seen!r}")
        before, self.seen = self.seen.split(text, 1)
        return before

    def prompt(self):
        """Waits until it asks, and keys are read one by one: before, the terminal itself would take Ctrl-D."""
        self.wait_for("> ")
        end = time.monotonic() + PATIENCE_S
        while termios.tcgetattr(self.fd)[3] & termios.ICANON:
            assert time.monotonic() < end, "the terminal is not the editor's"
            time.sleep(0.001)

    def alive(self):
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def type(self, text):
        os.write(self.fd, text.encode())

    def ended(self):
        """The exit code, once it has ended."""
        end = time.monotonic() + PATIENCE_S
        while self.alive():
            assert time.monotonic() < end, f"still runs: {self.seen!r}"
            self.read(0.05)
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def chat(gateway, *args, **more):
    return subprocess.run([BINARY, "chat", "--url", gateway.url(), "--model", "m", *args], text=True, capture_output=True,
                          timeout=PATIENCE_S, **{"stdin": subprocess.DEVNULL, **more} if "input" not in more else more)


def users(messages):
    return [m["content"] for m in messages if m["role"] == "user"]


def a_conversation_remembers_its_turns_and_ends_at_ctrl_d(gateway):
    t = Terminal(gateway)
    t.type("one\n")
    t.wait_for("echo: one")
    t.prompt()
    t.type("\n")  # nothing to ask
    t.prompt()
    t.type("two\n")
    t.wait_for("echo: two")
    t.prompt()
    t.type("\x04")
    assert t.ended() == 0
    assert users(gateway.asked[-1]) == ["one", "two"], gateway.asked
    assert len(gateway.asked) == 2


def the_line_can_be_edited_and_earlier_ones_come_back(gateway):
    t = Terminal(gateway)
    t.type("wurld\x02\x02\x02\x02\x04o\n")  # four to the left, one deleted, another put there
    t.wait_for("echo: world")
    t.prompt()
    t.type("\x1b[A!\n")  # up
    t.wait_for("echo: world!")
    t.prompt()
    t.type("gr\u00fc\u00dfe\x7f\u00df\n")
    t.wait_for("echo: gr\u00fc\u00df\u00df")
    t.prompt()
    t.type("\x04")
    assert t.ended() == 0


def ctrl_c_stops_the_answer_and_not_the_conversation(gateway):
    t = Terminal(gateway)
    t.type("endless\n")
    t.wait_for("and on and on")
    t.type("\x03")
    t.wait_for("(stopped)")
    assert gateway.gone.wait(PATIENCE_S), "the gateway was not left"
    t.type("next\n")
    t.wait_for("echo: next")
    t.prompt()
    assert users(gateway.asked[-1]) == ["endless", "next"]
    assert "and on" in gateway.asked[-1][1]["content"]  # what was shown belongs to the conversation
    t.type("half a line\x03")
    t.wait_for("(Ctrl-C again or Ctrl-D ends)")
    t.prompt()
    t.type("still here\n")
    t.wait_for("echo: still here")
    t.prompt()
    t.type("\x03")
    t.wait_for("ends)")
    t.prompt()
    t.type("\x03")
    assert t.ended() == 0


def pasted_lines_stay_one_message(gateway):
    t = Terminal(gateway)
    t.type("\x1b[200~first\rsecond\rthird\x1b[201~")
    t.type("\n")
    t.wait_for("echo: ")
    t.prompt()
    assert users(gateway.asked[-1]) == ["first\nsecond\nthird"], gateway.asked
    t.type("\x04")
    assert t.ended() == 0


def lines_pasted_into_a_terminal_without_brackets_stay_one_message(gateway):
    t = Terminal(gateway, term="dumb")
    t.type("first\nsecond\nthird\n")
    t.wait_for("echo: ")
    t.prompt()
    assert users(gateway.asked[-1]) == ["first\nsecond\nthird"], gateway.asked
    t.type("\x04")
    assert t.ended() == 0


def a_broken_answer_is_said_and_the_next_question_can_be_asked(gateway):
    t = Terminal(gateway)
    t.type("break\n")
    t.wait_for("the answer broke off")
    t.prompt()
    t.type("error\n")
    t.wait_for("the answer broke off: a stage was lost")
    t.prompt()
    gateway.busy = 2
    t.type("unanswered\n")
    t.wait_for("asking again")
    t.wait_for("too many requests wait")
    t.prompt()
    t.type("again\n")
    t.wait_for("echo: again")
    t.prompt()
    assert users(gateway.asked[-1]) == ["break", "error", "again"], gateway.asked[-1]  # half an answer counts, none does not
    t.type("\x04")
    assert t.ended() == 0


def options_reach_the_gateway(gateway):
    done = chat(gateway, "--system", "be brief", "--temperature", "0.5", "--max-tokens", "7", "hello")
    assert done.returncode == 0, done
    body = gateway.bodies[-1]
    assert body["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}], body
    assert (body["temperature"], body["max_tokens"], body["stream"], body["model"]) == (0.5, 7, True, "m"), body
    chat(gateway, "hello")
    assert not {"temperature", "max_tokens"} & gateway.bodies[-1].keys(), gateway.bodies[-1]


def one_503_is_asked_again_after_its_time_and_two_are_said(gateway):
    gateway.busy = 1
    done = chat(gateway, "hello")
    assert done.returncode == 0 and done.stdout == "echo: hello\n", done
    assert "too many requests wait" in done.stderr, done
    gateway.busy, gateway.retry_after_ms = 1, 1100
    done = chat(gateway, "hello")
    assert "asking again in 2 s" in done.stderr, done
    gateway.busy, gateway.retry_after_ms = 2, 50
    done = chat(gateway, "hello")
    assert done.returncode == 4 and "too many requests wait" in done.stderr, done


def what_is_piped_is_one_message(gateway):
    done = chat(gateway, input="first\n\nsecond\n")
    assert done.returncode == 0, done
    assert users(gateway.asked[-1]) == ["first\n\nsecond\n"], gateway.asked
    done = chat(gateway)
    assert done.returncode == 3 and "standard input: is empty" in done.stderr, done


def exit_codes_and_messages_say_what_went_wrong(gateway):
    done = chat(gateway, "break")
    assert done.returncode == 1 and "the answer broke off" in done.stderr and done.stdout == "echo: \n", done
    done = chat(gateway, "short")
    assert done.returncode == 1 and "before its last event" in done.stderr and done.stdout == "echo: \n", done
    done = chat(gateway, "--first-byte-timeout-ms", "100", "mute")
    assert done.returncode == 1 and "no answer within 100 ms (--first-byte-timeout-ms)" in done.stderr, done
    done = chat(gateway, "--silence-timeout-ms", "100", "pause")
    assert done.returncode == 1 and "silence for 100 ms (--silence-timeout-ms)" in done.stderr, done
    with socket.socket() as deaf, socket.socket() as first:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        first.connect(deaf.getsockname())  # the only one that is let in before somebody accepts
        done = subprocess.run([BINARY, "chat", "--url", "http://127.0.0.1:%d" % deaf.getsockname()[1], "--model", "m",
                               "--connect-timeout-ms", "100", "hello"], text=True, capture_output=True, timeout=PATIENCE_S)
        assert done.returncode == 4 and "within 100 ms (--connect-timeout-ms)" in done.stderr, done
    gateway.shutdown()
    gateway.server_close()
    done = chat(gateway, "hello")
    assert done.returncode == 4 and "Connection refused" in done.stderr, done


def ctrl_c_ends_a_single_question(gateway):
    process = subprocess.Popen([BINARY, "chat", "--url", gateway.url(), "--model", "m", "endless"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1 and "(stopped)" in error, (process.returncode, error)


AT_A_TERMINAL = [a_conversation_remembers_its_turns_and_ends_at_ctrl_d, the_line_can_be_edited_and_earlier_ones_come_back,
                 ctrl_c_stops_the_answer_and_not_the_conversation, pasted_lines_stay_one_message,
                 lines_pasted_into_a_terminal_without_brackets_stay_one_message,
                 a_broken_answer_is_said_and_the_next_question_can_be_asked]
try:
    for end in os.openpty():
        os.close(end)
except OSError as e:  # as in a chroot without /dev/pts
    print(f"skip {len(AT_A_TERMINAL)} tests at a terminal: there are none here: {e}", flush=True)
    AT_A_TERMINAL = []
for test in AT_A_TERMINAL + [
        options_reach_the_gateway, one_503_is_asked_again_after_its_time_and_two_are_said, what_is_piped_is_one_message,
        exit_codes_and_messages_say_what_went_wrong, ctrl_c_ends_a_single_question]:
    started = time.monotonic()
    try:
        test(Gateway())
        print(f"ok   {test.__name__} ({time.monotonic() - started:.1f} s)", flush=True)
    except Exception as e:  # the other tests run nevertheless
        failures.append(test.__name__)
        print(f"FAIL {test.__name__}: {type(e).__name__}: {e}", flush=True)
sys.exit(1 if failures else 0)
