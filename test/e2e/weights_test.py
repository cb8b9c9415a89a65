"""A machine that has not the model's files fetches the weights of its layers from the head, keeps them, and serves the
same tokens. Machines are network namespaces: without root there are none.
"""
import json
import os
import pathlib
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import unittest

from cluster import BINARY, MODEL, SKIPPED, wait_for
from machines import Network, possible
from machines_test import Node

PROMPT = "The lighthouse keeper of Hiddensee wrote in his diary that"
TOKENS = 60


def children_of(pid):
    parents = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            pass  # it ended meanwhile
    return [child for child, parent in parents.items() if parent == pid]


class Weights(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = pathlib.Path(tempfile.mkdtemp(prefix="convoy-weights-"))
        cls.addClassCleanup(shutil.rmtree, cls.dir, ignore_errors=True)
        cls.network = Network()
        cls.addClassCleanup(cls.network.__exit__)
        cls.first, cls.second = cls.network.add(), cls.network.add()
        cls.config = cls.dir / "first/cluster.conf"
        cls.first.run(BINARY, "init", "--dir", cls.config.parent, "--model", MODEL, "--cluster", "harbour", "--name", "quay",
                      "--listen", f"{cls.first.address}:7411")
        cls.quay = Node(cls.first, cls.config, "quay")
        cls.addClassCleanup(cls.quay.end)
        wait_for(cls.ready, "the first machine serves")
        cls.expected = cls.answer()

    def run(self, result=None):
        before = len(result.failures) + len(result.errors)
        super().run(result)
        if len(result.failures) + len(result.errors) > before:
            for log in sorted(self.dir.glob("*/*.log")):
                print(f"---- {log}\n{log.read_text()[-6000:]}", flush=True)

    @classmethod
    def ready(cls):
        return cls.first.ask("GET", "http://127.0.0.1:8080/readyz", timeout=5)[0] == 200

    @classmethod
    def answer(cls):
        status, text = cls.first.ask("POST", "http://127.0.0.1:8080/v1/completions", {
            "model": MODEL.stem, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True,
            "return_token_ids": True})
        assert status == 200, text
        return json.loads(text)["choices"][0]["token_ids"]

    @classmethod
    def sent_bytes(cls):
        text = cls.first.ask("GET", "http://127.0.0.1:8080/metrics")[1]
        return int(float(re.search(r"^convoy_weights_sent_bytes_total (\S+)", text, re.M)[1]))

    def status(self):
        done = self.first.run(BINARY, "status", "--json", "--config", self.config, check=False)
        return json.loads(done.stdout)

    def node_state(self, name):
        return next((n for n in self.status()["nodes"] if n["name"] == name), {})

    def serves(self, name):
        return self.node_state(name).get("state") == "serving" and self.ready()

    def join(self, name, machine, settings=""):
        """A machine of its own, whose cluster.conf names a model that is not there."""
        there = self.dir / name
        token = self.first.run(BINARY, "token", "create", "--config", self.config).stdout.split()
        machine.run(BINARY, *token[1:], "--name", name, "--dir", there)
        config = there / "cluster.conf"
        text, count = re.subn(r'(?m)^(\s*model\s*=\s*).*$', r'\1"/nowhere/' + MODEL.name + '"', config.read_text(), count=1)
        assert count == 1
        config.write_text(text + settings)
        return config

    def start(self, name, machine):
        node = Node(machine, self.dir / name / "cluster.conf", name)
        self.addCleanup(self.leave, name, node)
        return node

    def leave(self, name, node):
        self.first.run(BINARY, "drain", name, "--config", self.config, check=False)
        node.end()
        self.first.run(BINARY, "remove", name, "--config", self.config, check=False)
        wait_for(self.ready, "the others serve")

    def fetched(self, name):
        """(bytes wanted, bytes received) of each time that layers were fetched."""
        log = (self.dir / name / f"{name}.log").read_text()
        return [(int(a), int(b)) for a, b in re.findall(r"weights.fetched .* bytes=(\d+) received=(\d+)", log)]

    def stored_bytes(self, name):
        return sum(f.stat().st_size for f in (self.dir / name / "store/tensors").glob("*") if f.is_file())

    def stage_pid(self, name):
        return next(s["pid"] for s in self.status()["stages"] if s["node"] == name)

    def test_a_machine_without_the_model_joins_and_serves_the_same_tokens(self):
        machine = self.network.add()
        self.join("mole", machine)
        before, began = self.sent_bytes(), time.monotonic()
        node = self.start("mole", machine)
        wait_for(lambda: self.serves("mole"), "the second machine serves")
        print(f"from start to serving {time.monotonic() - began:.1f} s", flush=True)
        self.assertEqual(self.answer(), self.expected)
        (wanted, received), = self.fetched("mole")
        self.assertEqual(wanted, received)
        self.assertEqual(self.sent_bytes() - before, received)
        self.assertLess(wanted, 0.8 * MODEL.stat().st_size)  # of its layers alone
        self.assertEqual(self.stored_bytes("mole"), wanted)

        # A second process of that stage, and a second start of its node, fetch nothing.
        killed = self.stage_pid("mole")
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: self.stage_pid("mole") not in (0, killed) and self.ready(), "another one serves")
        self.assertEqual(self.answer(), self.expected)
        node.kill()
        wait_for(lambda: not self.ready(), "the machine is missed")
        node = self.start("mole", machine)
        wait_for(lambda: self.serves("mole"), "it is back")
        self.assertEqual(self.answer(), self.expected)
        self.assertEqual(self.sent_bytes() - before, wanted)

    def slow(self, machine, mbit):
        """What comes to it over its cable. False where the kernel cannot."""
        done = machine.switch.run("tc", "qdisc", "replace", "dev", machine.port, "root", "tbf", "rate", f"{mbit}mbit",
                                  "burst", "256kb", "latency", "50ms", check=False)
        return done.returncode == 0

    def test_a_fetch_that_is_cut_goes_on_where_it_was(self):
        """kill -9 of the stage, of its node, and the cable."""
        machine = self.network.add()
        if not self.slow(machine, 100):
            self.skipTest("the kernel cannot make a slow cable")
        self.join("pier", machine)
        node = self.start("pier", machine)
        total = MODEL.stat().st_size

        def has(share):
            return lambda: self.stored_bytes("pier") > share * total if (self.dir / "pier/store/tensors").exists() else False

        wait_for(has(0.05), "something has come")
        progress = re.compile(r"stage 0 of pier fetches its layers: [\d.]+ .B of [\d.]+ .B, [\d.]+ .B/s, \d+ s left")
        wait_for(lambda: progress.match(self.node_state("pier").get("reason", "")), "status says how far it is")
        self.assertEqual(self.node_state("pier")["state"], "joining")
        stage, = children_of(node.process.pid)
        os.kill(stage, signal.SIGKILL)
        wait_for(has(0.15), "another process goes on")
        self.assertEqual(self.answer(), self.expected)  # and nobody waits
        node.kill()
        at = self.stored_bytes("pier")
        time.sleep(1)
        self.assertEqual(self.stored_bytes("pier"), at)
        before = self.sent_bytes()
        node = self.start("pier", machine)
        wait_for(has(0.3), "another node goes on")
        machine.plug(False)
        time.sleep(2)
        machine.plug(True)
        wait_for(lambda: self.serves("pier"), "the machine serves")
        self.assertEqual(self.answer(), self.expected)
        (wanted, received), = self.fetched("pier")
        self.assertEqual(received, wanted - at)  # to the byte
        self.assertLess(self.sent_bytes() - before, received + (16 << 20))  # what the cable lost was sent again

    def test_answers_go_on_while_a_machine_fetches(self):
        machine, over, wrong, gaps = self.network.add(), threading.Event(), [], []
        if not self.slow(machine, 100):
            self.skipTest("the kernel cannot make a slow cable")
        self.join("crow", machine)

        def ask():
            while not over.is_set():
                began = time.monotonic()
                if self.answer() != self.expected:
                    wrong.append("another answer")
                gaps.append(time.monotonic() - began)
        client = threading.Thread(target=ask)
        client.start()
        wait_for(lambda: len(gaps) >= 3, "answers come")
        usual, began = max(gaps), time.monotonic()
        node = self.start("crow", machine)
        try:
            wait_for(lambda: self.serves("crow"), "the machine serves")
            took = time.monotonic() - began
            time.sleep(1)
        finally:
            over.set()
            client.join()
        print(f"an answer takes {usual:.2f} s; the longest over a join that took {took:.1f} s: {max(gaps):.2f} s", flush=True)
        self.assertEqual(wrong, [])
        self.assertGreater(took, 3)
        self.assertLess(max(gaps), usual + 2)

    def test_another_model_is_refused(self):
        machine = self.network.add()
        config = self.join("gull", machine)
        other = self.dir / "gull" / MODEL.name
        data = bytearray(MODEL.read_bytes())
        data[-1] ^= 1
        other.write_bytes(data)
        config.write_text(config.read_text().replace("/nowhere/" + MODEL.name, str(other)))
        node = self.start("gull", machine)
        log = self.dir / "gull/gull.log"
        wait_for(lambda: "give all machines the same" in log.read_text(), "it is refused in words")
        self.assertFalse((self.dir / "gull/store").exists())
        self.assertTrue(self.ready())


if __name__ == "__main__":
    if not possible():
        print("skipped: only root makes networks")
        sys.exit(SKIPPED)
    unittest.main()
