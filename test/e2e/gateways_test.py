"""Gateways on two nodes: they answer alike, and what goes through the second one outlives the head."""
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from cluster import BINARY, MODEL, PATIENCE_S, SKIPPED, SOURCE, Cluster, Stream, alive, free_port, wait_for
from made_models import copied

LONG = {"prompt": "Once upon a time", "max_tokens": 400, "ignore_eos": True, "temperature": 0, "return_token_ids": True}
KNOWN_S = 2  # a second, on a machine that does nothing else
UNCACHED = {"Cache-Control": "no-store"}


class Door(Cluster):
    """Another gateway of a cluster: asked as the cluster is."""

    def __init__(self, cluster, port):  # no other cluster: all but the port is that one's
        self.__dict__.update(cluster.__dict__)
        self.gateway_port = port


def start(add_cleanup, before=lambda cluster: None, second=(), **sections):
    """second: the pipeline of the second node's stages, if it is not the first one."""
    port, http = free_port(), free_port()
    nodes = [("node1", free_port(), True, 1), ("node2", port, False, 1, *second)]
    cluster = Cluster(nodes=nodes, **sections)
    text = cluster.config.read_text()
    listed = re.search(r'\{ name = "node2".*', text).group()
    cluster.config.write_text(text.replace(
        listed, listed.replace("roles = []", f'roles = ["gateway"], http = "127.0.0.1:{http}"')))
    before(cluster)
    cluster.__enter__()
    add_cleanup(lambda: cluster.__exit__(os.environ.get("CONVOY_TEST_LOGS")))
    second = Door(cluster, http)
    wait_for(second.ready, "the second gateway is ready")
    return cluster, second


