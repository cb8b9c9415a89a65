"""The head is told to end while it answers: what clients see, and when it is gone."""
import os
import signal
import sys
import threading
import time
import unittest

from cluster import MODEL, PATIENCE_S, SKIPPED, Cluster, Stream, alive, free_port, wait_for

LONG = {"prompt": "Once upon a time", "max_tokens": 1500, "ignore_eos": True, "temperature": 0}
SHORT = {**LONG, "max_tokens": 600}  # a second on a fast machine: `running` is said four times in one
SOON_S = 8  # far less than the drain time-outs that must not be waited for


class Drain(unittest.TestCase):
    def start(self, **options):
        cluster = Cluster(**options).__enter__()
        self.addCleanup(lambda: cluster.__exit__(os.environ.get("CONVOY_TEST_LOGS")))
        return cluster

    def stream(self, cluster, request):
        stream = Stream(cluster, "/v1/completions", {"model": cluster.model_id(), **request}, {"Cache-Control": "no-store"})
        events = stream.events()
        next(events)
        return stream, events

    def expect_cut(self, stream, events):
        error = None
        with self.assertRaises(Exception):
            for event in events:
                error = event.get("error", error)
        self.assertEqual(error["code"], "shutting_down")
        self.assertFalse(stream.done)

    def expect_gone(self, pid, stages, within_s=SOON_S):
        wait_for(lambda: not alive(pid), "the head is gone", within_s)
        wait_for(lambda: not any(map(alive, stages)), "so are its stages", within_s)

    def test_an_answer_under_way_ends_as_it_would_and_nobody_else_is_let_in(self):
        cluster = self.start(gateway={"drain_timeout_ms": 60_000})
        head, stages = cluster.status()["nodes"][0]["pid"], cluster.stage_pids()
        body = {}
        def ask():
            body["response"], body["answer"] = cluster.post(
                "/v1/completions", {"model": cluster.model_id(), **SHORT}, {"Cache-Control": "no-store"})
        asking = threading.Thread(target=ask)
        asking.start()
        wait_for(lambda: cluster.status()["running"] == 1, "it runs")
        stream, events = self.stream(cluster, {**LONG, "max_tokens": 300})
        os.kill(head, signal.SIGTERM)
        def closed():
            try:
                cluster.get("/livez")
            except OSError:
                return True
        wait_for(closed, "the door is closed")
        status = cluster.status()
        self.assertFalse(status["ready"])
        self.assertIn("gateway.drain_timeout_ms", status["reason"])
        reasons = [choice.get("finish_reason") for event in events for choice in event["choices"]]
        self.assertEqual(reasons[-1], "length")
        self.assertTrue(stream.done)
        asking.join(PATIENCE_S)
        self.assertEqual(body["response"].status, 200)
        self.assertEqual(body["answer"]["usage"]["completion_tokens"], SHORT["max_tokens"])
        self.expect_gone(head, stages)

    def test_what_lasts_too_long_ends_with_an_error(self):
        cluster = self.start(gateway={"drain_timeout_ms": 300})
        head, stages = cluster.status()["nodes"][0]["pid"], cluster.stage_pids()
        stream, events = self.stream(cluster, LONG)
        os.kill(head, signal.SIGTERM)
        self.expect_cut(stream, events)
        self.expect_gone(head, stages)

    def test_told_twice_it_does_not_wait(self):
        cluster = self.start(gateway={"drain_timeout_ms": 60_000})
        head, stages = cluster.status()["nodes"][0]["pid"], cluster.stage_pids()
        stream, events = self.stream(cluster, LONG)
        os.kill(head, signal.SIGTERM)
        wait_for(lambda: not cluster.status()["ready"], "it drains")
        os.kill(head, signal.SIGTERM)
        self.expect_cut(stream, events)
        self.expect_gone(head, stages)

    def test_at_rest_it_ends_at_once(self):
        cluster = self.start(gateway={"drain_timeout_ms": 60_000})
        idle = cluster.connect()
        idle.request("GET", "/livez")
        idle.getresponse().read()
        head, stages = cluster.status()["nodes"][0]["pid"], cluster.stage_pids()
        os.kill(head, signal.SIGTERM)
        self.expect_gone(head, stages)
        idle.close()

    def test_down_waits_for_answers_and_stages_of_other_nodes_serve_them(self):
        cluster = self.start(gateway={"drain_timeout_ms": 60_000},
                             nodes=[("node1", free_port(), True, 1), ("node2", free_port(), False, 1)])
        stream, events = self.stream(cluster, {**LONG, "max_tokens": 200})
        down = threading.Thread(target=cluster.convoy, args=("down",))
        down.start()
        self.assertEqual([choice.get("finish_reason") for event in events for choice in event["choices"]][-1], "length")
        self.assertTrue(stream.done)
        down.join(SOON_S)
        self.assertFalse(down.is_alive())

    def test_down_with_less_patience_cuts_them(self):
        cluster = self.start(gateway={"drain_timeout_ms": 60_000})
        stream, events = self.stream(cluster, LONG)
        began = time.monotonic()
        down = threading.Thread(target=cluster.convoy, args=("down", "--grace-ms", "1000"))
        down.start()
        self.expect_cut(stream, events)
        down.join(SOON_S)
        self.assertFalse(down.is_alive())
        self.assertGreater(time.monotonic() - began, 1)


if __name__ == "__main__":
    if not MODEL.exists():
        print(f"skipped: no model at {MODEL}; scripts/fetch-model fetches it")
        sys.exit(SKIPPED)
    unittest.main(verbosity=2)
