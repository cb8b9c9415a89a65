"""Clusters of DeepSeek's family: latent attention and experts through real stages, token ids in and out."""
import json
import pathlib
import struct
import subprocess
import tempfile
import unittest

from cluster import BINARY, SOURCE, Cluster

GOLDEN = SOURCE / "test/golden/models/deepseek-v3"


def golden_tokens(name):
    """A list of int64 from the golden file."""
    data = (GOLDEN / "golden.safetensors").read_bytes()
    header_bytes, = struct.unpack_from("<Q", data)
    entry = json.loads(data[8:8 + header_bytes])[name]
    assert entry["dtype"] == "I64", entry
    begin, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
    return [value for value, in struct.iter_unpack("<q", data[begin:end])]


def anonymous_bytes(pid):
    """Memory of a process that no file backs: what it made itself."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no RssAnon of {pid}")


class GoldenModel(unittest.TestCase):
    def test_two_stages_of_deepseek_v3_give_the_reference_tokens(self):
        prompt, expected = golden_tokens("prompt_1"), golden_tokens("greedy_1")
        self.assertEqual(len(expected), 24)
        with Cluster(stages=2, model=GOLDEN, stage={"backend": "cpu-reference", "threads": 2},
                     pipeline={"kv_tokens": 4096}) as cluster:
            stages = cluster.status()["stages"]
            self.assertEqual([(s["first_layer"], s["last_layer"]) for s in stages], [(0, 1), (2, 2)])
            _, answer = cluster.completion(prompt=prompt, max_tokens=24, ignore_eos=True, return_token_ids=True)
            self.assertEqual(answer["choices"][0]["token_ids"], expected)
            self.assertEqual(answer["usage"], {"prompt_tokens": len(prompt), "completion_tokens": 24,
                                               "total_tokens": len(prompt) + 24,
                                               "prompt_tokens_details": {"cached_tokens": 0}})


class RandomModel(unittest.TestCase):
    SMALL = {"kv_tokens": 1024, "context_tokens_max": 512, "prefill_tokens_per_step": 32, "sequences_max": 1}

    def test_a_made_model_and_the_same_in_memory_give_the_same_tokens(self):
        body = {"prompt": list(range(100, 140)), "max_tokens": 8, "ignore_eos": True, "return_token_ids": True}
        with tempfile.TemporaryDirectory(prefix="convoy-") as folder:
            made = pathlib.Path(folder) / "made"
            make = [BINARY, "make-model", "--like", "r1-distill-qwen-1.5b", "--layers", "2", "--out", made]
            subprocess.run(make, check=True, timeout=120)
            again = subprocess.run(make, capture_output=True, text=True, timeout=120)
            self.assertEqual(again.returncode, 3)
            self.assertIn("not empty", again.stderr)
            answers = []
            for model in (made, "random:r1-distill-qwen-1.5b:2"):
                with Cluster(stages=2, model=model, stage={"threads": 2}, pipeline=self.SMALL) as cluster:
                    choice = cluster.completion(**body)[1]["choices"][0]
                    answers.append(choice["token_ids"])
                    if model == made:  # it has a tokenizer and a template
                        text = cluster.completion(prompt="ab", max_tokens=1)[1]
                        self.assertEqual(text["usage"]["prompt_tokens"], 2)
                        _, chat = cluster.post("/v1/chat/completions", {
                            "model": cluster.model_id(), "messages": [{"role": "user", "content": "ab"}],
                            "max_tokens": 1, "temperature": 0})
                        prompt = len("user: ab") + len(["end of text"]) + len("assistant: ")
                        self.assertEqual(chat["usage"]["prompt_tokens"], prompt)
            self.assertEqual(len(answers[0]), 8)
            self.assertEqual(answers[0], answers[1])

    def test_deepseek_v2_lite_takes_the_memory_that_inspect_predicts(self):
        model = "random:deepseek-v2-lite:4"
        with Cluster(stages=2, model=model, stage={"threads": 2}, pipeline=self.SMALL) as cluster:
            _, answer = cluster.completion(prompt=list(range(1000, 1060)), max_tokens=4, ignore_eos=True,
                                           return_token_ids=True)
            self.assertEqual(len(answer["choices"][0]["token_ids"]), 4)
            stages = cluster.status()["stages"]
            self.assertEqual([(s["first_layer"], s["last_layer"]) for s in stages], [(0, 2), (3, 3)])  # the head counts
            for s in stages:
                layers = f"{s['first_layer']}-{s['last_layer']}"
                rows = self.SMALL["prefill_tokens_per_step"] + self.SMALL["sequences_max"] + 1
                inspect = subprocess.run(
                    [BINARY, "inspect", model, "--stage", layers, "--kv-type", "f32", "--json",
                     "--kv-tokens", str(self.SMALL["kv_tokens"]), "--rows", str(rows), "--threads", "2",
                     "--context", str(self.SMALL["context_tokens_max"])],
                    check=True, capture_output=True, text=True, timeout=10)
                predicted = json.loads(inspect.stdout)["stage"]["resident_bytes"]
                measured = anonymous_bytes(s["pid"])
                print(f"stage {layers}: {measured} bytes measured, {predicted} predicted, "
                      f"{100 * (measured / predicted - 1):+.2f} %", flush=True)
                self.assertLess(abs(measured / predicted - 1), 0.05)


if __name__ == "__main__":
    unittest.main(verbosity=2)
