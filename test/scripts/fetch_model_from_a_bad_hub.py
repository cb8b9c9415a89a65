"""scripts/fetch-model ORG/NAME against hubs that lie, list what cannot be, or refuse.
usage: fetch_model_from_a_bad_hub.py REPOSITORY"""
import json
import sys
import time
import unittest

from fake_hub import MODEL
from fetching import FILES, MIB, OFFER, ONE, REPOSITORY, TOKEN, TWO, FetchModel

sys.path.insert(0, str(REPOSITORY / "scripts/hub"))
import client  # noqa: E402  for what needs no process


class ALie(FetchModel):
    def lies(self, name, trick, words):
        self.hub.tricks[name] = trick
        self.assertIn(name, self.fails(words))
        self.assert_gone(name)

    def test_a_wrong_digest_of_a_large_file(self):
        spoilt = FILES[ONE][:-1] + bytes([FILES[ONE][-1] ^ 1])
        self.lies(ONE, lambda handler, _, bounds: handler.send(spoilt, bounds), "its sha256 is")

    def test_a_wrong_digest_of_a_small_file(self):
        self.lies("tokenizer_config.json", lambda handler, *_: handler.send(b"[]", None), "its git-sha1 is")

    def test_a_longer_file(self):
        self.lies("config.json", lambda handler, data, _: handler.send(data + b"x", None), "29 bytes, but sends 30")

    def test_a_shorter_file(self):
        self.lies("config.json", lambda handler, data, _: handler.send(data[:-1], None), "29 bytes, but sends 28")

    def test_a_longer_file_of_no_announced_length(self):
        def endless(handler, data, _):
            handler.head(200)
            handler.wfile.write(data + b"x")

        self.lies("config.json", endless, "more came than the hub announced")

    def test_a_longer_file_in_ranges(self):
        self.lies(ONE, lambda handler, data, bounds: handler.send(data + b"x", bounds), "but sends 4194428")

    def test_a_shorter_file_in_ranges(self):
        self.lies(ONE, lambda handler, *_: handler.head(416), "shorter than the 4194427 bytes")

    def test_a_range_of_another_length(self):
        def more(handler, data, bounds):
            handler.head(206, {"Content-Range": f"bytes {bounds[0]}-{bounds[1] - 1}/{len(data)}",
                               "Content-Length": bounds[1] - bounds[0] + 1})
            handler.wfile.write(data[bounds[0] : bounds[1] + 1])

        self.lies(TWO, more, "announced 1048576 bytes, but sends 1048577")

    def test_another_range_than_asked_for_is_no_data(self):
        self.hub.tricks[TWO] = lambda handler, data, bounds: handler.send(data, (bounds[0] + 1, bounds[1]))
        self.fails("other bytes than those asked for, 6 times in a row")
        self.assertFalse((self.folder / TWO).exists())


