"""What the tests of scripts/fetch-model ORG/NAME share: a hub on loopback, the files it has, and runs of the script. Real
processes, real connections. The last argument of the program is the repository."""
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

from fake_hub import MODEL, FakeHub

REPOSITORY = pathlib.Path(sys.argv.pop())
MIB = 1 << 20
TOKEN = "hf_theTokenOfThisTest"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
RANDOM = random.Random(20261122)
FILES = {
    "config.json": b'{"model_type": "deepseek_v2"}',
    "generation_config.json": b"",
    "tokenizer.json": RANDOM.randbytes(300_000),
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors.index.json": b'{"weight_map": {}}',
    ONE: RANDOM.randbytes(4 * MIB + 123),
    TWO: RANDOM.randbytes(2 * MIB),
}
OTHERS = {
    "README.md": b"# Tiny",
    "pytorch_model.bin": b"pickle",
    "model.py": b"import os",
    "original/consolidated.safetensors": b"nested",
    "tiny.Q4_0.gguf": b"GGUF" + RANDOM.randbytes(MIB),
    "tiny.F16-00001-of-00002.gguf": b"GGUF half",
    "tiny.F16-00002-of-00002.gguf": b"GGUF other half",
    "tiny.Q8_0/tiny.Q8_0-00001-of-00003.gguf": b"GGUF" + RANDOM.randbytes(1000),
    "tiny.Q8_0/tiny.Q8_0-00002-of-00003.gguf": b"GGUF" + RANDOM.randbytes(2 * MIB),
    "tiny.Q8_0/tiny.Q8_0-00003-of-00003.gguf": b"GGUF" + RANDOM.randbytes(3000),
}
OFFER = "its GGUF files: tiny.F16-00001-of-00002.gguf, tiny.Q4_0.gguf, tiny.Q8_0/tiny.Q8_0-00001-of-00003.gguf"


class FetchModel(unittest.TestCase):
    def setUp(self):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="convoy-fetch-"))
        self.addCleanup(shutil.rmtree, self.root)
        (self.root / "scripts/hub").mkdir(parents=True)
        for path in ("fetch-model", "lib.sh", "default-model.sha256"):
            shutil.copy(REPOSITORY / "scripts" / path, self.root / "scripts")
        for path in (REPOSITORY / "scripts/hub").glob("*.py"):
            shutil.copy(path, self.root / "scripts/hub")
        self.models = self.root / "models"
        self.folder = self.models / "tiny-moe"
        self.hub = FakeHub(FILES | OTHERS)
        self.hub.__enter__()
        self.addCleanup(self.hub.__exit__)

    def start(self, *args, **environment):
        settings = {"PATH": os.environ["PATH"], "HOME": str(self.root), "no_proxy": "*", "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.Popen(
            [self.root / "scripts/fetch-model", *(args or (MODEL,)), "--range-mib=1", "--backoff-ms=1"],
            env=settings | {"HF_ENDPOINT": self.hub.endpoint} | environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def run_to_end(self, *args, **environment):
        process = self.start(*args, **environment)
        out, err = process.communicate(timeout=60)
        self.assertNotIn("Traceback", err)
        self.assertNotIn(TOKEN, out + err)
        return process.returncode, out, err

    def fetches(self, *args, **environment):
        code, out, err = self.run_to_end(*args, **environment)
        self.assertEqual((code, err), (0, ""))
        return out

    def fails(self, words, *args, code=1, **environment):
        got, out, err = self.run_to_end(*args, **environment)
        self.assertEqual(got, code, out + err)
        self.assertIn(words, err)
        if code == 1:
            self.assertEqual(err.count("\n"), 1, err)
        return err

    def assert_whole(self):
        self.assertEqual({p.name for p in self.folder.iterdir()}, set(FILES) | {".fetched"})
        for name, data in FILES.items():
            self.assertEqual((self.folder / name).read_bytes(), data, name)

    def assert_gone(self, name):
        self.assertFalse((self.folder / name).exists())
        self.assertFalse((self.folder / f"{name}.part").exists())
