"""A machine joins with a token: `convoy token create`, `convoy join`, and who gets nothing. On loopback, where a folder stands
for the other machine; in machines_test.py what joined serves.
"""
import pathlib
import shlex
import shutil
import socket
import stat
import subprocess
import tempfile
import time
import unittest

from cluster import BINARY, MODEL, free_port, wait_for

BAD_INPUT, UNAVAILABLE = 3, 4


class Joining(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = pathlib.Path(tempfile.mkdtemp(prefix="convoy-join-"))
        cls.addClassCleanup(shutil.rmtree, cls.dir, ignore_errors=True)
        cls.config = cls.dir / "first/cluster.conf"
        cls.address = f"127.0.0.1:{free_port()}"
        cls.must("init", "--dir", cls.config.parent, "--model", MODEL, "--cluster", "harbour", "--name", "quay",
                 "--listen", cls.address, "--http", f"127.0.0.1:{free_port()}")
        other = f'  {{ name = "mole", listen = "127.0.0.1:{free_port()}", roles = [], stages = 1 }}\n]'
        cls.config.write_text(cls.config.read_text().replace("  }\n]", "  },\n" + other))
        cls.start(cls.config, "quay")
        wait_for(cls.listens, "the head listens")

    @classmethod
    def listens(cls):
        host, port = cls.address.split(":")
        with socket.socket() as s:
            return s.connect_ex((host, int(port))) == 0

    @classmethod
    def convoy(cls, *arguments):
        return subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=60)

    @classmethod
    def must(cls, *arguments):
        done = cls.convoy(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @classmethod
    def start(cls, config, name):
        with open(cls.dir / f"{name}.log", "ab") as log:
            process = subprocess.Popen([BINARY, "node", "--name", name, "--config", config], stdout=log, stderr=log)

        def end():
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        cls.addClassCleanup(end)

    @classmethod
    def token(cls, *more):
        words = shlex.split(cls.must("token", "create", "--config", cls.config, *more))
        assert words[:3] == ["convoy", "join", cls.address] and words[3] == "--token" and len(words) == 5, words
        return words[4]

    @classmethod
    def join(cls, token, *more, to=None):
        return cls.convoy("join", to or cls.address, "--token", token, *more)

    def refused(self, code, words, token, *more, to=None):
        where = pathlib.Path(tempfile.mkdtemp(dir=self.dir)) / "new"
        done = self.join(token, "--dir", where, *more, to=to)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        self.assertIn(words, done.stderr)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        self.assertEqual(list(where.glob("*")), [])

    def test_what_joins_has_all_it_needs_and_no_more(self):
        where = self.dir / "second"
        token = self.token()
        done = self.join(token, "--name", "mole", "--dir", where)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("convoy up --config", done.stdout)
        for name in "ca.pem", "mole.pem", "mole.key":
            self.assertEqual(stat.S_IMODE((where / "tls" / name).stat().st_mode), 0o600, name)
        self.assertEqual(sorted(p.name for p in (where / "tls").iterdir()), ["ca.pem", "mole.key", "mole.pem"])
        self.assertEqual((where / "cluster.conf").read_text(), self.config.read_text())
        self.assertFalse((self.config.parent / "tls/mole.key").exists())  # it never travelled
        self.assertNotIn(token[-20:], (self.config.parent / "tls/tokens").read_text())
        self.refused(BAD_INPUT, "used as often", token, "--name", "mole")
        self.refused(BAD_INPUT, "has a certificate", self.token(), "--name", "mole")
        done = self.convoy("check-config", "--no-model", where / "cluster.conf")
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_who_gets_nothing_is_told_why(self):
        good = self.token("--uses", "3")
        self.refused(BAD_INPUT, "no token", good[:-1], "--name", "mole")
        self.refused(BAD_INPUT, "does not know this token", good[:-4] + "AAAA", "--name", "mole")
        self.refused(UNAVAILABLE, "not of the cluster that the token names", good[:8] + "AAAA" + good[12:], "--name", "mole")
        self.refused(BAD_INPUT, "give each its own port", good, "--name", "pier")  # the head's: it is on this machine
        self.refused(BAD_INPUT, "has a certificate", good, "--name", "quay")
        self.refused(BAD_INPUT, "no name of a node", good, "--name", "../up")
        self.refused(BAD_INPUT, "no name of a node", good, "--name", "ca")
        self.refused(BAD_INPUT, "no number of stages", good, "--name", "mole", "--stages", "many")
        self.refused(BAD_INPUT, "no address", good, to="a.name:7411")
        self.refused(UNAVAILABLE, "refused", good, "--name", "mole", to=f"127.0.0.1:{free_port()}")
        short = self.token("--ttl", "1s")
        time.sleep(2.1)
        self.refused(BAD_INPUT, "has expired", short, "--name", "mole")
        there = self.join(good, "--name", "mole", "--dir", self.config.parent)
        self.assertEqual(there.returncode, BAD_INPUT)
        self.assertIn("is there already", there.stderr)

    def test_tokens_are_made_where_the_authority_is(self):
        alone = self.dir / "alone"
        self.must("init", "--dir", alone, "--model", MODEL, "--listen", "127.0.0.1:7599")
        (alone / "tls/ca.key").unlink()
        done = self.convoy("token", "create", "--config", alone / "cluster.conf")
        self.assertEqual(done.returncode, BAD_INPUT)
        self.assertIn("convoy init", done.stderr)
        text = (alone / "cluster.conf").read_text()
        (alone / "cluster.conf").write_text(text.replace("dev = false", "dev = true"))
        self.assertEqual(self.convoy("token", "create", "--config", alone / "cluster.conf").returncode, BAD_INPUT)
        for wrong in ["--ttl", "0s"], ["--ttl", "31d"], ["--uses", "0"]:
            self.assertNotEqual(self.convoy("token", "create", "--config", self.config, *wrong).returncode, 0, wrong)


if __name__ == "__main__":
    unittest.main()
