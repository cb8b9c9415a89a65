"""Clients that stream answers while a cluster is hurt, and hold every token against what comes when nothing fails."""
import http.client
import sys
import threading
import time

from cluster import Stream

POLL_S = 0.005


def milliseconds(since):
    return round(1000 * (time.monotonic() - since))


def prompts(clients):
    """Half of them greedy, half drawn with a seed."""
    for i in range(clients):
        drawn = {"temperature": 1, "seed": i} if i % 2 else {"temperature": 0}
        yield {"prompt": f"Chapter {i}. It was a dark night, and", "max_tokens": 120 + 10 * (i % 7), "ignore_eos": True,
               "return_token_ids": True, **drawn}


class Cut(Exception):
    """A stream that had begun broke off."""


class Client(threading.Thread):
    """Streams one answer after the other until it is told to end."""

    def __init__(self, cluster, request, expected, head_is_lost):
        super().__init__(daemon=True)
        self.cluster, self.request, self.expected = cluster, request, expected
        self.head_is_lost = head_is_lost
        self.arrivals = []  # of tokens, on the monotonic clock; an answer's first one counts from its request
        self.whole = self.wrong = self.failed = self.cut = 0
        self.ending = False

    def run(self):
        while not self.ending:
            try:
                tokens = self.stream()
            except Exception as error:  # whatever a client can meet counts as a failed answer
                if self.head_is_lost.is_set():
                    self.cut += isinstance(error, Cut)
                    time.sleep(POLL_S)
                    continue
                self.failed += 1
                print(f"an answer failed: {error!r}", file=sys.stderr)
                continue
            if tokens == self.expected:
                self.whole += 1
            else:
                self.wrong += 1

    def stream(self):
        stream = Stream(self.cluster, "/v1/completions", {"model": self.cluster.model_id(), **self.request},
                        {"Cache-Control": "no-store"})
        if stream.response.status != 200:
            raise RuntimeError(f"HTTP {stream.response.status}: {stream.response.read().decode()}")
        tokens, last = [], stream.started
        try:
            for event in stream.events():
                if "error" in event:
                    raise RuntimeError(event["error"]["message"])
                now = time.monotonic()
                self.arrivals.append((now, now - last))
                last = now
                for choice in event["choices"]:
                    tokens += choice.get("token_ids") or []
        except (OSError, http.client.HTTPException) as error:
            raise Cut(repr(error)) from error
        if not stream.done:
            raise Cut("the stream ended without [DONE]")
        return tokens

    def longest_gap(self, since):
        return max((gap for at, gap in list(self.arrivals) if at >= since), default=0)

    def has_token(self, since):
        return bool(self.arrivals) and self.arrivals[-1][0] >= since


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else None
