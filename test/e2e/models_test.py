"""Several models and several replicas in one cluster: each answers as it does alone, and replicas stand in for each other."""
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

from cluster import BINARY, MODEL, PATIENCE_S, SKIPPED, SOURCE, Cluster, free_port, wait_for
from machines import Network, possible
from machines_test import Node
from made_models import copied

PROMPTS = ["The capital of France is", "def fibonacci(n):", "Once upon a time"]


def tokens(cluster, model, prompt=None, **fields):
    """Of a whole answer that no cache has."""
    fields = {"max_tokens": 24, "temperature": 0, "return_token_ids": True, "ignore_eos": True, **fields}
    response, answer = cluster.post("/v1/completions", {"model": model, "prompt": prompt or PROMPTS[0], **fields},
                                    {"Cache-Control": "no-store"})
    assert response.status == 200, (response.status, answer)
    return answer["choices"][0]["token_ids"]


class TwoModels(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="convoy-models-")
        nodes = [("head", free_port(), True, 2), ("side", free_port(), False, 1, "small")]
        cls.small = copied(SOURCE / "test/golden/models/qwen3", cls.folder.name)
        cls.cluster = Cluster(
            nodes=nodes,
            models=[{"id": "smol", "path": str(MODEL), "aliases": ["assistant"]}, {"id": "tiny", "path": str(cls.small)}],
            pipelines=[{"name": "large", "model": "smol"}, {"name": "small", "model": "tiny"}]).__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.cluster.__exit__(os.environ.get("CONVOY_TEST_LOGS"))
        cls.folder.cleanup()

    def alone(self, path, prompts, stages=1):
        with Cluster(model=path, stages=stages) as cluster:
            return [tokens(cluster, cluster.model_id(), prompt) for prompt in prompts]

    def test_two_models_at_once_answer_as_each_does_alone(self):
        ids = [[5, 6, 7, 8], [9, 10], [3] * 70]
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            large = [pool.submit(tokens, self.cluster, "smol", prompt) for prompt in PROMPTS]
            small = [pool.submit(tokens, self.cluster, "tiny", prompt) for prompt in ids]
            large, small = [f.result() for f in large], [f.result() for f in small]
        self.assertEqual(large, self.alone(MODEL, PROMPTS, 2))
        self.assertEqual(small, self.alone(self.small, ids))

    def test_an_unknown_model_is_404_with_those_that_there_are(self):
        response, answer = self.cluster.post("/v1/completions", {"model": "gpt", "prompt": "x"})
        self.assertEqual(response.status, 404)
        self.assertIn("'smol', 'tiny'", answer["error"]["message"])

    def test_an_alias_leads_to_the_model_whose_id_the_answer_has(self):
        for name in ("assistant", "default"):
            _, answer = self.cluster.post("/v1/completions", {"model": name, "prompt": "x", "max_tokens": 2})
            self.assertEqual(answer["model"], "smol")

    def test_status_and_metrics_name_pipelines_and_models(self):
        tokens(self.cluster, "smol"), tokens(self.cluster, "tiny", [5, 6])
        status = self.cluster.status()
        self.assertEqual([(p["name"], p["model"], p["ready"]) for p in status["pipelines"]],
                         [("large", "smol", True), ("small", "tiny", True)])
        self.assertEqual([(n["name"], n["pipeline"]) for n in status["nodes"]], [("head", "large"), ("side", "small")])
        self.assertEqual([(s["node"], s["pipeline"]) for s in status["stages"]],
                         [("head", "large"), ("head", "large"), ("side", "small")])
        for pipeline, model in (("large", "smol"), ("small", "tiny")):
            labels = f'{{pipeline="{pipeline}",model="{model}"}}'
            for family in ("convoy_requests_admitted_total", "convoy_prompt_tokens_total"):
                wait_for(lambda name=family + labels: self.cluster.metric(name) > 0, family + labels)
        text = self.cluster.convoy("status").stdout
        self.assertRegex(text, r"pipeline +ready +small of tiny")
        plan = self.cluster.convoy("plan").stdout
        self.assertIn("pipeline small of tiny", plan)

    def test_a_stage_of_one_model_that_is_lost_leaves_the_other_ready(self):
        stage = next(s for s in self.cluster.status()["stages"] if s["pipeline"] == "small")
        os.kill(stage["pid"], signal.SIGKILL)
        self.assertEqual(len(tokens(self.cluster, "smol")), 24)
        wait_for(lambda: [p["ready"] for p in self.cluster.status()["pipelines"]] == [True, True] and
                 stage["pid"] not in self.cluster.stage_pids(), "it is replaced")


LONG = {"max_tokens": 200}


