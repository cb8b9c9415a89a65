"""Two machines, one cluster: what docs/several-machines.md says, with nothing in the clear on the cable between them, and
answers that outlive a stage, a machine and the cable. Machines are network namespaces: without root there are none.
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from cluster import BINARY, MODEL, PATIENCE_S, SKIPPED, wait_for
from machines import Network, Wire, possible

PROMPT = "The lighthouse keeper of Hiddensee wrote in his diary that"
TOKENS = 120
ROUGH_TOKENS = 30
# Until a connection that nobody listens for is refused: the least of some, in seconds.
ROUND_TRIP = """
import socket, sys, time
def once():
    began = time.monotonic()
    with socket.socket() as s:
        s.connect_ex((sys.argv[1], 1))
    return time.monotonic() - began
print(min(once() for _ in range(3)))
"""


class Node:
    """A node's process on its machine."""

    def __init__(self, machine, config, name):
        self.machine, self.config, self.name = machine, config, name
        with open(config.parent / f"{name}.log", "ab") as log:
            self.process = machine.start(BINARY, "node", "--name", name, "--config", config, stdout=log, stderr=log)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def end(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()


class SeveralMachines(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = pathlib.Path(tempfile.mkdtemp(prefix="convoy-machines-"))
        cls.addClassCleanup(shutil.rmtree, cls.dir, ignore_errors=True)
        cls.network = Network()
        cls.addClassCleanup(cls.network.__exit__)
        cls.first, cls.second = cls.network.add(), cls.network.add()
        cls.config = cls.dir / "first/cluster.conf"
        cls.run_on_first("init", "--dir", cls.config.parent, "--model", MODEL, "--cluster", "harbour", "--name", "quay",
                         "--listen", f"{cls.first.address}:7411")
        other = f'  {{ name = "mole", listen = "{cls.second.address}:7411", roles = [], stages = 1 }}\n]'
        cls.config.write_text(cls.config.read_text().replace("  }\n]", "  },\n" + other))
        there = cls.dir / "second"
        cls.wire = Wire(cls.second, cls.dir / "wire")
        cls.quay = Node(cls.first, cls.config, "quay")
        cls.token = cls.run_on_first("token", "create", "--config", cls.config).stdout.split()
        join = [BINARY, *cls.token[1:], "--name", "mole", "--dir", there]
        wait_for(lambda: cls.second.run(*join, check=False).returncode == 0, "the second machine joins")
        cls.mole = Node(cls.second, there / "cluster.conf", "mole")
        cls.addClassCleanup(lambda: [node.end() for node in (cls.mole, cls.quay)])
        try:
            wait_for(cls.ready, "both machines serve")
        except AssertionError:
            cls.show_logs()
            raise
        cls.expected = cls.answer()

    @classmethod
    def show_logs(cls):
        for log in sorted(cls.dir.glob("*/*.log")):
            print(f"---- {log.name}\n{log.read_text()[-4000:]}", flush=True)

    @classmethod
    def run_on_first(cls, command, *arguments):
        return cls.first.run(BINARY, command, *arguments)

    @classmethod
    def ready(cls, port=8080):
        return cls.first.ask("GET", f"http://127.0.0.1:{port}/readyz", timeout=5)[0] == 200

    @classmethod
    def answer(cls, port=8080, tokens=TOKENS, timeout=60):
        status, text = cls.first.ask("POST", f"http://127.0.0.1:{port}/v1/completions", {
            "model": MODEL.stem, "prompt": PROMPT, "max_tokens": tokens, "temperature": 0, "ignore_eos": True,
            "return_token_ids": True}, timeout)
        assert status == 200, text
        return json.loads(text)["choices"][0]

    def answer_while(self, hurt):
        """An answer in the middle of which something happens."""
        answers, failures = [], []

        def ask():
            try:
                answers.append(self.answer())
            except Exception as e:
                failures.append(e)

        client = threading.Thread(target=ask)
        client.start()
        time.sleep(0.25)
        self.assertTrue(client.is_alive(), "the answer came before anything happened")
        hurt()
        client.join(PATIENCE_S)
        self.assertEqual(failures, [])
        self.assertEqual(answers[0]["token_ids"], self.expected["token_ids"])
        wait_for(self.ready, "ready again")

    def test_an_answer_over_a_cable_that_loses_and_delays_is_the_same(self):
        with self.second.rough(loss=0.05, delay_ms=50):
            pings = self.first.run("python3", "-c", ROUND_TRIP, self.second.address)
            self.assertGreaterEqual(float(pings.stdout), 0.1)  # it is rough
            began = time.monotonic()
            answer = self.answer(tokens=ROUGH_TOKENS, timeout=150)  # leases end now and then
            print(f"{ROUGH_TOKENS} tokens over a rough cable took {time.monotonic() - began:.1f} s", flush=True)
            self.assertEqual(answer["token_ids"], self.expected["token_ids"][:ROUGH_TOKENS])
        wait_for(self.ready, "ready again")
        self.assertEqual(self.answer()["token_ids"], self.expected["token_ids"])

    def stages(self):
        return json.loads(self.run_on_first("status", "--json", "--config", self.config).stdout)["stages"]

    def test_answers_are_those_of_one_machine(self):
        alone = self.dir / "alone"
        self.first.run(BINARY, "init", "--dir", alone, "--model", MODEL, "--listen", "127.0.0.1:7500", "--http", "127.0.0.1:8081",
                       "--stages", 2)
        node = Node(self.first, alone / "cluster.conf", "node1")
        try:
            wait_for(lambda: self.ready(8081), "one machine serves")
            self.assertEqual(self.answer(8081)["token_ids"], self.expected["token_ids"])
        finally:
            node.end()

    def test_a_machine_without_the_head_asks_it(self):
        began = time.monotonic()
        done = self.second.run(BINARY, "status", "--config", self.mole.config)
        print(f"status of another machine took {1000 * (time.monotonic() - began):.0f} ms", flush=True)
        self.assertIn("READY", done.stdout)
        for node in "quay", "mole":
            line = next(line for line in done.stdout.splitlines() if line.startswith("node") and node in line)
            self.assertRegex(line, r"ready .*, certificate until 20\d\d-\d\d-\d\d$")

    def nodes(self):
        """What each has in the plan, whether all are ready or not."""
        status = self.first.run(BINARY, "status", "--json", "--config", self.config, check=False)
        return {node["name"]: node.get("state") for node in json.loads(status.stdout)["nodes"]}

    def test_a_machine_that_no_file_lists_joins_by_a_token_and_leaves(self):
        third, there, wrong = self.network.add(), self.dir / "third", []
        over = threading.Event()

        def ask():
            while not over.is_set():
                if self.answer()["token_ids"] != self.expected["token_ids"]:
                    wrong.append("another answer")

        def client():
            try:
                ask()
            except Exception as e:
                wrong.append(e)

        clients = [threading.Thread(target=client) for _ in range(4)]
        for one in clients:
            one.start()
        token = self.run_on_first("token", "create", "--config", self.config).stdout.split()
        began = time.monotonic()
        third.run(BINARY, *token[1:], "--name", "pier", "--dir", there)
        self.assertEqual(self.nodes()["pier"], "joining")
        pier = Node(third, there / "cluster.conf", "pier")
        try:
            wait_for(lambda: self.nodes()["pier"] == "serving" and self.ready(), "the third machine serves")
            print(f"from `convoy join` to serving {time.monotonic() - began:.1f} s", flush=True)
            self.assertEqual(len(self.stages()), 3)
            time.sleep(1)
            self.assertIn("is drained", self.run_on_first("drain", "pier", "--config", self.config).stdout)
            self.assertEqual({s["node"] for s in self.stages()}, {"quay", "mole"})
        finally:
            pier.end()
            over.set()
            for one in clients:
                one.join()
        self.assertEqual(wrong, [])
        self.run_on_first("remove", "pier", "--config", self.config)
        self.assertNotIn("pier", self.nodes())

    def test_a_stage_of_the_other_machine_is_killed(self):
        pid = next(s["pid"] for s in self.stages() if s["node"] == "mole")
        self.answer_while(lambda: os.kill(pid, signal.SIGKILL))

    def test_the_other_machine_dies_and_comes_back(self):
        def hurt():
            self.mole.kill()
            type(self).mole = Node(self.second, self.mole.config, "mole")
        self.answer_while(hurt)

    def test_the_cable_is_out_for_a_while(self):
        def hurt():
            self.second.plug(False)
            time.sleep(3)
            self.second.plug(True)
        self.answer_while(hurt)

    def test_revoked_machine_is_out_until_it_has_another_certificate(self):
        self.run_on_first("ca", "revoke", "mole", "--config", self.config)
        wait_for(lambda: not self.ready(), "the machine is out", 10)
        time.sleep(2)
        self.assertFalse(self.ready())
        node = next(n for n in json.loads(self.first.run(BINARY, "status", "--json", "--config", self.config, check=False).stdout)["nodes"]
                    if n["name"] == "mole")
        self.assertEqual(node["health"], "down")
        self.run_on_first("ca", "issue", "mole", "--config", self.config)
        for name in "mole.pem", "mole.key":
            shutil.copy(self.config.parent / "tls" / name, self.mole.config.parent / "tls")
        wait_for(self.ready, "it is back")
        self.assertEqual(self.answer()["token_ids"], self.expected["token_ids"])

    def test_zz_nothing_went_over_the_cable_in_the_clear(self):
        """The last one: it looks at all that the others said."""
        seen = self.wire.seen()
        self.assertGreater(len(seen), 100_000)
        text = self.expected["text"]
        for secret in [PROMPT, text[:40], text[-40:], "harbour", "quay", "mole", MODEL.stem, "CNVY", self.token[-1]]:
            self.assertNotIn(secret.encode(), seen)
        ids = self.expected["token_ids"]
        for width in 2, 4:
            packed = b"".join(i.to_bytes(width, "little") for i in ids[:4])
            self.assertNotIn(packed, seen)


if __name__ == "__main__":
    if not possible():
        print("skipped: only root makes networks")
        sys.exit(SKIPPED)
    unittest.main()
