"""A cluster of real processes answers: the same whatever its shape, streamed or not, from Redis or not."""
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import unittest

from cluster import BINARY, MODEL, SKIPPED, SOURCE, Cluster, Stream, alive, free_port, wait_for


def chat_body(cluster, **fields):
    return {"model": cluster.model_id(), "messages": [{"role": "user", "content": "Name three colours."}],
            "max_tokens": 32, "temperature": 0, **fields}


class Answers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster().__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.cluster.__exit__(None)

    def test_two_stages_share_the_layers_in_processes_of_their_own(self):
        stages = self.cluster.status()["stages"]
        self.assertEqual([(s["first_layer"], s["last_layer"]) for s in stages], [(0, 16), (17, 29)])  # the head counts
        self.assertEqual(len({s["pid"] for s in stages}), 2)
        for s in stages:
            self.assertEqual(s["health"], "ready")
            self.assertEqual(s["device"], "CPU")
            os.kill(s["pid"], 0)

    def test_status_tells_what_the_contract_names(self):
        s = self.cluster.status()
        self.assertTrue(s["ready"])
        self.assertEqual(s["model"], self.cluster.model_id())
        self.assertEqual(s["gateway"]["url"], f"http://127.0.0.1:{self.cluster.gateway_port}")
        os.kill(s["gateway"]["pid"], 0)
        self.assertEqual(s["redis"]["state"], "up")
        os.kill(s["redis"]["pid"], 0)
        self.assertEqual([(n["name"], n["health"]) for n in s["nodes"]], [("node1", "ready")])

    def test_it_knows_the_capital_of_france(self):
        _, answer = self.cluster.completion(prompt="The capital of France is", max_tokens=4)
        self.assertIn("Paris", answer["choices"][0]["text"])
        self.assertEqual(answer["usage"], {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9,
                                          "prompt_tokens_details": {"cached_tokens": 0}})

    def test_streamed_and_unstreamed_bodies_agree(self):
        headers = {"Cache-Control": "no-store"}
        _, whole = self.cluster.post("/v1/chat/completions", chat_body(self.cluster), headers)
        stream = Stream(self.cluster, "/v1/chat/completions",
                        chat_body(self.cluster, stream_options={"include_usage": True}), headers)
        text, usage, finish = "", None, None
        for event in stream.events():
            for choice in event["choices"]:
                text += choice["delta"].get("content", "")
                finish = choice["finish_reason"] or finish
            usage = event["usage"] or usage
        self.assertTrue(stream.done)
        self.assertEqual(text, whole["choices"][0]["message"]["content"])
        self.assertEqual(finish, whole["choices"][0]["finish_reason"])
        self.assertEqual(usage, whole["usage"])

    def stored(self):
        return self.cluster.metric('convoy_cache_stores_total{result="stored"}')

    def test_a_second_identical_request_comes_from_redis(self):
        body = chat_body(self.cluster, messages=[{"role": "user", "content": "Say hello to Redis."}])
        hits = self.cluster.metric('convoy_cache_lookups_total{result="hit"}')
        stored = self.stored()
        first, one = self.cluster.post("/v1/chat/completions", body)
        self.assertEqual(first.headers["X-Cache"], "miss")
        wait_for(lambda: self.stored() == stored + 1, "it is stored")
        computed = [self.cluster.metric(name) for name in
                    ("convoy_tokens_generated_total", "convoy_requests_admitted_total")]
        self.assertGreater(computed[0], 0)
        second, two = self.cluster.post("/v1/chat/completions", body)
        self.assertEqual(second.headers["X-Cache"], "hit")
        self.assertEqual(one["choices"], two["choices"])
        self.assertEqual(one["usage"], two["usage"])
        self.assertEqual(self.cluster.metric('convoy_cache_lookups_total{result="hit"}'), hits + 1)
        stream = Stream(self.cluster, "/v1/chat/completions", body)
        self.assertEqual(stream.response.headers["X-Cache"], "hit")
        text = "".join(c["delta"].get("content", "") for e in stream.events() for c in e["choices"])
        self.assertEqual(text, one["choices"][0]["message"]["content"])
        self.assertEqual(computed, [self.cluster.metric(name) for name in
                                    ("convoy_tokens_generated_total", "convoy_requests_admitted_total")])
        bypass, _ = self.cluster.post("/v1/chat/completions", {**body, "temperature": 1})
        self.assertEqual(bypass.headers["X-Cache"], "bypass")

    def test_many_at_once_get_what_each_gets_alone(self):
        import concurrent.futures
        prompts = [f"Number {i} is" for i in range(6)]
        ask = lambda p: self.cluster.completion(prompt=p, return_token_ids=True)[1]["choices"][0]["token_ids"]
        alone = [ask(p) for p in prompts]
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            together = list(pool.map(ask, prompts))
        self.assertEqual(alone, together)

    def test_seeded_sampling_repeats_itself(self):
        ask = lambda seed: self.cluster.completion(temperature=1.2, seed=seed, return_token_ids=True)[1]["choices"][0]["token_ids"]
        self.assertEqual(ask(7), ask(7))
        self.assertNotEqual(ask(7), ask(8))

    def test_an_unknown_model_is_404(self):
        response, answer = self.cluster.post("/v1/chat/completions", {**chat_body(self.cluster), "model": "gpt-none"})
        self.assertEqual(response.status, 404)
        self.assertEqual(answer["error"]["code"], "model_not_found")

    def test_a_prompt_longer_than_the_context_is_400_with_both_numbers(self):
        response, answer = self.cluster.post("/v1/completions", {
            "model": self.cluster.model_id(), "prompt": [5] * 9000, "max_tokens": 1})
        self.assertEqual(response.status, 400)
        self.assertIn("9000", answer["error"]["message"])
        self.assertIn("8192", answer["error"]["message"])

    def test_a_client_that_vanishes_stops_the_work(self):
        cancelled = self.cluster.metric("convoy_cancelled_total")
        stream = Stream(self.cluster, "/v1/completions", {
            "model": self.cluster.model_id(), "prompt": "Once upon a time", "max_tokens": 4000, "ignore_eos": True,
            "temperature": 0}, {"Cache-Control": "no-store"})
        events = stream.events()
        next(events)
        stream.close()
        wait_for(lambda: self.cluster.metric("convoy_cancelled_total") == cancelled + 1, "the work stops")
        wait_for(lambda: self.cluster.status()["running"] == 0, "nothing runs")

    def test_the_metrics_that_exist_are_those_that_are_documented(self):
        self.cluster.completion(max_tokens=4)
        self.cluster.get("/livez")
        page = (SOURCE / "docs/metrics.md").read_text()
        listed = page[page.index("## All of them"):]
        documented = {name for line in listed.splitlines() if line.startswith("| `")
                      for name in re.findall(r"`(\w+)`", line.split("|")[1])}
        self.assertEqual(documented, self.cluster.metric_names())

    def test_a_metric_that_is_not_there_is_an_error(self):
        for name in ("convoy_no_such_metric_total", 'convoy_cache_lookups_total{result="no such"}'):
            with self.assertRaises(KeyError):
                self.cluster.metric(name)

    def test_the_metrics_say_what_the_cluster_does(self):
        self.assertEqual(self.cluster.metric("convoy_ready"), 1)
        self.assertEqual(self.cluster.metric("convoy_stage_up"), 2)
        self.assertEqual(self.cluster.metric("convoy_stage_restarts_total"), 0)
        stream = Stream(self.cluster, "/v1/completions", {
            "model": self.cluster.model_id(), "prompt": "Water " * 200, "max_tokens": 4000, "ignore_eos": True,
            "temperature": 0}, {"Cache-Control": "no-store"})
        next(stream.events())
        wait_for(lambda: self.cluster.metric("convoy_requests_running") == 1, "it is seen to run")
        wait_for(lambda: self.cluster.metric("convoy_kv_blocks_used") > 3, "its blocks are seen")
        stream.close()
        wait_for(lambda: self.cluster.metric("convoy_requests_running") == 0, "it is seen to end")

    def test_a_second_up_says_that_the_cluster_runs(self):
        again = self.cluster.convoy("up", check=False)
        self.assertEqual(again.returncode, 3)
        self.assertIn("already runs", again.stderr)