class Replicas(unittest.TestCase):
    """Two pipelines of one model, of a node each."""

    @classmethod
    def setUpClass(cls):
        nodes = [("head", free_port(), True, 1), ("side", free_port(), False, 1, "second")]
        cls.cluster = Cluster(nodes=nodes, models=[{"id": "smol", "path": str(MODEL)}],
                              pipelines=[{"name": "first", "model": "smol"}, {"name": "second"}]).__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.cluster.__exit__(os.environ.get("CONVOY_TEST_LOGS"))

    def setUp(self):
        wait_for(self.all_ready, "both replicas are ready")

    def all_ready(self):
        return all(p["ready"] for p in self.cluster.status()["pipelines"])

    def admitted(self):
        """How many requests each replica took."""
        return [self.cluster.metric(f'convoy_requests_admitted_total{{pipeline="{name}"}}') for name in ("first", "second")]

    def test_both_replicas_give_the_same_answers_greedy_and_seeded(self):
        for fields in ({}, {"temperature": 1.2, "seed": 7}):
            answers = self.answers_of_both(lambda _: tokens(self.cluster, "smol", **fields))
            self.assertEqual(answers, answers[:1] * len(answers))

    def answers_of_both(self, ask):
        """Eight at once, and again until each replica took some: on a busy machine one may have been measured to be much
        slower than it is, and is tried again after 16 requests."""
        before, answers = self.admitted(), []
        for _ in range(5):
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                answers += pool.map(ask, range(8))
            taken = [now - then for now, then in zip(self.admitted(), before)]
            self.assertEqual(sum(taken), len(answers))
            if min(taken) > 0:
                return answers
        self.fail(f"one replica takes no requests: {taken}")

    def test_requests_at_once_are_spread_over_both(self):
        self.answers_of_both(lambda i: tokens(self.cluster, "smol", f"The number {i} is"))

    def test_an_answer_of_one_replica_is_kept_for_requests_that_the_other_would_get(self):
        ask = lambda: self.cluster.post("/v1/completions", {"model": "smol", "prompt": "Both say", "max_tokens": 4,
                                                            "temperature": 0})[0].headers["X-Cache"]
        self.assertEqual(ask(), "miss")
        wait_for(lambda: self.cluster.metric('convoy_cache_stores_total{result="stored"}') > 0, "it is kept")
        self.assertEqual([ask(), ask()], ["hit", "hit"])

    def test_a_replica_that_dies_loses_nothing_and_the_other_gets_new_requests(self):
        prompts = [f"The number {i} is" for i in range(8)]
        expected = [tokens(self.cluster, "smol", prompt, **LONG) for prompt in prompts]
        status = self.cluster.status()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            streams = [pool.submit(tokens, self.cluster, "smol", prompt, **LONG) for prompt in prompts]
            running = lambda: [p["running"] for p in self.cluster.status()["pipelines"]]
            wait_for(lambda: sum(running()) == 8, "they run")
            victim = max((0, 1), key=lambda i: running()[i])  # who has most of them
            name = ("head", "side")[victim]
            node = next(n["pid"] for n in status["nodes"] if n["name"] == name)
            stage = next(s["pid"] for s in status["stages"] if s["node"] == name)
            os.kill(node, signal.SIGSTOP)  # who would start another one
            try:
                os.kill(stage, signal.SIGKILL)
                wait_for(lambda: not self.all_ready(), "it is noticed")
                self.assertTrue(self.cluster.ready(), "the model has a replica left")
                before = self.admitted()
                answers = [tokens(self.cluster, "smol") for _ in range(3)]
                taken = [now - then for now, then in zip(self.admitted(), before)]
                self.assertEqual((taken[victim], sum(taken)), (0, 3))
            finally:
                os.kill(node, signal.SIGCONT)
            self.assertEqual([stream.result(PATIENCE_S) for stream in streams], expected)
        self.assertEqual(answers, answers[:1] * 3)
        wait_for(self.all_ready, "another process serves")


class OtherFiles(unittest.TestCase):
    def test_a_stage_with_another_model_than_its_pipelines_is_refused_with_words(self):
        with tempfile.TemporaryDirectory(prefix="convoy-models-") as folder:
            theirs = copied(SOURCE / "test/golden/models/qwen3", folder)
            head = Cluster(nodes=[("head", free_port(), True, 1), ("side", free_port(), False, 1, "second")],
                           models=[{"id": "smol", "path": str(MODEL)}, {"id": "tiny", "path": str(theirs)}],
                           pipelines=[{"name": "first", "model": "smol"}, {"name": "second", "model": "tiny"}])
            with head as cluster:
                # Another machine's copy of the configuration would name other files.
                copy = pathlib.Path(folder) / "cluster.conf"
                copy.write_text(cluster.config.read_text().replace(str(theirs), str(MODEL))
                                .replace('run_dir = "run"', f'run_dir = "{cluster.dir}/run"'))
                log = pathlib.Path(folder) / "stage.log"
                port = int(re.search(r'"head", listen = "127.0.0.1:(\d+)"', copy.read_text())[1])
                with open(log, "w") as out:
                    stage = subprocess.Popen(
                        [BINARY, "stage", "--config", copy, "--node", "side", "--instance", "0", "--incarnation", "1",
                         "--head-host", "127.0.0.1", "--head-port", str(port), "--parent", str(os.getpid())], stderr=out)
                try:
                    wait_for(lambda: "its files were changed or differ between machines" in log.read_text(), "it is told")
                finally:
                    stage.kill()
                    stage.wait()


