"""convoy init and convoy ca: what they write, for whom it is to read, and what they refuse."""
import pathlib
import shutil
import stat
import subprocess
import tempfile
import unittest

from cluster import BINARY, MODEL

BAD_INPUT = 3


class Authority(unittest.TestCase):
    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="convoy-authority-"))
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)
        self.config, self.tls = self.dir / "made/cluster.conf", self.dir / "made/tls"

    def convoy(self, *arguments):
        return subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=60)

    def init(self, *more):
        done = self.convoy("init", "--dir", self.dir / "made", "--model", MODEL, "--name", "quay", *more)
        self.assertEqual(done.returncode, 0, done.stderr)

    def assert_refused(self, done, *words):
        self.assertEqual(done.returncode, BAD_INPUT, done.stdout + done.stderr)
        for word in words:
            self.assertIn(str(word), done.stderr)

    def test_what_is_made_can_be_used_and_is_nobody_elses(self):
        self.init("--listen", "127.0.0.1:7411", "--stages", "2")
        done = self.convoy("check-config", "--no-model", self.config)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("1 node(s), 2 stage(s)", done.stdout)
        self.assertEqual(stat.S_IMODE(self.tls.stat().st_mode), 0o700)
        for name in "ca.key", "quay.key", "quay.pem", "issued":
            self.assertEqual(stat.S_IMODE((self.tls / name).stat().st_mode), 0o600, name)
        self.assertEqual(self.convoy("ca", "issue", "quay", "--config", self.config).returncode, 0)
        self.assertEqual(self.convoy("ca", "revoke", "quay", "--config", self.config).returncode, 0)
        self.assert_refused(self.convoy("ca", "revoke", "quay", "--config", self.config), "quay")  # none is left

    def test_nothing_is_overwritten(self):
        self.init()
        before = (self.tls / "ca.key").read_bytes()
        self.assert_refused(self.convoy("init", "--dir", self.dir / "made", "--model", MODEL), self.config)
        self.config.unlink()
        self.assert_refused(self.convoy("init", "--dir", self.dir / "made", "--model", MODEL), "ca.pem")
        self.assertEqual((self.tls / "ca.key").read_bytes(), before)

    def test_what_no_cluster_could_be_made_of_is_refused_before_anything_is_written(self):
        for wrong, word in [(["--listen", "0.0.0.0:7411"], "0.0.0.0"), (["--listen", "a.name:7411"], "a.name"),
                            (["--name", "no name"], "no name"), (["--http", "127.0.0.1"], "--http"),
                            (["--http", "127.0.0.1:port"], "port"), (["--stages", "0"], "stages")]:
            done = self.convoy("init", "--dir", self.dir / "wrong", "--model", MODEL, *wrong)
            self.assert_refused(done, word)
            self.assertFalse((self.dir / "wrong").exists())

    def test_certificates_are_made_where_the_authority_is_and_for_nodes_that_are_known(self):
        self.init()
        self.assert_refused(self.convoy("ca", "issue", "mole", "--config", self.config), "mole", "cluster.nodes")
        (self.tls / "ca.key").chmod(0o644)
        self.assert_refused(self.convoy("ca", "issue", "quay", "--config", self.config), "ca.key", "chmod 600")
        (self.tls / "ca.key").unlink()
        self.assert_refused(self.convoy("ca", "issue", "quay", "--config", self.config), "ca.key", "convoy init")

    def test_a_node_without_its_certificate_does_not_start(self):
        self.init()
        (self.tls / "quay.pem").unlink()
        done = self.convoy("up", "--config", self.config)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("quay.pem", done.stderr)


if __name__ == "__main__":
    unittest.main()
