#!/usr/bin/env python3
"""A gateway that others reach: HTTPS and keys, as `convoy init --http` makes it, asked by the official SDK, by convoy chat
and by who may not. Needs the package openai; scripts/test installs it into .venv, which is used if it is there.
"""
import os
import pathlib
import shutil
import ssl
import subprocess
import tempfile
import unittest
import urllib.error
import urllib.request
import uuid

from cluster import BINARY, MODEL, free_port, wait_for
from with_openai import openai

QUESTION = [{"role": "user", "content": "Name three colours."}]
BAD_INPUT, FAILED = 3, 1


def convoy(*arguments, **options):
    return subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True, timeout=120, **options)


class Https(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = pathlib.Path(tempfile.mkdtemp(prefix="convoy-https-"))
        cls.addClassCleanup(shutil.rmtree, cls.dir, ignore_errors=True)
        cls.config, port = cls.dir / "cluster.conf", free_port()
        cls.authority, cls.url = cls.dir / "tls/ca.pem", f"https://localhost:{port}"
        made = cls.run_it("init", "--dir", cls.dir, "--model", MODEL, "--listen", f"127.0.0.1:{free_port()}", "--http",
                          f"127.0.0.1:{port}", "--http-name", "localhost", "--http-name", "gateway.example")
        cls.admin = next(line for line in made.splitlines() if line.startswith("cvk1_"))
        cls.addClassCleanup(lambda: convoy("down", "--config", cls.config))
        cls.run_it("up", "--config", cls.config)

    @classmethod
    def run_it(cls, *arguments):
        done = convoy(*arguments)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout

    def new_key(self, *more):
        """Known to the gateway."""
        key = self.run_it("key", "create", "--config", self.config, *more).strip()
        wait_for(lambda: self.status("/v1/models", key) != 401, "a new key counts")
        return key

    def status(self, path, key=None):
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {key}"} if key else {})
        try:
            with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=self.authority), timeout=60) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def client(self, key):
        http = openai.DefaultHttpxClient(verify=ssl.create_default_context(cafile=self.authority))
        self.addCleanup(http.close)
        return openai.OpenAI(base_url=self.url + "/v1", api_key=key, max_retries=0, timeout=120, http_client=http)

    def ask(self, key, **options):
        return self.client(key).chat.completions.with_raw_response.create(
            **{"model": MODEL.stem, "messages": QUESTION, "temperature": 0, "max_tokens": 8, **options})

    def chat(self, *more, **options):
        return convoy("chat", "--config", self.config, "--max-tokens", 4, *more, "Say hi", **options)

    def test_the_sdk_is_answered_whole_and_streamed(self):
        answer = self.ask(self.admin).parse().choices[0].message.content
        self.assertTrue(answer)
        chunks = self.ask(self.admin, stream=True).parse()
        self.assertEqual("".join(c.choices[0].delta.content or "" for c in chunks if c.choices), answer)

    def test_who_has_no_key_or_a_wrong_one_is_refused(self):
        for path, expected in ("/livez", 200), ("/readyz", 200), ("/metrics", 401), ("/v1/models", 401), ("/nothing", 401):
            self.assertEqual(self.status(path), expected, path)
        with self.assertRaises(openai.AuthenticationError) as refused:
            self.ask("cvk1_000000000000_" + 64 * "0")
        self.assertEqual(refused.exception.code, "invalid_api_key")

    def test_roles_open_what_they_say(self):
        metrics, user = self.new_key("--role", "metrics"), self.new_key()
        self.assertEqual([self.status(path, metrics) for path in ("/metrics", "/v1/models")], [200, 403])
        self.assertEqual([self.status(path, user) for path in ("/metrics", "/v1/models")], [403, 200])
        with self.assertRaises(openai.PermissionDeniedError):
            self.ask(metrics)

    def test_a_tenant_finds_its_own_answers_and_nobody_elses(self):
        ours, others = self.new_key("--tenant", "acme"), self.new_key("--tenant", "other")
        seed = uuid.uuid4().int % 2**62
        said = [self.ask(key, seed=seed).headers["x-cache"] for key in (ours, ours, others, others)]
        self.assertEqual(said, ["miss", "hit", "miss", "hit"])

    def test_a_key_that_is_revoked_or_expires_is_refused_without_a_restart(self):
        key = self.new_key("--name", "lost")
        self.ask(key)
        self.assertNotIn(key, self.run_it("key", "list", "--config", self.config))
        self.run_it("key", "revoke", "--config", self.config, key.split("_")[1])
        wait_for(lambda: self.status("/v1/models", key) == 401, "a revoked key is refused", 5)
        brief = self.new_key("--expires", "4s")
        wait_for(lambda: self.status("/v1/models", brief) == 401, "a key ends", 10)
        self.assertEqual(self.status("/v1/models", self.admin), 200)

    def test_convoy_chat_has_the_key_from_the_environment_or_a_file(self):
        file = self.dir / "key.txt"
        file.write_text(self.admin + "\n")
        clean = {name: value for name, value in os.environ.items() if name != "CONVOY_API_KEY"}
        for done in (self.chat("--api-key-file", file, env=clean), self.chat(env={**clean, "CONVOY_API_KEY": self.admin})):
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertTrue(done.stdout.strip())
        without = self.chat(env=clean)
        self.assertEqual(without.returncode, FAILED)
        self.assertIn("CONVOY_API_KEY", without.stderr)
        elsewhere = ["chat", "--url", self.url, "--model", MODEL.stem, "--api-key-file", file, "--max-tokens", 4, "Say hi"]
        self.assertIn("certificate verify failed", convoy(*elsewhere).stderr)
        self.assertEqual(convoy(*elsewhere, "--ca", self.authority).returncode, 0)

    def test_a_new_certificate_is_shown_without_a_restart(self):
        def shown():
            return ssl.get_server_certificate(("localhost", int(self.url.rsplit(":", 1)[1])))
        before = shown()
        self.assertIn("gateway.example", self.run_it("ca", "gateway", "--config", self.config))
        wait_for(lambda: shown() != before, "the new certificate is shown", 10)
        self.assertEqual(self.status("/v1/models", self.admin), 200)

    def test_no_key_stands_in_a_log_or_in_a_file(self):
        self.status("/v1/models", self.admin)
        self.status("/metrics", "cvk1_secret")
        for file in [*(self.dir / "run").glob("*.log"), self.dir / "keys", self.config]:
            text = file.read_text()
            self.assertNotIn(self.admin.split("_")[2], text, file)
            self.assertNotIn("cvk1_secret", text, file)

    def test_another_address_than_loopback_needs_keys_and_tls(self):
        text = self.config.read_text().replace('host = "127.0.0.1"', 'host = "0.0.0.0"')
        open_to_all = self.dir / "open.conf"
        for missing in ["keys_file"], ["tls_certificate", "tls_key"]:
            kept = (line for line in text.splitlines(True) if not line.startswith(tuple(missing)))
            open_to_all.write_text("".join(kept))
            done = convoy("check-config", "--no-model", open_to_all)
            self.assertEqual(done.returncode, BAD_INPUT, done.stdout + done.stderr)
            for word in [f"gateway.{missing[0]}", "convoy init"]:
                self.assertIn(word, done.stderr)
        open_to_all.write_text(text)
        self.assertEqual(convoy("check-config", "--no-model", open_to_all).returncode, 0)


if __name__ == "__main__":
    unittest.main()
