"""A file on its way from the hub: NAME.part, which knows what has come of it. Used by fetch.py and download.py.

Layout: the file's bytes; for each range a counter of the bytes that have come of it, in order; last, whose bytes these
are. A run that is killed at any moment leaves a part that the next one continues: bytes are written before they are
counted. What a power cut may lose, the digest finds.
"""
import errno
import hashlib
import os
import struct
import threading

from client import Failure, Lie

COUNTER = struct.Struct("<Q")
OWNER = struct.Struct("<64sQ")  # the file's digest, bytes of a range
READ_BYTES = 1 << 20


class Part:
    def __init__(self, file, target, range_bytes):
        self.file, self.target = file, target
        self.path = target.with_name(target.name + ".part")
        self.lock = threading.Lock()
        self.streamed = False  # the server knows no ranges: one thread reads it from its first byte to its last
        self.users = 0
        self.finishing = False
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        if not self._continue():
            self._start(range_bytes)

    def _start(self, range_bytes):
        self.range_bytes = range_bytes
        self.done = [0] * self._range_count()
        os.ftruncate(self.fd, 0)
        os.ftruncate(self.fd, self.file.size + COUNTER.size * len(self.done))  # with holes: takes no space yet
        self._write_all(self._owner(), self.file.size + COUNTER.size * len(self.done))

    def _continue(self):
        """Whether an earlier run left a part of the same bytes; anything else is started anew."""
        length = os.fstat(self.fd).st_size
        if length < self.file.size + OWNER.size:
            return False
        owner = os.pread(self.fd, OWNER.size, length - OWNER.size)
        self.range_bytes = OWNER.unpack(owner)[1]
        if self.range_bytes == 0 or owner != self._owner():
            return False
        count = self._range_count()
        if length != self.file.size + COUNTER.size * count + OWNER.size:
            return False
        counters = os.pread(self.fd, COUNTER.size * count, self.file.size)
        self.done = [counter for counter, in COUNTER.iter_unpack(counters)]
        return all(self.done[i] <= end - first for i, (first, end) in enumerate(map(self.range, range(count))))

    def _owner(self):
        return OWNER.pack(self.file.digest.encode(), self.range_bytes)

    def _range_count(self):
        return max(1, -(-self.file.size // self.range_bytes))

    def range(self, i):
        """[first, end) of range i."""
        return i * self.range_bytes, min((i + 1) * self.range_bytes, self.file.size)

    def left(self, i):
        """[first, end) of what has not come of range i."""
        first, end = self.range(i)
        return first + self.done[i], end

    def has(self, i):
        first, end = self.left(i)
        return first == end

    def bytes_done(self):
        return sum(self.done)

    def complete(self):
        return self.bytes_done() == self.file.size

    def claim_stream(self):
        """Whether the caller is the one to read the file from its first byte to its last."""
        with self.lock:
            claimed = not self.streamed
            self.streamed = True
            return claimed

    def enter(self):
        with self.lock:
            self.users += 1

    def leave(self):
        """Whether the caller is to finish the file: it is complete, and nobody else writes to it any more."""
        with self.lock:
            self.users -= 1
            last = self.users == 0 and self.complete() and not self.finishing
            self.finishing = self.finishing or last
            return last

    def write(self, data, position):
        """Returns how many of these bytes are new. Ranges are written from their beginning, without gaps."""
        self._write_all(data, position)
        new = 0
        end = position + len(data)
        with self.lock:
            while position < end:
                i = position // self.range_bytes
                position = min(end, self.range(i)[1])
                reached = position - i * self.range_bytes
                if reached > self.done[i]:
                    new += reached - self.done[i]
                    self.done[i] = reached
                    self._write_all(COUNTER.pack(reached), self.file.size + COUNTER.size * i)
        return new

    def _write_all(self, data, position):
        try:
            while data:
                written = os.pwrite(self.fd, data, position)
                data, position = data[written:], position + written
        except OSError as e:
            mend = "make room and run this again" if e.errno in (errno.ENOSPC, errno.EDQUOT) else "see to that disk"
            raise Failure(f"{self.path}: cannot be written ({e.strerror}); {mend}") from e

    def finish(self, each_chunk):
        """Gives the file its name, if it is what the hub announced."""
        digest = digest_of(self.fd, self.file, each_chunk)
        if digest != self.file.digest:
            raise Lie(
                f"{self.target.name}: its {self.file.algorithm} is {digest}, the hub announced {self.file.digest}; "
                "deleted, run this again"
            )
        os.ftruncate(self.fd, self.file.size)
        os.fsync(self.fd)
        os.rename(self.path, self.target)
        os.close(self.fd)

    def discard(self):
        self.path.unlink(missing_ok=True)


def digest_of(fd, file, each_chunk):
    """each_chunk(bytes of it): may raise to end this."""
    if file.algorithm == "sha256":
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    for position in range(0, file.size, READ_BYTES):
        count = min(READ_BYTES, file.size - position)
        digest.update(os.pread(fd, count, position))
        each_chunk(count)
    return digest.hexdigest()