class Machines(unittest.TestCase):
    """Network namespaces: without root there are none."""

    def test_a_machine_without_files_joins_a_pipeline_by_name_and_gets_its_models_weights(self):
        if not possible():
            self.skipTest("only root makes networks")
        folder = pathlib.Path(tempfile.mkdtemp(prefix="convoy-models-"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        small = copied(SOURCE / "test/golden/models/qwen3", folder)
        network = Network()
        self.addCleanup(network.__exit__)
        first, second = network.add(), network.add()
        config = folder / "first/cluster.conf"
        first.run(BINARY, "init", "--dir", config.parent, "--model", MODEL, "--cluster", "harbour", "--name", "quay",
                  "--listen", f"{first.address}:7411")
        text, models = re.subn(r"(?m)^model = .*$", f'models = [{{ id = "smol", path = "{MODEL}" }}, {{ id = "tiny", path = "{small}" }}]\n'
                               'pipelines = [{ name = "large", model = "smol" }, { name = "small", model = "tiny" }]', config.read_text())
        side = f'  {{ name = "side", listen = "{first.address}:7412", stages = 1, pipeline = "small" }}\n]'
        self.assertEqual((models, text.count("  }\n]")), (1, 1), text)
        config.write_text(text.replace("  }\n]", "  },\n" + side))
        first.run(BINARY, "ca", "issue", "side", "--config", config)
        for name in ("quay", "side"):
            self.addCleanup(Node(first, config, name).end)

        def ask(model, prompt):
            status, text = first.ask("POST", "http://127.0.0.1:8080/v1/completions", {
                "model": model, "prompt": prompt, "max_tokens": 20, "temperature": 0, "ignore_eos": True, "return_token_ids": True})
            assert status == 200, text
            return json.loads(text)["choices"][0]["token_ids"]

        def ready():
            return first.ask("GET", "http://127.0.0.1:8080/readyz", timeout=5)[0] == 200

        def stages():
            status = json.loads(first.run(BINARY, "status", "--json", "--config", config, check=False).stdout)
            return [(s["pipeline"], s["node"], s["health"]) for s in status["stages"]]

        wait_for(ready, "both models serve")
        expected = {"smol": ask("smol", PROMPTS[0]), "tiny": ask("tiny", [5, 6, 7])}
        token = first.run(BINARY, "token", "create", "--config", config).stdout.split()
        there = folder / "mole"
        unknown = second.run(BINARY, *token[1:], "--name", "mole", "--dir", there, "--pipeline", "nowhere", check=False)
        self.assertNotEqual(unknown.returncode, 0)
        self.assertIn("which is no pipeline", unknown.stderr)
        second.run(BINARY, *token[1:], "--name", "mole", "--dir", there, "--pipeline", "small")
        joined = there / "cluster.conf"
        self.assertIn('pipeline = "small" }\n]', joined.read_text())
        joined.write_text(joined.read_text().replace(str(MODEL), "/nowhere/large").replace(str(small), "/nowhere/small"))
        self.addCleanup(Node(second, joined, "mole").end)
        wait_for(lambda: ("small", "mole", "ready") in stages() and ready(), "the machine serves")
        self.assertEqual({"smol": ask("smol", PROMPTS[0]), "tiny": ask("tiny", [5, 6, 7])}, expected)
        self.assertLess(sum(f.stat().st_size for f in (there / "store/tensors").glob("*")), MODEL.stat().st_size / 10)
        drained = first.run(BINARY, "drain", "mole", "--config", config)
        self.assertIn("layers 0-1 on side", drained.stdout)
        self.assertEqual(ask("tiny", [5, 6, 7]), expected["tiny"])
        self.assertIn("there is no node", first.run(BINARY, "drain", "nobody", "--config", config, check=False).stderr)


if __name__ == "__main__":
    if not MODEL.exists():
        print(f"skipped: no model at {MODEL}; scripts/fetch-model fetches it")
        sys.exit(SKIPPED)
    unittest.main(verbosity=2)
