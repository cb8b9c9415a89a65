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
        cls.run_on_first("ca", "issue", "mole", "--config", cls.config)
        there = cls.dir / "second"
        (there / "tls").mkdir(parents=True, mode=0o700)
        shutil.copy(cls.config, there)
        for name in "ca.pem", "mole.pem", "mole.key":
            shutil.copy(cls.config.parent / "tls" / name, there / "tls")
        cls.wire = Wire(cls.second, cls.dir / "wire")
        cls.quay = Node(cls.first, cls.config, "quay")
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
    def answer(cls, port=8080):
        status, text = cls.first.ask("POST", f"http://127.0.0.1:{port}/v1/completions", {
            "model": MODEL.stem, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True,
            "return_token_ids": True})
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

    def test_a_machine_without_the_head_says_where_it_is(self):
        done = self.second.run(BINARY, "status", "--config", self.mole.config, check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("quay", done.stdout + done.stderr)

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
        for secret in [PROMPT, text[:40], text[-40:], "harbour", "quay", "mole", MODEL.stem, "CNVY"]:
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