class AListThatIsNotBelieved(FetchModel):
    def refuses(self, words):
        self.fails(words)
        self.assertEqual(self.hub.files_asked_for(), set())
        self.assertEqual({p.name for p in self.root.iterdir()} - {"models", "scripts"}, set())
        self.assertEqual(list(self.models.rglob("*.part")), [])

    def is_not_read(self, words):
        with self.assertRaises(client.Failure) as refusal:
            client.read_listing(json.dumps(self.hub.listing()), MODEL)
        self.assertIn(words, str(refusal.exception))

    def test_names_that_lead_out_of_the_folder(self):
        good = {"size": 1, "lfs": {"sha256": "0" * 64, "size": 1}}
        for name in ("../../x.safetensors", "/etc/x.safetensors", "..", "a/../../x.safetensors", "a\\x.safetensors",
                     "a\n.safetensors", "", "a//x.safetensors"):
            with self.subTest(name=name):
                self.hub.more_siblings = [good | {"rfilename": name}]
                self.is_not_read("which leads out of its folder")
        self.hub.more_siblings = [good | {"rfilename": "../../x.safetensors"}]
        self.refuses("a file named '../../x.safetensors', which leads out of its folder")

    def test_names_in_folders_are_left_alone(self):
        self.hub.files["deep/er/config.json"] = b"{}"
        self.fetches()
        self.assert_whole()

    def test_sizes_and_digests_that_cannot_be(self):
        for words, fields in {
            "gives it a size of -1,": {"size": -1},
            "gives it a size of 1" + "0" * 20: {"size": 10**20},
            "gives it a size of True": {"size": True},
            "gives it two sizes, 2097152 and 5": {"lfs": {"sha256": "0" * 64, "size": 5}},
            "no digest to check it with": {"lfs": {"sha256": "../" * 21 + "x", "size": 2 * MIB}},
            "is not as it should be": {"lfs": [1]},
            "lists a file twice": {"rfilename": ONE},
        }.items():
            with self.subTest(words):
                self.hub.changed[TWO] = fields
                self.is_not_read(words)

    def test_more_than_the_disk_holds(self):
        size = 4 << 40
        many = [{"rfilename": f"m-{i}.safetensors", "size": size, "lfs": {"sha256": "0" * 64}} for i in range(400)]
        self.hub.more_siblings = many
        self.refuses("make room")

    def test_no_weights_that_convoy_reads(self):
        for name in (ONE, TWO):
            del self.hub.files[name]
        self.refuses(f"no *.safetensors in its top folder; {OFFER}")
        self.hub.files = {"model.safetensors": b""}
        self.refuses("no config.json")

    def test_what_is_no_list(self):
        self.hub.listing = lambda: ["nothing"]
        self.refuses("is not as it should be")


class ARefusal(FetchModel):
    def test_says_how_to_mend_it(self):
        for words, refusal, environment in (
            ("accept the model's terms at", (401,), {}),
            (f"set HF_TOKEN to a token of yours from {self.hub.endpoint}/settings/tokens", (403,), {}),
            ("does not take your token (401); set HF_TOKEN to a new one", (401,), {"HF_TOKEN": TOKEN}),
            ("your token may not read it (403); accept the model's terms", (403,), {"HF_TOKEN": TOKEN}),
            ("no such model or revision at", (404,), {}),
            ("asks to wait 4000 s; run this again after that", (429, {"Retry-After": 4000}), {}),
            ("redirects to what is no safe address", (302, {"Location": "file:///etc/passwd"}), {}),
            ("the hub answers 418", (418,), {}),
        ):
            with self.subTest(words):
                self.hub.refusals = [refusal]
                self.fails(words, **environment)
                self.assertFalse(self.folder.exists())

    def test_waits_as_long_as_it_is_asked_to(self):
        self.hub.refusals = [(429, {"Retry-After": 1})]
        started = time.monotonic()
        self.assertIn("the hub answers 429; waiting 1 s as asked", self.fetches())
        self.assertGreaterEqual(time.monotonic() - started, 1)
        self.assert_whole()

    def test_a_file_refused_for_a_while(self):
        left = [(429, {"Retry-After": 0}), (503,), (403,), (500,)]
        self.hub.tricks[ONE] = lambda handler, data, bounds: (
            handler.head(*left.pop()) if left else handler.send(data, bounds))
        self.fetches()
        self.assert_whole()

    def test_a_hub_that_stays_broken(self):
        self.hub.refusals = [(503,)] * 6
        self.fails("the hub answers 503, 6 times in a row")
        self.hub.refusals = [(302, {"Location": f"/api/models/{MODEL}/revision/main"})] * 6
        self.fails("redirects more than 5 times")

    def test_a_hub_that_is_not_there(self):
        self.fails("127.0.0.1:1 cannot be reached (Connection refused)", HF_ENDPOINT="http://127.0.0.1:1")
        self.fails("give one as https://huggingface.co", HF_ENDPOINT="huggingface.co")

    def test_arguments_that_cannot_be(self):
        self.fails("not a model's name on the hub", "maker/tiny@../x", code=2)
        for gguf in ("x.bin", "../x.gguf", "a/../x.gguf", "/x.gguf", "a/b/x.gguf", ".gguf"):
            self.fails("not the name of a GGUF file", MODEL, gguf, code=2)
        self.fails("give a number from 1 to 64", MODEL, "--connections=0", code=2)
        self.assertEqual(self.hub.requests, [])


if __name__ == "__main__":
    unittest.main()
