"""bench/run clients times the texts of streams of a small gateway of the test's own, and what memory does. Takes the
repository."""
import argparse
import http.server
import importlib.machinery
import importlib.util
import json
import os
import pathlib
import sys
import threading
import time

loader = importlib.machinery.SourceFileLoader("bench_run", str(pathlib.Path(sys.argv[1]) / "bench/run"))
bench = importlib.util.module_from_spec(importlib.util.spec_from_loader("bench_run", loader))
loader.exec_module(bench)

FIRST_S, BETWEEN_S, TOKENS = 0.08, 0.03, 4


class Gateway(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    counted = TOKENS

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        texts = ["a", "", "b", "c", "d"]  # the second is a letter that has not ended
        events = [{"choices": [{"text": text}]} for text in texts] + [
            {"choices": [{"text": "", "finish_reason": "length"}]},
            {"choices": [], "usage": {"completion_tokens": self.counted}}]
        for i, event in enumerate(events):
            if event["choices"] and event["choices"][0]["text"]:
                time.sleep(FIRST_S if i == 0 else BETWEEN_S)
            self.wfile.write(b"data: %s\n\n" % json.dumps(event, separators=(",", ":")).encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
args = argparse.Namespace(url=url, served_model="m", generate=TOKENS, temperature=0, prompt=3, api_key=None, stages=[], clients=[2],
                          processes={"head": os.getpid()}, soak=20)

timed = bench.latencies_once(url, args, 3)
first, between = bench.quantiles(timed["first_token_ms"]), bench.quantiles(timed["between_tokens_ms"])
assert first["count"] == 3 and first["p50"] >= 1000 * FIRST_S, timed
assert between["count"] == 3 * (TOKENS - 1), timed
# A sleep is never shorter than it was asked to be; reading one late shortens the gap behind it.
assert between["p99"] >= 1000 * BETWEEN_S and sum(timed["between_tokens_ms"]) >= 3000 * BETWEEN_S * (TOKENS - 1) * 0.8, timed
assert bench.clients_once(url, args, 2)["tokens_per_s"] > 0

assert bench.quantiles(range(101)) == {"count": 101, "p50": 50, "p99": 99}
growth = sys.modules["growth"]
assert abs(growth.slope([(0, 5), (100, 25), (200, 45)]) - 0.2) < 1e-9
replaced = growth.Growth()
replaced.points = {("stage", 1): [(0, 9), (1, 9)], ("stage", 2): [(i, 1000 if i < 10 else 5 * i) for i in range(20)]}
assert replaced.of_requests() == {"stage": {"requests": 19, "resident_bytes": 95, "resident_bytes_per_1000_requests": 5000}}
memory = bench.memory_of_requests(args)
assert memory["requests"] == 20 and memory["resident_bytes"]["head"] > 1 << 20, memory

# A process that computes is not idle.
args.stages = [os.getpid()]
before, end = bench.stage_seconds(args), time.process_time() + 0.3
while time.process_time() < end:
    pass
assert 0.2 < bench.stage_seconds(args) - before < 3, (before, bench.stage_seconds(args))

Gateway.counted = TOKENS - 1
try:
    bench.streams_once(url, args, 1, late=True)
    raise AssertionError("a stream counted that was too short")
except SystemExit as refusal:
    assert "did not answer with 4 tokens" in str(refusal), refusal
server.shutdown()
