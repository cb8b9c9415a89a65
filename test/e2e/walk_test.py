"""The walk through docs/several-machines.md, as an operator would take it: three machines (network namespaces), each
command of the page on the machine whose prompt stands before it, and its output held against the page's. Numbers, dates
and secrets differ from run to run; the words may not. `walk_test.py --print` prints the walk with what it sees.
"""
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from cluster import BINARY, GUARD, MODEL, PATIENCE_S, SKIPPED, SOURCE, wait_for
from machines import Network, possible

PAGE = SOURCE / "docs/several-machines.md"
MACHINES = ["quay", "mole", "pier"]
FOLDER, MODEL_PLACE = "/etc/convoy", "/srv/models/MODEL.gguf"  # as the page calls them
REQUEST = {"model": MODEL.stem, "prompt": "The lighthouse keeper wrote in his diary that", "max_tokens": 48, "temperature": 0,
           "ignore_eos": True, "return_token_ids": True}

# What differs from run to run: the longest kinds first.
VARIABLE = [(r"cvj1_(…|[\w-]+)", "TOKEN"), (r"\b20\d\d-\d\d-\d\d\b", "DATE"), (r"/tmp/\S+redis\.sock|run/redis\.sock", "SOCKET"),
            (r"\b\d+(\.\d+)?( (KB|MB|GB|KiB|MiB|GiB|ms|s|min|h|days))?\b", "N")]
LEFT_OUT = re.compile(r"stages: ")  # how far a start is


def walk():
    """Of the page's first transcript: what is done, and what is to be seen; ("quay", "convoy status …") or ("", "an action")."""
    block = re.search(r"```console\n(.*?)```", PAGE.read_text(), re.S)
    assert block, f"there is no transcript in {PAGE}"
    steps = []
    for line in block[1].splitlines():
        at = re.match(r"(\w+)\$ (.*)", line)
        if at:
            steps.append((at[1], at[2], []))
        elif line.startswith("# "):
            steps.append(("", line[2:], []))
        else:
            steps[-1][2].append(line)
    return steps


def comparable(lines):
    words = []
    for line in lines:
        for pattern, name in VARIABLE:
            line = re.sub(pattern, name, line)
        line = re.sub(r" +", " ", line).strip()
        if line and not LEFT_OUT.match(line):
            words.append(line)
    return words


def matches(seen, page):
    """A line of the page that ends in … says how it begins."""
    return len(seen) == len(page) and all(
        line.startswith(said[:-1]) if said.endswith("…") else line == said for line, said in zip(seen, page))


class Walk(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="convoy-walk-"))
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)
        self.network = Network()
        self.addCleanup(self.network.__exit__)
        self.machines = {}
        for name in MACHINES:
            machine = self.machines[name] = self.network.add()
            (self.dir / name).mkdir()
            # `convoy up` leaves processes behind: whatever ends this test ends them.
            guard = subprocess.Popen(machine.inside("sh", "-c", GUARD, BINARY, self.dir / name / "cluster.conf", self.dir / name),
                                     stdin=subprocess.PIPE, start_new_session=True)
            guard.wait()
            self.addCleanup(guard.stdin.close)
            self.addCleanup(self.convoy, name, "down", check=False)
        self.token = ""

    def convoy(self, name, *arguments, check=True):
        return self.machines[name].run(BINARY, *arguments, "--config", self.dir / name / "cluster.conf", check=check)

    def run_line(self, name, line):
        """What it prints, in the page's terms. The token is the one that was printed before."""
        line = re.sub(r"cvj1_…", self.token, line)
        words = [word.replace(FOLDER, str(self.dir / name)).replace(MODEL_PLACE, str(MODEL)) for word in line.split()]
        assert words[0] == "convoy", line
        done = self.machines[name].run(BINARY, *words[1:], check=False)
        text = done.stdout + done.stderr
        self.token = next(iter(re.findall(r"cvj1_[\w-]+", text)), self.token)
        return [part.replace(str(self.dir / name), FOLDER).replace(str(MODEL), MODEL_PLACE).replace(MODEL.stem, "MODEL")
                for part in text.splitlines()]

    def seen(self, machine, what, expected):
        """Of status again and again until it is what the page says: layers may move once more when speeds are known."""
        end = time.monotonic() + PATIENCE_S
        while True:
            lines = self.run_line(machine, what)
            if not what.startswith("convoy status") or not expected or time.monotonic() > end:
                return lines
            if matches(comparable(lines), comparable(expected)):
                return lines
            time.sleep(0.2)

    def status(self):
        return json.loads(self.convoy("quay", "status", "--json", check=False).stdout)

    def health(self, node):
        return next(n["health"] for n in self.status()["nodes"] if n["name"] == node)

    def loses_its_power(self):
        pids = [n["pid"] for n in self.status()["nodes"] if n["name"] == "mole"]
        self.machines["mole"].run("kill", "-9", *pids)
        wait_for(lambda: self.health("mole") == "down" and not self.status()["ready"], "the head has noticed")

    def all_serve(self):
        def settled():
            status = self.status()
            nodes = [node for node in status["nodes"] if node["state"] == "serving" and node["health"] == "ready"]
            return (status["ready"] and len(nodes) == len(status["nodes"]) == len(status["stages"])
                    and all(stage["health"] == "ready" for stage in status["stages"]))

        wait_for(settled, "each machine has its layers")

    ACTIONS = {"mole loses its power, and the head notices": loses_its_power, "the layers have moved": all_serve}

    def take(self, show):
        for machine, what, expected in walk():
            if not machine:
                self.ACTIONS[what](self)
                show(f"# {what}", [], [])
            else:
                show(f"{machine}$ {what}", self.seen(machine, what, expected), expected)

    def test_every_command_prints_what_the_page_says(self):
        answers, expected, over = [], [], threading.Event()

        def ask():
            while not over.is_set():
                status, text = self.machines["quay"].ask("POST", "http://127.0.0.1:8080/v1/completions", REQUEST)
                if status == 0 and not answers:
                    time.sleep(0.1)  # it is not up yet
                    continue
                answers.append(json.loads(text)["choices"][0]["token_ids"] if status == 200 else f"{status} {text}")

        client = threading.Thread(target=ask)

        def compare(command, seen, page):
            with self.subTest(command):
                if not matches(comparable(seen), comparable(page)):
                    self.assertEqual(comparable(seen), comparable(page))
            if command.startswith("quay$ convoy up"):
                client.start()
            if command.startswith("quay$ convoy remove"):
                over.set()  # before `down`
                client.join()

        try:
            self.take(compare)
        finally:
            over.set()
        expected = answers[0]
        self.assertIsInstance(expected, list)
        self.assertGreaterEqual(len(answers), 2)
        for answer in answers:
            self.assertEqual(answer, expected)
        print(f"{len(answers)} answers meanwhile, all the same", flush=True)


if __name__ == "__main__":
    if not possible() or not MODEL.exists():
        print("skipped: it makes networks, for which it has to be root, and needs the default model")
        raise SystemExit(SKIPPED)
    if sys.argv[1:] == ["--print"]:
        walker = Walk("take")
        walker.setUp()
        try:
            walker.seen = lambda machine, what, _: walker.run_line(machine, what)
            walker.take(lambda command, seen, _: print("\n".join([command, *seen]), flush=True))
        finally:
            walker.doCleanups()
        raise SystemExit(0)
    unittest.main()
