"""Two users on one machine: what another user's processes may learn of a cluster and do to it, which is nothing.

Root plays both: a child that has become another user tries each thing. Without root there is no second user to play.
"""
import json
import os
import pathlib
import select
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import traceback
import unittest

from cluster import SKIPPED, SOURCE, Cluster, free_port, wait_for

STRANGER = 65534
LINK_TYPES = {"Hello": 1, "Challenge": 7, "Proof": 8, "Shutdown": 54}
ROLES = {"none": 0, "node": 6}


def as_a_stranger(action):
    """What action() returns when another user runs it, in a process of its own."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(STRANGER)
            os.setuid(STRANGER)
            with os.fdopen(writable, "w") as out:
                json.dump(action(), out)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(writable)
    with os.fdopen(readable) as result:
        text = result.read()
    assert os.waitpid(child, 0)[1] == 0, "what the stranger tried broke off; see above"
    return json.loads(text)


def frame(name, text, role="none", instance=0):
    """A frame as it stands on a link: the fixed header (actors/link/link_wire.hpp) and the message."""
    message = subprocess.run(["capnp", "encode", "--import-path=/usr/include", SOURCE / "schema/convoy.capnp", name],
                             input=text.encode(), capture_output=True, check=True).stdout
    return struct.pack("<IHHHHIQQ", 0x59564E43, 1, LINK_TYPES[name], ROLES[role], 0, instance, len(message), 0) + message


def conversations():
    """What a stranger may say, message after message: with and without the challenge that comes first today."""
    nonce = '"' + "x" * 32 + '"'
    said = []
    for version in 3, 4:
        for role in "stage", "client", "node":
            for cluster in "test", "another":
                hello, bulk = (
                    frame("Hello", f'(protocolVersion = {version}, lowestVersion = {version}, cluster = "{cluster}", '
                          f'node = "node1", role = {role}, incarnation = 1, linkId = 7, bulk = {second}, '
                          "controlFrameBytesMax = 4096, bulkFrameBytesMax = 4096, bulkWindowBytes = 4096, "
                          "leaseMs = 60000)")
                    for second in ("false", "true"))
                challenge, proof = frame("Challenge", f"(nonce = {nonce})"), frame("Proof", f"(mac = {nonce})")
                said.append(([hello], [bulk]))
                said.append(([challenge, hello + proof], [challenge, bulk + proof]))
    return said


def talk(port, control, bulk, shutdown):
    """All that a peer answers to both connections of a link, after which the cluster is told to shut down.

    All frames are made before: a stranger need not be able to read this checkout."""
    heard = b""
    connections = []
    for messages in control, bulk:
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=5)
        except OSError:
            return heard  # nobody listens any more
        connection.settimeout(1)
        connections.append(connection)
        for message in messages:
            try:
                connection.sendall(message)
                heard += connection.recv(65536)
            except OSError:
                break
    try:
        connections[0].sendall(shutdown)
        heard += connections[0].recv(65536)
    except OSError:
        pass
    for connection in connections:
        connection.close()
    return heard


class AnotherUser(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.port = free_port()
        cls.cluster = Cluster(nodes=[("node1", cls.port, True, 2)]).__enter__()
        cls.cluster.dir.chmod(0o755)  # what is kept from others is kept by the run directory itself
        cls.run_dir = cls.cluster.dir / "run"

    @classmethod
    def tearDownClass(cls):
        cls.cluster.__exit__(os.environ.get("CONVOY_TEST_LOGS"))

    def setUp(self):
        wait_for(self.cluster.ready, "the cluster is ready")

    def test_who_does_not_know_the_secret_learns_nothing_and_changes_nothing(self):
        before = self.cluster.status()
        said, shutdown = conversations(), frame("Shutdown", "()", "node")
        heard = as_a_stranger(lambda: [talk(self.port, *both, shutdown).hex() for both in said])
        for answer in map(bytes.fromhex, heard):
            for name in b"test", b"node1", b"stage":
                self.assertNotIn(name, answer)
        self.assertIn(b"CNVY", b"".join(map(bytes.fromhex, heard)))  # it did talk with the cluster
        after = self.cluster.status()
        self.assertTrue(after["ready"])
        for what in "epoch", "nodes":
            self.assertEqual(after[what], before[what])
        self.assertEqual([s["pid"] for s in after["stages"]], [s["pid"] for s in before["stages"]])

    def crowd(self, ready):
        """Keeps 200 connections open: one that is closed is opened again."""
        polled = select.poll()
        connections = {}

        def open_one():
            connection = socket.create_connection(("127.0.0.1", self.port), timeout=5)
            connections[connection.fileno()] = connection
            polled.register(connection, select.POLLIN)

        for _ in range(200):
            open_one()
        os.write(ready, b"x")
        while True:
            for closed, _ in polled.poll():
                polled.unregister(closed)
                connections.pop(closed).close()
                open_one()

    def test_idle_connections_of_strangers_keep_nobody_out(self):
        readable, writable = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setgroups([])
                os.setuid(STRANGER)
                self.crowd(writable)
            finally:
                os._exit(0)
        os.close(writable)
        try:
            self.assertEqual(os.read(readable, 1), b"x")
            for _ in range(5):
                self.assertTrue(self.cluster.status()["ready"])
            stage = self.cluster.signal_stage(0, 9)
            wait_for(lambda: self.cluster.ready() and stage not in self.cluster.stage_pids(), "another stage took over")
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
            os.close(readable)

    def test_nothing_in_the_run_directory_can_be_read(self):
        files = [str(path) for path in self.run_dir.rglob("*")]
        self.assertTrue(any(path.endswith(".secret") for path in files))
        self.assertTrue(any(path.endswith(".log") for path in files))

        def can_open():
            opened = []
            for path in [str(self.run_dir), *files]:
                try:
                    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
                    opened.append(path)
                except PermissionError:
                    pass
                except OSError as error:  # a socket
                    opened += [path] if error.errno != 6 else []
            return opened

        self.assertEqual(as_a_stranger(can_open), [])
        for path in [self.run_dir, *self.run_dir.iterdir()]:
            if not path.is_socket():  # reachable through the folder alone
                self.assertEqual(stat.S_IMODE(path.stat().st_mode) & 0o077, 0, path)


class BeforeTheStart(unittest.TestCase):
    """What another user puts where a cluster is about to start."""

    def setUp(self):
        self.cluster = Cluster()
        self.cluster.dir.chmod(0o1777)
        self.trap = pathlib.Path(tempfile.mkdtemp(prefix="trap-"))
        os.chown(self.trap, STRANGER, STRANGER)

    def tearDown(self):
        self.cluster.convoy("down", check=False)
        self.cluster.discard()
        shutil.rmtree(self.trap)

    def refused(self, *texts):
        up = self.cluster.convoy("up", check=False)
        self.assertEqual(up.returncode, 3)
        for text in texts:
            self.assertIn(text, up.stderr)
        self.assertNotIn("internal", up.stderr)

    def test_a_symbolic_link_in_place_of_the_run_directory_is_not_followed(self):
        as_a_stranger(lambda: os.symlink(self.trap, self.cluster.dir / "run"))
        self.refused("symbolic link", str(self.cluster.dir / "run"))
        self.assertEqual(list(self.trap.iterdir()), [])

    def test_a_run_directory_of_another_user_is_refused(self):
        as_a_stranger(lambda: os.mkdir(self.cluster.dir / "run"))
        self.refused("belongs to user 65534")

    def test_a_run_directory_open_to_others_is_refused_with_the_command_that_mends_it(self):
        run_dir = self.cluster.dir / "run"
        run_dir.mkdir()
        run_dir.chmod(0o755)
        self.refused(f"chmod 700 {run_dir}")

    def test_a_secret_that_others_may_read_is_refused_with_the_command_that_mends_it(self):
        secret = self.cluster.dir / "run" / "cluster.secret"
        secret.parent.mkdir(mode=0o700)
        secret.write_bytes(b"s" * 32)
        secret.chmod(0o644)
        self.refused(f"chmod 600 {secret}")


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit(SKIPPED)
    unittest.main(verbosity=2)
