"""What happens where a resource runs out: room on a disk, the model's file, descriptors, memory. Whoever lacks it says so,
no core is burnt meanwhile, and once it is there again the cluster goes on, or its start has failed with a message."""
import collections
import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import unittest

from cluster import BINARY, MODEL, SKIPPED, Cluster, alive, wait_for

FAILED, BAD_INPUT, UNAVAILABLE = 1, 3, 4
START_S = 60  # for a start that fails: so much less than pipeline.load_timeout_ms that it did not wait for that
ROOT = os.geteuid() == 0


def descriptors(pid):
    return len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir()))


def data_bytes(pid):
    return int(re.search(r"VmData:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) << 10


def core_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Limited:
    """A running process with a soft limit, taken back at the end."""

    def __init__(self, pid, which, value):
        self.pid, self.which, self.before = pid, which, resource.prlimit(pid, which)
        resource.prlimit(pid, which, (value, self.before[1]))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if alive(self.pid):
            resource.prlimit(self.pid, self.which, self.before)


class Scarce(unittest.TestCase):
    def answer(self):
        return self.cluster.completion(return_token_ids=True)[1]["choices"][0]["token_ids"]

    def log(self):
        return (self.cluster.dir / "run/node1.log").read_text()

    def pids(self):
        status = self.cluster.status()
        return status["nodes"][0]["pid"], status["gateway"]["pid"], [stage["pid"] for stage in status["stages"]]

    def use(self, cluster):
        """Ended and removed with the test."""
        self.cluster = cluster
        self.addCleanup(cluster.__exit__, os.environ.get("CONVOY_TEST_LOGS"))
        return cluster

    def small_disk(self, folder, size):
        folder.mkdir(mode=0o700, exist_ok=True)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", folder],
                          capture_output=True).returncode:
            self.skipTest("no mounts here")
        self.addCleanup(subprocess.run, ["umount", "-l", folder], check=True)

    def fails_to_start(self, code, *texts, **limits):
        """Soon, in words, without a fault of ours, and with nothing left behind."""
        began = time.monotonic()
        def limit():
            for which, value in limits.items():
                resource.setrlimit(getattr(resource, which), (value, value))
        up = subprocess.run([BINARY, "up", "--config", self.cluster.config], capture_output=True, text=True, timeout=120,
                            preexec_fn=limit)
        self.assertIn(up.returncode, code if isinstance(code, tuple) else (code,), up.stderr)
        for text in texts:
            self.assertIn(text, up.stderr)
        self.assertNotIn("Assertion", up.stderr)
        self.assertNotIn("internal fault", up.stderr)
        self.assertLess(time.monotonic() - began, START_S)
        self.assertIn("not running", self.cluster.convoy("down").stdout)
        return up.stderr


@unittest.skipUnless(ROOT, "root mounts a small disk")
class Disk(Scarce):
    def test_a_second_tier_that_has_no_room_is_said_at_the_start(self):
        self.use(Cluster(stages=1, stage={"threads": 1, "kv_disk_bytes": 64 << 20, "kv_disk_dir": "kv"}))
        self.small_disk(self.cluster.dir / "kv", "8m")
        self.fails_to_start(UNAVAILABLE, "bytes for KV blocks cannot be had: No space left on device",
                            "lower stage.kv_disk_bytes")

    def test_on_a_full_disk_all_are_replaced_and_serve(self):
        self.use(Cluster(stages=1, stage={"threads": 1}))
        run = self.cluster.dir / "run"
        self.small_disk(run, "3m")
        self.cluster.up()
        expected = self.answer()
        with self.assertRaises(OSError), open(run / "filler", "wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        _, head, (stage,) = self.pids()
        redis = self.cluster.status()["redis"]["pid"]
        os.kill(stage, signal.SIGKILL)
        self.cluster.wait_for_successor(stage)
        self.assertEqual(self.answer(), expected)
        os.kill(redis, signal.SIGKILL)
        wait_for(lambda: self.cluster.status()["redis"]["pid"] not in (0, redis), "another Redis runs")
        os.kill(head, signal.SIGKILL)
        wait_for(lambda: not alive(head), "it is gone")
        wait_for(self.cluster.ready, "the next head serves")
        self.assertEqual(self.answer(), expected)
        for _ in range(60):  # more lines than the rest of the log's last page takes
            self.cluster.completion(max_tokens=1)
        self.assertGreater(self.cluster.metric("convoy_log_lines_lost_total"), 0)
        self.cluster.convoy("down")
        self.fails_to_start(BAD_INPUT, "the disk of cluster.run_dir is full")
        (run / "filler").unlink()
        self.cluster.up()
        self.assertEqual(self.answer(), expected)


class Model(Scarce):
    def test_a_file_that_is_shortened_while_it_is_used_costs_no_answer_once_it_is_whole_again(self):
        cluster = Cluster(stages=2, stage={"threads": 1})
        model = cluster.dir / "model.gguf"
        shutil.copyfile(MODEL, model)
        cluster.config.write_text(cluster.config.read_text().replace(str(MODEL), str(model)))
        cluster.model = model
        self.use(cluster).up()
        node, head, _ = self.pids()
        expected, late = self.answer(), {}
        os.truncate(model, MODEL.stat().st_size // 3)
        self.assertEqual(self.answer(), expected)  # stages have copies
        cluster.signal_stage(0, signal.SIGKILL)
        wait_for(lambda: not cluster.ready(), "the loss is noticed")
        asking = threading.Thread(target=lambda: late.update(tokens=self.answer()))
        asking.start()
        wait_for(lambda: "the file is damaged or incomplete" in self.log(), "the next process says where")
        self.assertFalse(cluster.ready())
        shutil.copyfile(MODEL, model)
        asking.join(60)
        self.assertEqual(late.get("tokens"), expected)
        self.assertEqual(self.pids()[:2], (node, head))


class Descriptors(Scarce):
    def test_a_start_with_too_few_says_so(self):
        for count in (4, 5, 7, 12):
            with self.subTest(descriptors=count):
                self.cluster = Cluster(stages=1, stage={"threads": 1}, cache={"enabled": False})
                try:
                    said = self.fails_to_start((FAILED, BAD_INPUT, UNAVAILABLE), RLIMIT_NOFILE=count)
                    self.assertRegex(said, "Too many open files")
                finally:
                    self.cluster.__exit__(None)

    def test_a_head_without_any_answers_burns_no_core_and_links_again_later(self):
        self.use(Cluster(stages=1, stage={"threads": 1})).up()
        expected = self.answer()
        _, head, (stage,) = self.pids()
        with Limited(head, resource.RLIMIT_NOFILE, descriptors(head)):
            lines, took, began = len(self.log().splitlines()), core_seconds(head), time.monotonic()
            os.kill(stage, signal.SIGKILL)  # the next one cannot link
            wait_for(lambda: "link.accept_failed" in self.log(), "it says that it can accept nobody")
            for _ in range(20):
                self.assertEqual(self.cluster.get("/readyz")[0], 503)
                time.sleep(0.1)
            self.assertLess(core_seconds(head) - took, 0.25 * (time.monotonic() - began))
            self.assertLess(len(self.log().splitlines()) - lines, 80)
        wait_for(self.cluster.ready, "ready again")
        self.assertEqual(self.answer(), expected)
        self.assertEqual(self.pids()[1], head)

    def test_a_node_without_any_replaces_its_stage_and_its_head_all_the_same(self):
        self.use(Cluster(stages=1, stage={"threads": 1})).up()
        expected = self.answer()
        node, head, (stage,) = self.pids()
        with Limited(node, resource.RLIMIT_NOFILE, 4):
            took, began = core_seconds(node), time.monotonic()
            os.kill(stage, signal.SIGKILL)
            wait_for(lambda: "supervisor.ended stage=0" in self.log(), "it notices, with no descriptor of the process")
            os.kill(head, signal.SIGKILL)
            wait_for(lambda: not alive(head), "it is gone")
            wait_for(self.cluster.ready, "ready again")
            self.assertEqual(self.answer(), expected)
            self.assertLess(core_seconds(node) - took, 0.25 * (time.monotonic() - began) + 0.1)
        self.assertTrue(alive(node))


class Memory(Scarce):
    def test_a_start_with_too_little_says_so(self):
        for mib in (300, 800):
            with self.subTest(mib=mib):
                self.cluster = Cluster(stages=1, stage={"threads": 1}, cache={"enabled": False})
                try:
                    said = self.fails_to_start((FAILED, BAD_INPUT, UNAVAILABLE), RLIMIT_AS=mib << 20)
                    self.assertRegex(said, "ulimit -v|out of memory|no memory is left|weights take|"
                                           "Resource temporarily unavailable")
                finally:
                    self.cluster.__exit__(None)

    def test_a_stage_that_has_none_is_replaced_and_no_request_is_lost(self):
        self.use(Cluster(stages=2, stage={"threads": 1})).up()
        prompt = {"prompt": "word " * 700, "max_tokens": 4, "return_token_ids": True}
        node, head, (first, second) = self.pids()
        with Limited(first, resource.RLIMIT_DATA, data_bytes(first)):
            _, answer = self.cluster.completion(**prompt)
        self.assertIn("out of memory", self.log())
        wait_for(self.cluster.ready, "ready again")
        self.assertEqual(self.cluster.completion(**prompt)[1]["choices"][0]["token_ids"], answer["choices"][0]["token_ids"])
        after = self.pids()
        self.assertEqual((after[0], after[1], after[2][1]), (node, head, second))
        self.assertNotEqual(after[2][0], first)

    def test_a_gateway_that_has_none_for_large_requests_refuses_them_and_lives(self):
        self.use(Cluster(stages=1, stage={"threads": 1})).up()
        expected = self.answer()
        _, head, _ = self.pids()
        def ask(i):
            body = {"model": self.cluster.model_id(), "prompt": "word " * 50_000 * (i % 12 + 1), "max_tokens": 1}
            with contextlib.closing(self.cluster.connect(10)) as connection:
                try:
                    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
                    return connection.getresponse().status
                except TimeoutError:
                    return "silence"
                except OSError:
                    return "cut"  # there was no memory to say it in
        with Limited(head, resource.RLIMIT_DATA, data_bytes(head)), concurrent.futures.ThreadPoolExecutor(24) as pool:
            statuses = collections.Counter(pool.map(ask, range(96)))
        print(f"large requests without memory: {dict(statuses)}", flush=True)
        self.assertGreater(statuses[503], 10)
        self.assertLessEqual(statuses.keys(), {"cut", 400, 413, 503})
        self.assertEqual(self.answer(), expected)
        self.assertEqual(self.pids()[1], head)


if __name__ == "__main__":
    if not MODEL.exists():
        print(f"skipped: no model at {MODEL}; scripts/fetch-model fetches it")
        sys.exit(SKIPPED)
    unittest.main(verbosity=2)
