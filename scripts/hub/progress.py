"""How far a long piece of work is: percentage, bytes, speed, time left. Used by fetch.py and download.py."""
import collections
import sys
import threading
import time


class Progress:
    """One line that is overwritten on a terminal; elsewhere a line only when a tenth more is done (as lib.sh does)."""

    WINDOW_S = 10  # the speed is that of so many last seconds

    def __init__(self, doing, total, done=0):
        self.doing, self.total, self.done = doing, total, done
        self.lock = threading.Lock()
        self.samples = collections.deque([(time.monotonic(), done)])
        self.terminal = sys.stdout.isatty()
        self.tenth = -1
        self.said = set()

    def add(self, count):
        with self.lock:
            self.done += count

    def show(self):
        now, done = time.monotonic(), self.done
        percent = 100 * done // self.total if self.total else 100
        while len(self.samples) > 1 and now - self.samples[0][0] > self.WINDOW_S:
            self.samples.popleft()
        if now - self.samples[-1][0] >= 0.1:
            self.samples.append((now, done))
        since, before = self.samples[0]
        speed = (done - before) / (now - since) if now - since > 0.1 else 0
        text = f"{gigabytes(done)} of {gigabytes(self.total)} {self.doing}".rstrip()
        if speed > 0:
            text += f"  {gigabytes(speed)}/s  {duration((self.total - done) / speed)} left"
        with self.lock:
            if self.terminal:
                print(f"\r\x1b[K{percent:3} %  {text[:90]}", end="", flush=True)
            elif percent // 10 != self.tenth:
                self.tenth = percent // 10
                print(f"{percent:3} %  {text}", flush=True)

    def say(self, text):
        """Once each: several connections may have met the same."""
        with self.lock:
            if text not in self.said:
                self.said.add(text)
                print(f"\r\x1b[K{text}" if self.terminal else text, flush=True)

    def end(self):
        if self.total:
            self.show()
        if self.terminal:
            print("\r\x1b[K", end="", flush=True)


def gigabytes(count):
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"


def duration(seconds):
    minutes, seconds = divmod(int(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