class Fixture(unittest.TestCase):
    def test_a_test_that_is_killed_leaves_no_cluster_behind(self):
        script = ("import sys, time; from cluster import Cluster; c = Cluster(stages=1).__enter__()\n"
                  "print(c.dir, c.status()['nodes'][0]['pid'], flush=True); time.sleep(1000)")
        killed = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=SOURCE / "test/e2e")
        folder, pid = killed.stdout.readline().split()
        self.assertTrue(alive(pid))
        killed.kill()
        killed.communicate()
        wait_for(lambda: not alive(pid) and not pathlib.Path(folder).exists(), "its cluster ends and its folder goes")


class Shapes(unittest.TestCase):
    def tokens_of(self, **shape):
        with Cluster(**shape) as cluster:
            return [cluster.completion(prompt=p, max_tokens=40, return_token_ids=True)[1]["choices"][0]["token_ids"]
                    for p in ("The capital of France is", "def fibonacci(n):", "Water " * 700)]

    def test_two_stages_give_the_same_tokens_as_one_and_as_two_nodes(self):
        one = self.tokens_of(stages=1)
        self.assertEqual(one, self.tokens_of(stages=2))
        nodes = [("head", free_port(), True, 1), ("other", free_port(), False, 2)]
        self.assertEqual(one, self.tokens_of(nodes=nodes))

    def unix_connections(self, port):
        """How many connections the Unix-domain socket beside that port of a node has accepted."""
        sockets = pathlib.Path("/proc/net/unix").read_text().splitlines()
        return sum(s.endswith(f" @convoy/127.0.0.1:{port}") and s.split()[5] == "03" for s in sockets)

    def test_down_leaves_no_process_and_no_socket_behind(self):
        port = free_port()
        with Cluster(nodes=[("node1", port, True, 2)]) as cluster:
            self.assertGreaterEqual(self.unix_connections(port), 4)  # control and bulk of each stage
            status = cluster.status()
            pids = [s["pid"] for s in status["stages"]] + [n["pid"] for n in status["nodes"]] + [status["redis"]["pid"]]
            cluster.convoy("down")
            for pid in pids:
                self.assertFalse(alive(pid), pid)
            self.assertEqual([p.name for p in (cluster.dir / "run").iterdir() if p.is_socket()], [])
            self.assertEqual(self.unix_connections(port), 0)
            with self.assertRaises(OSError):
                cluster.get("/livez")
            again = cluster.convoy("down")
            self.assertIn("not running", again.stdout)
            offline = cluster.status()
            self.assertFalse(offline["ready"])
            self.assertEqual(offline["nodes"][0]["health"], "down")

    def test_every_node_ends_in_good_order_when_told_to(self):
        names = ["head", "other"]
        cluster = Cluster(nodes=[(name, free_port(), name == "head", 1) for name in names])
        processes = [subprocess.Popen([BINARY, "node", "--config", cluster.config, "--name", name],
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for name in names]
        try:
            wait_for(cluster.ready, "two nodes are ready")
            for name, process in reversed(list(zip(names, processes))):
                process.terminate()
                self.assertEqual(process.wait(20), 0, name)
                self.assertFalse((cluster.dir / "run" / f"{name}.json").exists())
        finally:
            for process in processes:
                process.kill()
                process.wait()
            cluster.__exit__(None)

    def test_a_port_in_use_is_named_with_its_key(self):
        import socket
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            cluster = Cluster(gateway={"port": taken.getsockname()[1]})
            try:
                up = cluster.convoy("up", check=False)
                self.assertNotEqual(up.returncode, 0)
                self.assertIn("gateway.port", up.stderr)
            finally:
                cluster.__exit__(None)

    def test_a_missing_model_is_named(self):
        cluster = Cluster(model="/nowhere/model.gguf")
        try:
            up = cluster.convoy("up", check=False)
            self.assertEqual(up.returncode, 3)
            self.assertIn("/nowhere/model.gguf", up.stderr)
        finally:
            cluster.__exit__(None)


if __name__ == "__main__":
    if not MODEL.exists():
        print(f"skipped: no model at {MODEL}; scripts/fetch-model fetches it")
        sys.exit(SKIPPED)
    unittest.main(verbosity=2)
