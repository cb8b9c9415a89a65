"""bench/run reads a stream of a small gateway of the test's own: what it cannot count, it names. Takes the repository."""
import argparse
import http.server
import importlib.machinery
import importlib.util
import json
import pathlib
import sys
import threading

loader = importlib.machinery.SourceFileLoader("bench_run", str(pathlib.Path(sys.argv[1]) / "bench/run"))
bench = importlib.util.module_from_spec(importlib.util.spec_from_loader("bench_run", loader))
loader.exec_module(bench)


def choice(**fields):
    return {"choices": [{"index": 0, "finish_reason": None, **fields}]}


END = {"choices": [], "usage": {"completion_tokens": 3}}


def measured(*events):
    """What bench/run makes of these events: tokens per second, or why it gave up."""
    class Gateway(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"".join(b"data: %s\n\n" % json.dumps(e).encode() for e in events) + b"data: [DONE]\n\n")

        def log_message(self, *_):
            pass

    Gateway.protocol_version = "HTTP/1.1"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        return bench.cluster_once(argparse.Namespace(url=f"http://127.0.0.1:{server.server_port}", served_model="m", generate=3,
                                                     cluster_prompt=1, api_key=None))
    except SystemExit as refusal:
        return str(refusal)
    finally:
        server.shutdown()
        server.server_close()


tokens = [choice(text="a", token_ids=[1]), choice(text="bc", token_ids=[2, 3]), choice(text="", finish_reason="stop")]
assert measured(*tokens, END)["generation_tokens_per_s"] > 0, measured(*tokens, END)
silent = measured(choice(text="a"), choice(text="b"), choice(text="c"), END)
assert "text without token_ids" in silent and '"text": "a"' in silent, silent
partly = measured(tokens[0], choice(text="bc"), END)
assert "text without token_ids" in partly, partly
few = measured(tokens[0], END)
assert "asked for 3 tokens, saw 1" in few, few
