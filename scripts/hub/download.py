"""Fetches the parts of a model's files from a hub, over several connections at once. Used by fetch.py."""
import queue
import threading

from client import Broken, Lie, Patience, Stopped
from part import READ_BYTES
from progress import Progress

STEADY_BYTES = 64 << 10  # so much without a break, and earlier breaks are forgiven


class Download:
    """Several connections at work on the ranges of several files. Who completes a file checks and names it."""

    def __init__(self, hub, args, commit, parts, stop):
        self.hub, self.args, self.commit, self.stop = hub, args, commit, stop
        self.failures = queue.SimpleQueue()
        self.tasks = queue.SimpleQueue()
        for part in parts:
            for i in range(len(part.done)):
                self.tasks.put((part, i))
        done = sum(part.bytes_done() for part in parts)
        self.progress = Progress("", sum(part.file.size for part in parts), done)

    def run(self):
        # Daemons: one that waits for a silent server holds nobody up.
        threads = [threading.Thread(target=self.work, daemon=True) for _ in range(self.args.connections)]
        for thread in threads:
            thread.start()
        try:
            while self.failures.empty() and (alive := [thread for thread in threads if thread.is_alive()]):
                self.progress.show()
                alive[0].join(0.1)
        finally:
            self.progress.end()
        if not self.failures.empty():
            raise self.failures.get()

    def work(self):
        part = None
        try:
            while not self.stop.is_set():
                part, i = self.tasks.get_nowait()
                part.enter()
                self.fetch(part, i)
                if part.leave():
                    part.finish(lambda _: self.check_stop())
        except (queue.Empty, Stopped):
            pass
        except BaseException as e:  # the first one ends the run
            self.failures.put(e)
            self.stop.set()
            if isinstance(e, Lie):
                part.discard()

    def fetch(self, part, i):
        """Range i; or the whole file, if this is the first to find that the server knows no ranges."""
        patience = Patience(self.args.attempts, self.args.backoff_ms / 1000, self.stop, self.progress.say)
        streaming = False
        while not (part.complete() if streaming else part.streamed or part.has(i)):
            first, end = part.left(i)
            whole = streaming or (first, end) == (0, part.file.size)
            try:
                with self.hub.open(self.args.model, self.commit, part.file, None if whole else (first, end)) as body:
                    if not whole and body.end > end:
                        streaming = part.claim_stream()
                        if not streaming:
                            return
                    self.copy(body, part, patience)
            except Broken as e:
                patience.after(e, f"{self.args.model}/{part.file.name}", "what came is kept: run this again to go on")

    def copy(self, body, part, patience):
        position, new = body.first, 0
        while position < body.end:
            self.check_stop()
            data = body.read(min(READ_BYTES, body.end - position))
            counted = part.write(data, position)
            position += len(data)
            self.progress.add(counted)
            new += counted
            if new >= STEADY_BYTES:
                patience.reset()
        body.expect_end(part.file.name)

    def check_stop(self):
        if self.stop.is_set():
            raise Stopped
