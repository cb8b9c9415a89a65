"""Nodes that join and leave while answers are under way: each answer goes on with the tokens that it gets undisturbed."""
import json
import re
import statistics
import subprocess
import threading
import time
import unittest

from cluster import BINARY, Cluster, Stream, alive, free_port, wait_for

ANSWERS = 16
TOKENS = 160


class Answer:
    """A streamed answer, with when each of its tokens came."""

    def __init__(self, cluster, number):
        self.ids, self.times, self.failure = [], [], None
        self.thread = threading.Thread(target=self.read, args=(cluster, number))
        self.thread.start()

    def read(self, cluster, number):
        try:
            stream = Stream(cluster, "/v1/completions", {
                "model": cluster.model_id(), "prompt": f"Once upon a time there were {number + 2} ships, and", "temperature": 0,
                "max_tokens": TOKENS, "ignore_eos": True, "return_token_ids": True}, {"Cache-Control": "no-store"})
            for event in stream.events():
                for choice in event["choices"]:
                    new = choice.get("token_ids") or []
                    self.ids += new
                    self.times += [time.monotonic()] * len(new)
            assert stream.done
        except Exception as e:
            self.failure = e

    def pause(self):
        """The longest time without a token."""
        return max(b - a for a, b in zip(self.times, self.times[1:]))


def answers_while(cluster, happens=None):
    """All at once; what happens, happens when each of them has a few tokens. The answers' tokens, and their pauses."""
    answers = [Answer(cluster, i) for i in range(ANSWERS)]
    result = None
    if happens:
        wait_for(lambda: all(len(a.ids) > 8 or a.failure for a in answers), "all answers have begun")
        result = happens()
        assert any(a.thread.is_alive() for a in answers), "the answers were over before it happened"
    for a in answers:
        a.thread.join(120)
        if a.failure:
            raise a.failure
    return [a.ids for a in answers], [a.pause() for a in answers], result


