"""A second machine, without the model, serves HTTPS with a gateway of its own: what docs/several-machines.md says of it, and
that its streams outlive the head and the cable. Machines are network namespaces: without root there are none.
"""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from cluster import BINARY, MODEL, PATIENCE_S, SKIPPED, wait_for
from machines import Network, possible
from machines_test import Node

PROMPT = "The lighthouse keeper of Hiddensee wrote in his diary that"
TOKENS = 200

# In a process of its own: only a whole process moves into another namespace. Says when the first tokens came.
ASK = """
import http.client, json, ssl, sys
host, authority, key, method, path, body = sys.argv[1:]
connection = http.client.HTTPSConnection(host, 8080, timeout=60, context=ssl.create_default_context(cafile=authority))
connection.request(method, path, body or None, {"Content-Type": "application/json", "Cache-Control": "no-store",
                                                **({"Authorization": "Bearer " + key} if key else {})})
response = connection.getresponse()
if not (response.getheader("content-type") or "").startswith("text/event-stream"):
    print(json.dumps({"status": response.status, "text": response.read().decode()}))
    sys.exit()
ids, done = [], False
for line in response:
    line = line.decode().rstrip()
    done = done or line == "data: [DONE]"
    if line.startswith("data: {"):
        for choice in json.loads(line[6:])["choices"]:
            fresh = choice.get("token_ids") or []
            if fresh and not ids:
                print("begun", flush=True)
            ids += fresh
print(json.dumps({"status": response.status, "ids": ids, "done": done}))
"""


class Https(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = pathlib.Path(tempfile.mkdtemp(prefix="convoy-gateways-"))
        cls.addClassCleanup(shutil.rmtree, cls.dir, ignore_errors=True)
        cls.network = Network()
        cls.addClassCleanup(cls.network.__exit__)
        cls.first, cls.second = cls.network.add(), cls.network.add()
        cls.config, there = cls.dir / "first/cluster.conf", cls.dir / "second"
        made = cls.first.run(BINARY, "init", "--dir", cls.config.parent, "--model", MODEL, "--name", "quay", "--listen",
                             f"{cls.first.address}:7411", "--http", f"{cls.first.address}:8080", "--http-name",
                             cls.first.address, "--http-name", cls.second.address).stdout
        cls.key = next(line for line in made.splitlines() if line.startswith("cvk1_"))
        cls.authority = cls.config.parent / "tls/ca.pem"
        cls.quay = Node(cls.first, cls.config, "quay")
        cls.addClassCleanup(lambda: cls.quay.end())
        wait_for(lambda: cls.ready(cls.first), "the first machine serves")
        token = cls.first.run(BINARY, "token", "create", "--config", cls.config).stdout.split()
        cls.second.run(BINARY, *token[1:], "--name", "mole", "--dir", there, "--http", f"{cls.second.address}:8080")
        config = there / "cluster.conf"
        config.write_text(re.sub(r"(?m)^(\s*model\s*=\s*).*$", r'\1"/nowhere/' + MODEL.name + '"', config.read_text(), count=1))
        shutil.copytree(cls.config.parent / "tls/gateway", there / "tls/gateway")
        cls.mole = Node(cls.second, config, "mole")
        cls.addClassCleanup(lambda: cls.mole.end())
        try:
            wait_for(cls.both_serve, "both machines serve")
        except AssertionError:
            cls.show_logs()
            raise
        cls.expected = cls.finish(cls.stream(cls.first))["ids"]
        assert len(cls.expected) == TOKENS

    @classmethod
    def show_logs(cls):
        for log in sorted(cls.dir.glob("*/*.log")):
            print(f"---- {log.name}\n{log.read_text()[-5000:]}", flush=True)

    def run(self, result=None):
        before = len(result.failures) + len(result.errors)
        super().run(result)
        if len(result.failures) + len(result.errors) > before:
            self.show_logs()

    def setUp(self):
        wait_for(self.both_serve, "both machines serve")

    @classmethod
    def ask(cls, machine, method, path, body=None, key=None):
        done = machine.run(sys.executable, "-c", ASK, machine.address, cls.authority, cls.key if key is None else key, method,
                           path, json.dumps(body) if body else "", check=False)
        return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"status": 0, "text": done.stderr}

    @classmethod
    def ready(cls, machine):
        return cls.ask(machine, "GET", "/readyz")["status"] == 200

    @classmethod
    def status(cls):
        return json.loads(cls.first.run(BINARY, "status", "--json", "--config", cls.config, check=False).stdout)

    @classmethod
    def both_serve(cls):
        return cls.ready(cls.first) and cls.ready(cls.second) and len(cls.status()["stages"]) == 2

    @classmethod
    def stream(cls, machine):
        body = {"model": MODEL.stem, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True,
                "return_token_ids": True, "stream": True}
        return machine.start(sys.executable, "-c", ASK, machine.address, cls.authority, cls.key, "POST", "/v1/completions",
                             json.dumps(body), stdout=subprocess.PIPE, text=True)

    @classmethod
    def finish(cls, client):
        out, _ = client.communicate(timeout=PATIENCE_S)
        return json.loads(out.splitlines()[-1])

    def answer_while(self, hurt):
        client = self.stream(self.second)
        self.assertEqual(client.stdout.readline(), "begun\n")
        time.sleep(0.1)
        self.assertIsNone(client.poll(), "it is in mid-answer")
        hurt()
        answer = self.finish(client)
        self.assertEqual(answer["ids"], self.expected)
        self.assertTrue(answer["done"])

    def test_the_second_gateway_answers_as_the_first_and_status_lists_it(self):
        self.assertEqual(self.finish(self.stream(self.second))["ids"], self.expected)
        text = self.ask(self.second, "POST", "/v1/chat/completions", {
            "model": MODEL.stem, "max_tokens": 8, "temperature": 0, "messages": [{"role": "user", "content": "Hi"}]})
        self.assertEqual(text["status"], 200)
        def gateway():
            return next((g for g in self.status()["gateways"] if g["node"] == "mole"), {})
        wait_for(lambda: gateway().get("ready"), "status says that it is ready")
        self.assertEqual(gateway()["url"], f"https://{self.second.address}:8080")

    def test_keys_of_the_heads_machine_count_there(self):
        self.assertEqual(self.ask(self.second, "GET", "/v1/models", key="")["status"], 401)
        key = self.first.run(BINARY, "key", "create", "--config", self.config).stdout.strip()
        wait_for(lambda: self.ask(self.second, "GET", "/v1/models", key=key)["status"] == 200, "a new key counts")
        self.first.run(BINARY, "key", "revoke", key.split("_")[1], "--config", self.config)
        wait_for(lambda: self.ask(self.second, "GET", "/v1/models", key=key)["status"] == 401, "and counts no more")

    def test_a_stream_outlives_the_head(self):
        head = self.status()["gateway"]["pid"]
        self.answer_while(lambda: os.kill(head, signal.SIGKILL))

    def test_a_stream_outlives_the_cable(self):
        def hurt():
            self.second.plug(False)
            time.sleep(2)
            self.second.plug(True)
        self.answer_while(hurt)


if __name__ == "__main__":
    if not MODEL.exists() or not possible():
        print("skipped: no model, or this user cannot make network namespaces")
        sys.exit(SKIPPED)
    unittest.main(verbosity=2)
