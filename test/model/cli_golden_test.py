#!/usr/bin/env python3
"""`convoy render` and `convoy tokenize` on a folder that holds a tokenizer's files and nothing else: every stored case.

Tokenizers whose licence allows no copy here are looked for in ../shared/golden/tokenizers.
"""

import json
import lzma
import os
import pathlib
import subprocess
import tempfile
import unittest

SOURCE = pathlib.Path(os.environ.get("CONVOY_SOURCE_DIR", ".")).resolve()
CONVOY = os.environ.get("CONVOY_BINARY", "")
BAD_INPUT = 3


def golden(name):
    """(folder, cases) or None."""
    for root in (SOURCE / "test/golden/tokenizers", SOURCE / "../shared/golden/tokenizers"):
        folder = root / name
        if (folder / "cases.json").exists():
            return folder, json.loads((folder / "cases.json").read_text())
        if folder.exists():
            return folder, json.loads((root / "cases.json").read_text())[name]
    return None


def unpack(source, folder, template_apart=False):
    folder = pathlib.Path(folder)
    (folder / "tokenizer.json").write_bytes(lzma.decompress((source / "tokenizer.json.xz").read_bytes()))
    config = json.loads((source / "tokenizer_config.json").read_text())
    if template_apart:
        (folder / "chat_template.jinja").write_bytes(config.pop("chat_template").encode() + b"\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def run(command, folder, lines):
    process = subprocess.run([CONVOY, command, "--model", str(folder)], text=True, capture_output=True, timeout=120,
                             input="".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return process.returncode, [json.loads(line) for line in process.stdout.split("\n") if line], process.stderr


class Golden(unittest.TestCase):
    def check(self, name):
        found = golden(name)
        if not found:
            self.skipTest(f"{name}'s licence does not allow a copy, and ../shared has none")
        source, cases = found
        with tempfile.TemporaryDirectory() as folder:
            unpack(source, folder)
            self.check_chats(folder, cases["chat"])
            code, answers, errors = run("tokenize", folder, [{"text": case["text"]} for case in cases["encode"]])
            self.assertEqual((code, len(answers)), (0, len(cases["encode"])), errors)
            for case, answer in zip(cases["encode"], answers):
                self.assertEqual(answer, {"ids": case["ids"], "decoded": case["decoded"]})
        with tempfile.TemporaryDirectory() as folder:
            unpack(source, folder, template_apart=True)
            self.check_chats(folder, cases["chat"])

    def check_chats(self, folder, chats):
        self.assertGreaterEqual(len(chats), 20)
        wanted = [{"text": chat["text"]} for chat in chats if chat["text"] is not None]
        code, answers, errors = run("render", folder, [chat for chat in chats if chat["text"] is not None])
        self.assertEqual(code, 0, errors)
        self.assertEqual(answers, wanted)
        for chat in chats:
            if chat["text"] is None:
                self.assertEqual(run("render", folder, [chat])[0], BAD_INPUT)

    def test_deepseek_v3(self):
        self.check("deepseek_v3")

    def test_qwen3(self):
        self.check("qwen3")

    def test_llama3(self):
        self.check("llama3")

    def test_a_refused_chat_is_named_by_line_and_message(self):
        source, _ = golden("qwen3")
        with tempfile.TemporaryDirectory() as folder:
            unpack(source, folder)
            good = {"messages": [{"role": "user", "content": "Hi"}]}
            bad = {"messages": [{"role": "user", "content": "Hi"}, {"role": "user", "content": None}]}
            code, answers, errors = run("render", folder, [good, bad])
            self.assertEqual((code, len(answers)), (BAD_INPUT, 1))
            self.assertIn("line 2: chat template, line 20: calls `startswith` of none", errors)


if __name__ == "__main__":
    unittest.main(verbosity=2)