class Members(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(nodes=[("node1", free_port(), True, 1), ("node2", free_port(), False, 1)],
                              pipeline={"sequences_max": 32})
        cls.cluster.__enter__()
        cls.expected, pauses, _ = answers_while(cls.cluster)
        cls.undisturbed = statistics.median(pauses)
        cls.joined = None

    @classmethod
    def tearDownClass(cls):
        if cls.joined:
            cls.joined.terminate()
            cls.joined.wait(20)
        cls.cluster.__exit__(None)

    def node(self, name):
        return next((n for n in self.cluster.status()["nodes"] if n["name"] == name), None)

    def on_nodes(self):
        return [s["node"] for s in self.cluster.status()["stages"]]

    def check_answers(self, what, happens):
        before = self.cluster.status()["epoch"]
        tokens, pauses, result = answers_while(self.cluster, happens)
        self.assertEqual(tokens, self.expected)
        self.assertGreater(self.cluster.status()["epoch"], before)
        print(f"{what}: longest pause of {ANSWERS} streams {max(pauses):.2f} s (median {statistics.median(pauses):.2f} s; "
              f"undisturbed {self.undisturbed:.2f} s)", flush=True)
        return result

    def test_1_a_node_is_drained_and_comes_back(self):
        pid = next(s["pid"] for s in self.cluster.status()["stages"] if s["node"] == "node2")
        done = self.check_answers("drain", lambda: self.cluster.convoy("drain", "node2"))
        self.assertIn("node node2 is drained", done.stdout)
        self.assertEqual(self.on_nodes(), ["node1"])
        self.assertEqual((self.node("node2")["state"], self.node("node2")["health"]), ("drained", "ready"))
        self.assertFalse(alive(pid))
        self.check_answers("undrain", lambda: self.cluster.convoy("undrain", "node2"))
        self.assertEqual(self.on_nodes(), ["node1", "node2"])
        self.assertEqual(self.node("node2")["state"], "serving")

    def test_2_what_cannot_be_is_refused(self):
        for arguments, words in [(["drain", "nobody"], "there is no node nobody; there are node1, node2"),
                                 (["undrain", "node2"], "is not drained"),
                                 (["remove", "node2"], "drain it first"),
                                 (["add-node", "node2", "--listen", "127.0.0.1:1"], "another name")]:
            done = self.cluster.convoy(*arguments, check=False)
            self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
            self.assertIn(words, done.stderr)
        self.cluster.convoy("drain", "node2")
        done = self.cluster.convoy("drain", "node1", check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("no stage would be left", done.stderr)
        self.cluster.convoy("undrain", "node2")

    def test_3_another_head_knows_who_was_drained(self):
        self.cluster.convoy("drain", "node2")
        head = self.cluster.status()["gateway"]["pid"]
        subprocess.run(["kill", "-9", str(head)], check=True)
        wait_for(lambda: self.cluster.status()["gateway"]["pid"] not in (0, head), "another head is there")
        wait_for(self.cluster.ready, "it serves")
        self.assertEqual(self.on_nodes(), ["node1"])
        self.assertEqual(self.node("node2")["state"], "drained")
        self.cluster.convoy("undrain", "node2")
        self.assertEqual(self.on_nodes(), ["node1", "node2"])

    def test_4_a_node_that_the_head_did_not_know_joins_and_is_gone_again(self):
        port = free_port()
        config = self.cluster.dir / "joins.conf"
        text = self.cluster.config.read_text()
        config.write_text(text.replace(
            "nodes = [\n", f'nodes = [\n  {{ name = "node3", listen = "127.0.0.1:{port}", roles = [], stages = 1 }},\n'))
        type(self).joined = subprocess.Popen([BINARY, "node", "--config", config, "--name", "node3"],
                                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        done = self.check_answers(
            "join", lambda: self.cluster.convoy("add-node", "node3", "--listen", f"127.0.0.1:{port}", "--stages", "1"))
        self.assertIn("node node3 serves", done.stdout)
        self.assertEqual(self.on_nodes(), ["node1", "node2", "node3"])
        self.assertEqual(self.node("node3")["state"], "serving")
        self.assertIn("node3", self.cluster.convoy("status").stdout)

        def dies():
            self.joined.kill()
            self.joined.wait()
            wait_for(lambda: self.node("node3")["health"] == "down", "the head misses it")
            return self.cluster.convoy("remove", "node3")
        self.check_answers("a node dies and is removed", dies)
        self.assertIsNone(self.node("node3"))
        self.assertEqual(self.on_nodes(), ["node1", "node2"])

    def test_5_what_another_node_would_bring_can_be_asked(self):
        def measured():
            now = json.loads(self.cluster.convoy("plan", "--json").stdout)["now"]
            return now if now["tokens_per_s_full"] > 0 else answers_while(self.cluster) and None
        now = wait_for(measured, "stages' speeds are known")
        status = self.cluster.status()["stages"]
        self.assertEqual([(s["node"], s["first_layer"], s["last_layer"]) for s in now["stages"]],
                         [(s["node"], s["first_layer"], s["last_layer"]) for s in status])
        self.assertAlmostEqual(sum(s["step_us"] for s in now["stages"]), now["step_us"], delta=1)
        more = json.loads(self.cluster.convoy("plan", "--json", "--with", "mole=cpu:64GiB").stdout)["with"]
        self.assertEqual([s["node"] for s in more["stages"]], ["node1", "node2", "mole"])
        self.assertEqual(more["stages"][2]["last_layer"], status[-1]["last_layer"])
        self.assertGreater(more["tokens_per_s_full"], now["tokens_per_s_full"])
        card = json.loads(self.cluster.convoy("plan", "--json", "--with", "mole=cuda:80GiB:3350").stdout)["with"]
        # How many of the layers depends on how fast this machine is beside the card.
        layers = [s["last_layer"] - s["first_layer"] + 1 for s in card["stages"]]
        self.assertGreater(layers[2], layers[0] + layers[1])
        self.assertGreater(card["tokens_per_s_full"], more["tokens_per_s_full"])
        for wrong, words in (("mole", "no name"), ("mole=tpu:1GiB", "no device"), ("mole=cpu:much", "no size"),
                             ("mole=cuda:80GiB", "no such device was measured"), ("mole=cpu:1GiB:x", "GB/s")):
            refused = self.cluster.convoy("plan", "--with", wrong, check=False)
            self.assertEqual(refused.returncode, 3)
            self.assertIn(words, refused.stderr)
        self.assertIn("KV tokens", self.cluster.convoy("plan").stdout)

    def test_6_a_node_whose_model_cannot_be_read_says_so_and_has_no_part_in_the_plan(self):
        port = free_port()
        config = self.cluster.dir / "damaged.conf"
        (self.cluster.dir / "damaged.gguf").write_text("no model")
        config.write_text(re.sub(r'(?m)^model = .*', 'model = "damaged.gguf"', self.cluster.config.read_text()).replace(
            "nodes = [\n", f'nodes = [\n  {{ name = "node4", listen = "127.0.0.1:{port}", roles = [], stages = 1 }},\n'))
        node = subprocess.Popen([BINARY, "node", "--config", config, "--name", "node4"],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            done = self.cluster.convoy("add-node", "node4", "--listen", f"127.0.0.1:{port}", "--timeout-ms", "4000", check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn("node node4 is joining after 4000 ms", done.stderr)
            self.assertIn("damaged.gguf", done.stderr)
            self.assertNotIn("node4", self.on_nodes())
            self.assertTrue(self.cluster.ready())
        finally:
            node.terminate()
            node.wait(20)
        self.cluster.convoy("remove", "node4")


if __name__ == "__main__":
    unittest.main()
