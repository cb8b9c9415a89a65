"""What a service manager hears of a node: that it is ready, alive and ending. The test stands in for systemd."""
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import unittest

from cluster import BINARY, MODEL, PATIENCE_S, SKIPPED, SOURCE, Cluster, wait_for

UNIT = SOURCE / "scripts/deploy/convoy.service"
WATCHDOG_S = 3


class Service(unittest.TestCase):
    def setUp(self):
        self.cluster = Cluster(stages=1, stage={"threads": 1}, cache={"enabled": False})
        self.addCleanup(self.cluster.__exit__, None)
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.manager.close)
        self.manager.settimeout(PATIENCE_S)

    def start(self, address, **environment):
        self.manager.bind(address)
        told = address if address[0] == "/" else "@" + address[1:]
        node = subprocess.Popen([BINARY, "node", "--config", self.cluster.config], stderr=subprocess.DEVNULL,
                                env={**os.environ, "NOTIFY_SOCKET": told, **environment})
        self.addCleanup(lambda: (node.kill(), node.wait()))
        return node

    def hears(self):
        return self.manager.recv(4096).decode()

    def silent_for(self, seconds):
        self.manager.settimeout(seconds)
        with self.assertRaises(TimeoutError):
            self.manager.recv(4096)
        self.manager.settimeout(PATIENCE_S)

    def test_a_node_says_that_it_is_ready_alive_and_ending(self):
        node = self.start(str(self.cluster.dir / "notify"), WATCHDOG_USEC=str(WATCHDOG_S * 1_000_000))
        self.assertEqual(self.hears(), "READY=1\nSTATUS=the head serves")
        wait_for(self.cluster.ready, "it serves, as it said")
        self.assertEqual([self.hears() for _ in range(3)], 3 * ["WATCHDOG=1"])
        os.kill(node.pid, signal.SIGSTOP)
        wait_for(lambda: pathlib.Path(f"/proc/{node.pid}/stat").read_text().split()[2] == "T", "it is stopped")
        self.manager.setblocking(False)
        while True:  # what it said before
            try:
                self.manager.recv(4096)
            except BlockingIOError:
                break
        self.silent_for(WATCHDOG_S)
        os.kill(node.pid, signal.SIGCONT)
        self.assertEqual(self.hears(), "WATCHDOG=1")
        node.terminate()
        while (heard := self.hears()) == "WATCHDOG=1":
            pass
        self.assertEqual(heard, "STOPPING=1")
        self.assertEqual(node.wait(PATIENCE_S), 0)

    def test_who_is_not_watched_says_nothing_of_its_life_and_its_children_say_nothing_at_all(self):
        node = self.start("\0convoy-test-" + self.cluster.dir.name)
        self.assertEqual(self.hears(), "READY=1\nSTATUS=the head serves")
        self.silent_for(2)
        children = [child for thread in pathlib.Path(f"/proc/{node.pid}/task").iterdir()
                    for child in (thread / "children").read_text().split()]
        self.assertEqual(len(children), 2)
        for child in children:
            self.assertNotIn(b"NOTIFY_SOCKET", pathlib.Path(f"/proc/{child}/environ").read_bytes())

    def test_status_says_it_again_every_second(self):
        self.cluster.up()
        watch = subprocess.Popen([BINARY, "status", "--watch", "--json", "--config", self.cluster.config],
                                 stdout=subprocess.PIPE, text=True)
        self.addCleanup(lambda: (watch.kill(), watch.wait(), watch.stdout.close()))
        first = json.loads(watch.stdout.readline())
        self.assertTrue(first["ready"])
        self.assertRegex(first["stages"][0]["since"], r"^\d{4}-\d\d-\d\dT")
        self.assertEqual(first["nodes"][0]["role"], "head")
        self.cluster.signal_stage(0, signal.SIGKILL)
        pid = first["stages"][0]["pid"]
        began = time.monotonic()
        while json.loads(watch.stdout.readline())["stages"][0]["pid"] == pid:
            self.assertLess(time.monotonic() - began, PATIENCE_S)

    def test_the_unit_names_what_there_is(self):
        unit = UNIT.read_text()
        command = re.search(r"^ExecStart=/usr/bin/convoy (\w+) --config (\S+)$", unit, re.M)
        self.assertEqual(command.groups(), ("node", "/etc/convoy/cluster.conf"))
        drain_s = int(re.search(r"drain_timeout_ms, (\d+) s", unit)[1])
        self.assertLess(drain_s, int(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.M)[1]))
        default = re.search(r"`drain_timeout_ms` \| `(\d+)`", (SOURCE / "docs/configuration.md").read_text())
        self.assertEqual(drain_s * 1000, int(default[1]))


if __name__ == "__main__":
    if not MODEL.exists():
        print(f"skipped: no model at {MODEL}; scripts/fetch-model fetches it")
        sys.exit(SKIPPED)
    unittest.main(verbosity=2)