def run_key(cluster, *arguments):
    command, *more = arguments
    done = subprocess.run([BINARY, "key", command, *more, "--config", cluster.config], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def gateways(cluster):
    return {g["node"]: g for g in cluster.status().get("gateways", [])}


class Streamed(threading.Thread):
    """A streamed answer, read by a thread of its own."""

    def __init__(self, door, request, headers=UNCACHED):
        super().__init__()
        self.ids, self.text, self.usage, self.failure, self.pauses = [], "", None, None, []
        self.began = threading.Event()
        self.stream = Stream(door, "/v1/completions", {"model": door.model_id(), "stream_options": {"include_usage": True},
                                                       **request}, headers)
        self.start()

    def run(self):
        try:
            last = time.monotonic()
            for event in self.stream.events():
                if "error" in event:
                    self.failure = event["error"]
                    continue
                self.usage = event.get("usage") or self.usage
                for choice in event["choices"]:
                    self.ids += choice.get("token_ids") or []
                    self.text += choice["text"]
                now = time.monotonic()
                self.pauses.append(now - last)
                last = now
                if len(self.ids) >= 5:
                    self.began.set()
        except Exception as e:
            self.failure = self.failure or e
        self.began.set()

    def whole(self, case):
        self.join(PATIENCE_S)
        case.assertIsNone(self.failure)
        case.assertTrue(self.stream.done, "the stream ended as a whole one")
        return self.ids


class Gateways(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster, cls.second = start(cls.addClassCleanup)

    def setUp(self):
        wait_for(self.cluster.ready, "the first gateway is ready")
        wait_for(self.second.ready, "the second gateway is ready")

    def restart_seen(self, head):
        wait_for(lambda: self.cluster.status()["gateway"]["pid"] not in (0, head), "another head answers")

    def head(self):
        return self.cluster.status()["gateway"]["pid"]

    def test_both_answer_alike_and_know_each_others_answers(self):
        request = {"prompt": f"The moon on {time.time()} is", "temperature": 0, "max_tokens": 30, "return_token_ids": True}
        response, first = self.cluster.completion(headers={}, **request)
        self.assertEqual(response.headers["x-cache"], "miss")
        wait_for(lambda: self.cluster.metric('convoy_cache_stores_total{result="stored"}') > 0, "it is kept")
        response, second = self.second.completion(headers={}, **request)
        self.assertEqual(response.headers["x-cache"], "hit")
        self.assertEqual(first["choices"], second["choices"])
        response, uncached = self.second.completion(**request)
        self.assertEqual(response.headers["x-cache"], "bypass")
        self.assertEqual(first["choices"][0]["token_ids"], uncached["choices"][0]["token_ids"])

    def test_status_lists_both(self):
        wait_for(lambda: gateways(self.cluster).get("node2", {}).get("ready"), "the second one said so")
        both = gateways(self.cluster)
        self.assertEqual(list(both), ["node1", "node2"])
        self.assertTrue(both["node1"]["ready"])
        self.assertEqual(both["node2"]["url"], f"http://127.0.0.1:{self.second.gateway_port}")
        self.assertIn("node2", self.cluster.convoy("status").stdout)

    def test_a_stream_outlives_the_head(self):
        undisturbed = Streamed(self.second, LONG).whole(self)
        self.assertEqual(len(undisturbed), LONG["max_tokens"])
        resumed = self.second.metric("convoy_gateway_resumed_total")
        stream, head = Streamed(self.second, LONG), self.head()
        stream.began.wait(PATIENCE_S)
        self.assertLess(len(stream.ids), LONG["max_tokens"], "it is in mid-answer")
        os.kill(head, signal.SIGKILL)
        self.assertEqual(stream.whole(self), undisturbed)
        self.assertEqual(stream.usage["completion_tokens"], LONG["max_tokens"])
        self.assertEqual(self.second.metric("convoy_gateway_resumed_total") - resumed, 1)
        print(f"the longest pause of the stream was {max(stream.pauses):.2f} s", flush=True)

    def test_eight_streams_outlive_the_head(self):
        requests = [{**LONG, "prompt": f"Chapter {i}. There was", "max_tokens": 150,
                     **({"temperature": 0.9, "seed": i} if i % 2 else {})} for i in range(8)]
        undisturbed = [s.whole(self) for s in [Streamed(self.second, r) for r in requests]]
        streams, head = [Streamed(self.second, r) for r in requests], self.head()
        for stream in streams:
            stream.began.wait(PATIENCE_S)
        self.assertTrue(all(len(s.ids) < r["max_tokens"] for s, r in zip(streams, requests)), "all are in mid-answer")
        os.kill(head, signal.SIGKILL)
        self.assertEqual([s.whole(self) for s in streams], undisturbed)
        for stream, request in zip(streams, requests):
            self.assertEqual(stream.usage["completion_tokens"], request["max_tokens"])

    def test_what_shapes_an_answer_counts_from_its_beginning(self):
        """Stop strings, logprobs and penalties, of an answer in one body: the pause may be anywhere in it."""
        request = {**LONG, "max_tokens": 200, "logprobs": 2, "frequency_penalty": 0.4, "stop": ["\n\n\n\n", "zzzz"]}
        _, undisturbed = self.second.completion(**request)
        got = {}
        def ask():
            _, got["answer"] = self.second.completion(**request)
        asking, head = threading.Thread(target=ask), self.head()
        asking.start()
        wait_for(lambda: self.cluster.status().get("running"), "it runs")
        os.kill(head, signal.SIGKILL)
        asking.join(PATIENCE_S)
        self.assertEqual(got["answer"]["choices"], undisturbed["choices"])
        self.assertEqual(got["answer"]["usage"], undisturbed["usage"])

    def test_it_is_ready_when_the_head_is(self):
        head = self.head()
        os.kill(head, signal.SIGKILL)
        wait_for(lambda: not self.second.ready(), "it is not ready without a head")
        wait_for(self.cluster.ready, "the next head is ready")
        began = time.monotonic()
        wait_for(self.second.ready, "so is the gateway")
        self.assertLess(time.monotonic() - began, 1)

    def test_a_killed_gateway_comes_back_and_leaves_nothing_running(self):
        gateway = gateways(self.cluster)["node2"]["pid"]
        stream = Streamed(self.second, {**LONG, "max_tokens": 1500})
        stream.began.wait(PATIENCE_S)
        wait_for(lambda: self.cluster.status().get("running") == 1, "the pipeline runs it")
        os.kill(gateway, signal.SIGKILL)
        wait_for(lambda: self.cluster.status().get("running") == 0, "the pipeline runs nothing for it")
        stream.join(PATIENCE_S)
        self.assertFalse(stream.stream.done)
        wait_for(self.second.ready, "another one is there")
        wait_for(lambda: gateways(self.cluster)["node2"]["pid"] not in (0, gateway), "status knows it")
        self.second.completion(max_tokens=5)


    def test_a_gateway_that_is_told_to_end_lets_answers_end_and_is_replaced(self):
        gateway = gateways(self.cluster)["node2"]["pid"]
        stream = Streamed(self.second, {**LONG, "max_tokens": 200})
        stream.began.wait(PATIENCE_S)
        os.kill(gateway, signal.SIGTERM)
        self.assertEqual(len(stream.whole(self)), 200)
        wait_for(lambda: gateways(self.cluster)["node2"]["pid"] not in (0, gateway), "another one is there")
        wait_for(self.second.ready, "it serves")


class Apart(unittest.TestCase):
    def test_a_head_that_does_not_come_back_ends_streams_with_an_error(self):
        cluster, second = start(self.addCleanup, gateway={"head_wait_ms": 500})
        text = cluster.config.read_text()
        stream, head = Streamed(second, {**LONG, "max_tokens": 1500}), cluster.status()["gateway"]["pid"]
        stream.began.wait(PATIENCE_S)
        cluster.config.write_text(text + "[pipeline]\nnonsense = 1\n")
        os.kill(head, signal.SIGKILL)
        stream.join(PATIENCE_S)
        cluster.config.write_text(text)
        self.assertFalse(stream.stream.done)
        self.assertEqual(stream.failure["code"], "not_ready")
        self.assertIn("head_wait_ms", stream.failure["message"])
        wait_for(second.ready, "it serves when there is a head again")

    def test_keys_count_at_both_gateways(self):
        keys = []
        def make_key(cluster, *more):
            keys.append(run_key(cluster, "create", *more).strip())
            return keys[-1]
        cluster, second = start(self.addCleanup, make_key, gateway={"keys_file": "keys"})
        def status(door, key=None):
            response, _ = door.post("/v1/completions", {"model": door.model_id(), "prompt": "A", "max_tokens": 1},
                                    {"Authorization": f"Bearer {key}"} if key else {})
            return response.status
        for door in (cluster, second):
            self.assertEqual([status(door), status(door, "cvk1_none"), status(door, keys[0])], [401, 401, 200])
        made, began = make_key(cluster, "--tenant", "other"), time.monotonic()
        wait_for(lambda: status(second, made) == 200, "a new key counts at the second gateway")
        self.assertLess(time.monotonic() - began, KNOWN_S)
        self.assertEqual(status(cluster, made), 200)
        os.kill(cluster.status()["gateway"]["pid"], signal.SIGKILL)
        self.assertEqual(status(second, made), 200)  # the last ones count while there is no head
        self.assertEqual(status(second, "cvk1_none"), 401)
        wait_for(cluster.ready, "there is a head again")
        run_key(cluster, "revoke", made.split("_")[1])
        began = time.monotonic()
        wait_for(lambda: status(second, made) == 401, "a revoked key counts no more")
        self.assertLess(time.monotonic() - began, KNOWN_S)
        self.assertEqual(status(cluster, made), 401)

    def test_down_lets_answers_of_all_gateways_end(self):
        cluster, second = start(self.addCleanup, gateway={"drain_timeout_ms": 60_000})
        stream = Streamed(second, {**LONG, "max_tokens": 300})
        stream.began.wait(PATIENCE_S)
        pids = [g["pid"] for g in gateways(cluster).values()]
        cluster.convoy("down")
        self.assertEqual(len(stream.whole(self)), 300)
        self.assertFalse(any(map(alive, pids)))


class SeveralModels(unittest.TestCase):
    def test_a_gateway_serves_all_models_and_its_streams_of_each_outlive_the_head(self):
        folder = tempfile.TemporaryDirectory(prefix="convoy-models-")
        self.addCleanup(folder.cleanup)
        small = copied(SOURCE / "test/golden/models/qwen3", folder.name)
        cluster, second = start(
            self.addCleanup, second=("small",),
            models=[{"id": "smol", "path": str(MODEL), "aliases": ["assistant"]}, {"id": "tiny", "path": str(small)}],
            pipelines=[{"name": "large", "model": "smol"}, {"name": "small", "model": "tiny"}])
        listed = {model["id"] for model in json.loads(second.get("/v1/models")[1])["data"]}
        self.assertLessEqual({"smol", "tiny"}, listed)
        requests = {"assistant": LONG, "tiny": {**LONG, "prompt": [5, 6, 7, 8], "max_tokens": 1500}}
        expected = {}
        for model, request in requests.items():
            response, answer = cluster.post("/v1/completions", {"model": model, **request}, UNCACHED)
            self.assertEqual(response.status, 200, answer)
            expected[model] = answer["choices"][0]["token_ids"]
        streams = {model: Streamed(second, {**request, "model": model}) for model, request in requests.items()}
        for stream in streams.values():
            self.assertTrue(stream.began.wait(PATIENCE_S))
        head = cluster.status()["gateway"]["pid"]
        self.assertTrue(all(stream.is_alive() for stream in streams.values()), "an answer ended before anything happened")
        os.kill(head, signal.SIGKILL)
        for model, stream in streams.items():
            self.assertEqual(stream.whole(self), expected[model], model)


if __name__ == "__main__":
    if not MODEL.exists():
        print(f"skipped: no model at {MODEL}; scripts/fetch-model fetches it")
        sys.exit(SKIPPED)
    unittest.main(verbosity=2)
