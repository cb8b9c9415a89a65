"""Clusters of DeepSeek's family: latent attention and experts through real stages, token ids in and out."""
import json
import struct
import unittest

from cluster import SOURCE, Cluster

GOLDEN = SOURCE / "test/golden/models/deepseek-v3"


def golden_tokens(name):
    """A list of int64 from the golden file."""
    data = (GOLDEN / "golden.safetensors").read_bytes()
    header_bytes, = struct.unpack_from("<Q", data)
    entry = json.loads(data[8:8 + header_bytes])[name]
    assert entry["dtype"] == "I64", entry
    begin, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
    return [value for value, in struct.iter_unpack("<q", data[begin:end])]


class GoldenModel(unittest.TestCase):
    def test_two_stages_of_deepseek_v3_give_the_reference_tokens(self):
        prompt, expected = golden_tokens("prompt_1"), golden_tokens("greedy_1")
        self.assertEqual(len(expected), 24)
        with Cluster(stages=2, model=GOLDEN, stage={"kernels": "reference", "threads": 2},
                     pipeline={"kv_tokens": 4096}) as cluster:
            stages = cluster.status()["stages"]
            self.assertEqual([(s["first_layer"], s["last_layer"]) for s in stages], [(0, 1), (2, 2)])
            _, answer = cluster.completion(prompt=prompt, max_tokens=24, ignore_eos=True, return_token_ids=True)
            self.assertEqual(answer["choices"][0]["token_ids"], expected)
            self.assertEqual(answer["usage"], {"prompt_tokens": len(prompt), "completion_tokens": 24,
                                               "total_tokens": len(prompt) + 24})


if __name__ == "__main__":
    unittest.main(verbosity=2)
