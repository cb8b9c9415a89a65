"""Node, head, stage or Redis is killed (-9) at a random moment of a start, of serving with a second tier on disk, or of an
end: whatever it was doing, the next `convoy up` works, and the cluster answers as it always does.

CONVOY_KILL_SEED repeats a run's choices, CONVOY_KILLS says how many kills there are."""
import collections
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time
import unittest

from cluster import BINARY, MODEL, SKIPPED, Cluster, Stream, alive, wait_for

KILLS = int(os.environ.get("CONVOY_KILLS", 36))
SEED = int(os.environ.get("CONVOY_KILL_SEED", time.time()))
VICTIMS = ("node", "head", "stage", "redis")
# Room for 15 blocks of 64 tokens, so that each text pushes out the one before.
PIPELINE = {"kv_tokens": 1024, "context_tokens_max": 768, "sequences_max": 2}
TEXTS = [" ".join(f"{word} {i} of the {word}s," for i in range(60)) for word in ("ship", "house", "river")]


def processes(cluster):
    """Of this cluster, by kind: {"node": [pid], …}."""
    found = {kind: [] for kind in VICTIMS}
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if len(words) > 1 and words[1] in found and str(cluster.config) in words:
                found[words[1]].append(int(entry.name))
            elif "redis-server" in words[0] and os.readlink(entry / "cwd") == str(cluster.dir / "run"):
                found["redis"].append(int(entry.name))
        except OSError:
            pass  # it ended meanwhile
    return found


class Kill(unittest.TestCase):
    def start(self, command):
        return subprocess.Popen([BINARY, command, "--config", self.cluster.config], stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)

    def answer(self, text, max_tokens=8):
        _, answer = self.cluster.completion(prompt=text, max_tokens=max_tokens, return_token_ids=True)
        return answer["choices"][0]["token_ids"]

    def kill_one(self):
        """Of which kind it was; None if none is there."""
        there = {kind: pids for kind, pids in processes(self.cluster).items() if pids}
        if not there:
            return None
        victim = self.chance.choice(sorted(there))
        pid = self.chance.choice(sorted(there[victim]))
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return None
        wait_for(lambda: not alive(pid), "it is gone")
        return victim

    def hurt_start(self):
        """It may fail, but then it says so and leaves nothing running."""
        self.cluster.convoy("down")
        up = self.start("up")
        time.sleep(self.chance.uniform(0.01, 1.2 * self.start_s))
        hit = self.kill_one()
        said, _ = up.communicate(timeout=120)
        if up.returncode != 0:
            self.assertIn("what was started is ended", said)
            wait_for(lambda: not any(processes(self.cluster).values()), "nothing is left of it")
        return hit

    def hurt_serving(self):
        asking = [threading.Thread(target=self.ask, args=(text,)) for text in TEXTS]
        for thread in asking:
            thread.start()
        time.sleep(self.chance.uniform(0, 1))
        hit = self.kill_one()
        for thread in asking:
            thread.join(120)
        if hit and hit != "node":
            wait_for(self.cluster.ready, "it is ready by itself")
            self.assertEqual(self.answer(TEXTS[0]), self.expected[0])
        return hit

    def ask(self, text):
        """Some client, who may see anything but a wrong token at the end of an answer that looks whole."""
        tokens = []
        try:
            stream = Stream(self.cluster, "/v1/completions", {
                "model": self.cluster.model_id(), "prompt": text, "max_tokens": 8, "temperature": 0,
                "return_token_ids": True}, {"Cache-Control": "no-store"})
            for event in stream.events():
                for choice in event.get("choices", ()):
                    tokens += choice.get("token_ids") or []
        except Exception:
            return
        if stream.done and tokens != self.expected[TEXTS.index(text)]:
            self.wrong.append(tokens)

    def hurt_end(self):
        down = self.start("down")
        time.sleep(self.chance.uniform(0, 0.1))
        hit = self.kill_one()
        said, _ = down.communicate(timeout=120)
        self.assertEqual(down.returncode, 0, said)
        wait_for(lambda: not any(processes(self.cluster).values()), "nothing is left of it")
        return hit

    def test_whoever_is_killed_and_whenever_the_next_start_works(self):
        print(f"CONVOY_KILL_SEED={SEED} CONVOY_KILLS={KILLS}", flush=True)
        self.chance, self.wrong, kills = random.Random(SEED), [], collections.Counter()
        self.cluster = Cluster(stages=2, stage={"threads": 1, "kv_disk_bytes": 32 << 20}, pipeline=PIPELINE,
                               gateway={"drain_timeout_ms": 1000})
        self.addCleanup(self.cluster.__exit__, None)
        began = time.monotonic()
        self.cluster.up()
        self.start_s = time.monotonic() - began
        self.expected = [self.answer(text) for text in TEXTS]
        phases = {"start": self.hurt_start, "serving": self.hurt_serving, "end": self.hurt_end}
        for number in range(2 * KILLS):  # some come too late to hit anybody
            if kills.total() == KILLS:
                break
            phase = self.chance.choice(sorted(phases))
            hit = phases[phase]()
            if hit:
                kills[f"{hit} at {phase}"] += 1
            with self.subTest(number=number, phase=phase, killed=hit):
                if not processes(self.cluster)["node"]:
                    self.cluster.up()
                wait_for(self.cluster.ready, "it serves")
                self.assertEqual(self.answer(TEXTS[number % len(TEXTS)]), self.expected[number % len(TEXTS)])
        print(dict(kills), flush=True)
        self.assertEqual(self.wrong, [])
        self.assertEqual(kills.total(), KILLS)


if __name__ == "__main__":
    if not MODEL.exists():
        print(f"skipped: no model at {MODEL}; scripts/fetch-model fetches it")
        sys.exit(SKIPPED)
    unittest.main(verbosity=2)
