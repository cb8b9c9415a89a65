"""Two checkouts on one machine, and what goes wrong around a start: no command touches what is not its own."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from cluster import BINARY, MODEL, PATIENCE_S, SKIPPED, Cluster, alive, free_port, wait_for


def node_pid(cluster):
    """Of the head's process, from the only place that an outsider may believe: the system's process list."""
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if len(words) > 3 and words[1] == b"node" and str(cluster.config).encode() in words and alive(process.name):
            return int(process.name)
    return None


def popen(cluster, *command):
    return subprocess.Popen([BINARY, *command, "--config", cluster.config], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True)


class Foreign(unittest.TestCase):
    """A cluster of another checkout has our port and our name."""

    @classmethod
    def setUpClass(cls):
        cls.port = free_port()
        cls.theirs = Cluster(nodes=[("node1", cls.port, True, 1)]).__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.theirs.__exit__(None)

    def setUp(self):
        self.ours = Cluster(nodes=[("node1", self.port, True, 1)])

    def tearDown(self):
        self.assertTrue(self.theirs.status()["ready"], "the other cluster is as it was")
        self.ours.discard()

    def assert_named(self, text):
        pid = self.theirs.status()["nodes"][0]["pid"]
        self.assertIn(f"port {self.port} (cluster.nodes[0].listen) is held by cluster test in {self.theirs.dir}, pid {pid}",
                      text)

    def test_status_does_not_believe_it(self):
        status = self.ours.convoy("status", check=False)
        self.assertEqual(status.returncode, 1)
        self.assert_named(status.stdout)

    def test_down_leaves_it_alone(self):
        down = self.ours.convoy("down")
        self.assertIn("was not running", down.stdout)
        self.assert_named(down.stdout)

    def test_up_says_whose_the_port_is(self):
        up = self.ours.convoy("up", check=False)
        self.assertEqual(up.returncode, 4, up.stderr)
        self.assert_named(up.stderr)

    def test_a_stale_file_with_the_pid_of_another_process_kills_nobody(self):
        bystander = subprocess.Popen(["sleep", "1000"])
        run = self.ours.dir / "run"
        run.mkdir(mode=0o700)
        # A node that is loading holds its lock, and beside it lies the file of an earlier process.
        holder = subprocess.Popen([sys.executable, "-c", "import fcntl, os, sys, time\nos.umask(0o077)\n"
                                   "f = open(sys.argv[1], 'w')\nfcntl.lockf(f, fcntl.LOCK_EX)\nfcntl.flock(f, fcntl.LOCK_EX)\n"
                                   "print('held', flush=True)\ntime.sleep(1000)", run / "node1.lock"], stdout=subprocess.PIPE)
        try:
            holder.stdout.readline()
            (run / "node1.json").write_text(json.dumps({"pid": bystander.pid, "incarnation": 7, "link_port": self.port,
                                                        "gateway_url": "http://127.0.0.1:1", "crashing": []}))
            status = self.ours.status()
            self.assertFalse(status["ready"])
            self.assertEqual(status["nodes"][0], {"name": "node1", "pid": holder.pid, "health": "loading"})
            self.ours.convoy("down", "--grace-ms", "3000")
            self.assertIsNotNone(holder.wait(5))
            self.assertIsNone(bystander.poll())
        finally:
            for process in (bystander, holder):
                process.kill()
                process.wait()
            holder.stdout.close()


class Start(unittest.TestCase):
    def setUp(self):
        self.cluster = Cluster(stages=1)

    def tearDown(self):
        self.cluster.__exit__(None)

    def test_of_two_up_at_once_one_wins_and_loses_nothing(self):
        ups = [popen(self.cluster, "up") for _ in range(2)]
        texts = [up.communicate(timeout=PATIENCE_S) for up in ups]
        self.assertEqual(sorted(up.returncode for up in ups), [0, 3], texts)
        loser = texts[[up.returncode for up in ups].index(3)][1]
        self.assertRegex(loser, r"already runs \((node node1, )?pid \d+\)")
        self.assertTrue(self.cluster.status()["ready"])
        self.assertIn("node.started", (self.cluster.dir / "run/node1.log").read_text())

    def test_an_interrupted_up_ends_what_it_started(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            up = popen(self.cluster, "up")
            node = wait_for(lambda: node_pid(self.cluster), "it starts")
            up.send_signal(number)
            _, error = up.communicate(timeout=PATIENCE_S)
            self.assertEqual(up.returncode, 1, error)
            self.assertIn("interrupted by " + number.name, error)
            self.assertFalse(alive(node))
            self.assertIn("was not running", self.cluster.convoy("down").stdout)

    def test_down_ends_a_cluster_that_still_starts(self):
        up = popen(self.cluster, "up")
        node = wait_for(lambda: node_pid(self.cluster), "it starts")
        self.assertIn("is down", self.cluster.convoy("down").stdout)
        _, error = up.communicate(timeout=PATIENCE_S)
        self.assertEqual(up.returncode, 1, error)
        self.assertIn("interrupted by SIGTERM", error)  # it was told, and ended what it had started
        self.assertFalse(alive(node))

    def test_up_says_why_stages_keep_ending_and_ends(self):
        up = popen(self.cluster, "up")
        node = wait_for(lambda: node_pid(self.cluster), "it starts")
        def stages():
            try:
                return [int(p) for p in pathlib.Path(f"/proc/{node}/task").glob("*/children") for p in p.read_text().split()]
            except OSError:
                return []
        def crash():
            for pid in stages():
                try:
                    if b"stage" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                        os.kill(pid, signal.SIGABRT)
                except OSError:
                    pass
            return up.poll() is not None
        wait_for(crash, "up gives up")
        error = up.communicate()[1]
        self.assertEqual(up.returncode, 4, error)
        self.assertRegex(error, r"stage 0 of node node1 ended \d+ times \(signal 6 \(Aborted\)\)")
        self.assertIn("supervisor.ended", error)
        self.assertFalse(alive(node))


class RunDirectory(unittest.TestCase):
    def assert_one_line(self, command, cluster, says):
        done = cluster.convoy(command, check=False)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        self.assertNotIn("internal fault", done.stderr)
        self.assertIn(says, done.stderr)

    def with_run_dir(self, run_dir):
        cluster = Cluster(stages=1)
        self.addCleanup(cluster.discard)
        cluster.config.write_text(cluster.config.read_text().replace('run_dir = "run"', f'run_dir = "{run_dir}"'))
        return cluster

    def test_a_run_directory_that_cannot_be_made_is_one_line(self):
        cluster = self.with_run_dir("cluster.conf/run")
        self.assert_one_line("up", cluster, "cluster.conf/run: cannot be made: Not a directory")
        self.assertIn("not running", cluster.convoy("down").stdout)
        self.assert_one_line("up", self.with_run_dir("/proc/convoy"), "/proc/convoy: cannot be made")

    def test_a_run_directory_that_others_may_write_is_refused(self):
        cluster = self.with_run_dir("run")
        (cluster.dir / "run").mkdir()
        (cluster.dir / "run").chmod(0o777)
        self.assert_one_line("up", cluster, "is open to other users")

    @unittest.skipIf(os.geteuid() != 0, "root makes the other user")
    def test_a_folder_or_a_lock_of_another_user_is_said(self):
        cluster = self.with_run_dir("run")
        (cluster.dir / "run").mkdir(mode=0o700)
        os.chown(cluster.dir / "run", 65534, 65534)
        self.assert_one_line("up", cluster, "belongs to user 65534")
        cluster.dir.chmod(0o755)
        os.chown(cluster.dir / "run", 0, 0)
        program = shutil.copy(BINARY, cluster.dir)  # this checkout may lie where nobody else can read it
        def as_nobody():
            os.setgid(65534)
            os.setuid(65534)
        for command in ("status", "down"):
            done = subprocess.run([program, command, "--config", cluster.config], capture_output=True, text=True,
                                  preexec_fn=as_nobody, timeout=60)
            self.assertEqual(done.returncode, 3, (command, done.stdout, done.stderr))
            self.assertRegex(done.stderr, r"(node1|\.up|\.head)\.lock: the lock cannot be read: Permission denied")

    @unittest.skipIf(os.geteuid() != 0, "root mounts a small disk")
    def test_a_full_disk_is_said(self):
        cluster = self.with_run_dir("run")
        run = cluster.dir / "run"
        run.mkdir(mode=0o700)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", run], capture_output=True).returncode:
            self.skipTest("no mounts here")
        try:
            self.assert_one_line("up", cluster, "the disk of cluster.run_dir is full")
        finally:
            subprocess.run(["umount", run], check=True)

    @unittest.skipIf(os.geteuid() != 0, "root mounts a small disk")
    def test_a_disk_that_fills_up_stops_no_answer_and_the_log_says_so_once(self):
        with Cluster(stages=1, cache={"enabled": False}) as cluster:
            cluster.convoy("down")
            run, log = cluster.dir / "run", cluster.dir / "run/node1.log"
            if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", run], capture_output=True).returncode:
                self.skipTest("no mounts here")
            try:
                cluster.up()
                with self.assertRaises(OSError), open(run / "filler", "wb", buffering=0) as filler:
                    while True:
                        filler.write(bytes(4096))
                full = log.stat().st_size
                for _ in range(3 + 4096 // 100):  # more than the rest of the log's last page takes
                    cluster.completion(max_tokens=1)
                self.assertLess(log.stat().st_size - full, 4097)
                self.assertNotIn("log.lines_lost", log.read_text())
                (run / "filler").unlink()
                for _ in range(2):
                    cluster.completion(max_tokens=1)
                self.assertEqual(log.read_text().count("log.lines_lost"), 1)
                self.assertRegex(log.read_text(), r"error log.lines_lost lines=\d+ reason=\"No space left on device\"")
            finally:
                cluster.convoy("down")
                subprocess.run(["umount", run], check=True)

    def test_a_cluster_whose_run_directory_is_deleted_ends(self):
        for ask_down in (False, True):
            with Cluster(stages=1) as cluster:
                status = cluster.status()
                pids = [status["nodes"][0]["pid"], status["redis"]["pid"], status["stages"][0]["pid"]]
                if ask_down:
                    os.kill(pids[0], signal.SIGSTOP)  # it would end by itself
                shutil.rmtree(cluster.dir / "run")
                if ask_down:
                    self.assertIn("is down", cluster.convoy("down", "--grace-ms", "100").stdout)
                wait_for(lambda: not any(alive(p) for p in pids), "it ends", 5 if ask_down else PATIENCE_S)

    def test_a_node_whose_run_directory_is_deleted_says_so_to_its_supervisor(self):
        cluster = Cluster(stages=1)
        self.addCleanup(cluster.__exit__, None)
        node = subprocess.Popen([BINARY, "node", "--config", cluster.config, "--name", "node1"], stderr=subprocess.PIPE, text=True)
        wait_for((cluster.dir / "run/node1.json").exists, "it starts")
        shutil.rmtree(cluster.dir / "run")
        _, error = node.communicate(timeout=PATIENCE_S)
        self.assertEqual(node.returncode, 4, error)
        self.assertIn("node.run_dir_deleted", error)

    def test_logs_are_kept_over_up_rotated_and_reopened(self):
        with Cluster(stages=1) as cluster:
            run = cluster.dir / "run"
            log = run / "node1.log"
            first = cluster.status()["nodes"][0]["pid"]
            self.assertEqual(log.stat().st_mode & 0o777, 0o600)
            os.rename(log, run / "moved.log")
            os.kill(first, signal.SIGHUP)
            wait_for(log.exists, "SIGHUP makes a new one")
            self.assertTrue(alive(first))
            self.assertTrue(cluster.status()["ready"])
            os.truncate(log, (64 << 20) + 1)  # as if so much had been written
            wait_for((run / "node1.log.1").exists, "it is rotated")
            wait_for(log.exists, "and a new one begun")
            cluster.convoy("down")
            kept = log.read_text()
            self.assertIn("node.stopping", kept)
            cluster.up()
            self.assertTrue(log.read_text().startswith(kept))


class End(unittest.TestCase):
    def test_status_while_it_ends_disturbs_nothing(self):
        cluster = Cluster(stages=1)
        asking = []
        try:
            for _ in range(3):
                node = subprocess.Popen([BINARY, "node", "--config", cluster.config, "--name", "node1"],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                wait_for(cluster.ready, "it is ready")
                asking = [popen(cluster, "status", "--json") for _ in range(2)]
                node.terminate()
                while node.poll() is None:
                    asking.append(popen(cluster, "status", "--json"))
                    time.sleep(0.02)
                self.assertEqual(node.returncode, 0)
                self.assertFalse((cluster.dir / "run/node1.json").exists())
                for status in asking:
                    json.loads(status.communicate(timeout=PATIENCE_S)[0])
        finally:
            cluster.__exit__(None)


class Program(unittest.TestCase):
    def test_stages_are_started_again_after_the_binary_was_replaced(self):
        import cluster as module
        folder = pathlib.Path(tempfile.mkdtemp(prefix="convoy-"))
        program, installed = folder / "convoy", module.BINARY
        shutil.copy(installed, program)
        try:
            module.BINARY = str(program)
            with Cluster(stages=1) as cluster:
                killed = cluster.stage_pids()[0]
                shutil.copy(installed, folder / "new")
                os.rename(folder / "new", program)
                os.kill(killed, signal.SIGKILL)
                wait_for(lambda: cluster.ready() and cluster.stage_pids()[:1] not in ([], [killed], [0]), "ready again")
                self.assertIn("is down", cluster.convoy("down").stdout)  # the new program ends the old one's cluster
        finally:
            module.BINARY = installed
            shutil.rmtree(folder)


if __name__ == "__main__":
    if not MODEL.exists():
        print(f"skipped: no model at {MODEL}; scripts/fetch-model fetches it")
        sys.exit(SKIPPED)
    unittest.main(verbosity=2)
