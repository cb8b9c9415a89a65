"""Every golden checkpoint, every tensor type of a GGUF and every kind of tokenizer answers a chat and stops by itself.

Random weights never stop, so the models here are taught (made_models) to say two tokens and then the one that the case
calls the end. What is shown is not that a model wants to stop but that the token which a checkpoint's configuration,
tokenizer, template or metadata names is the one that ends its answer: where none of them does, the same model goes on.
"""
import json
import lzma
import pathlib
import shutil
import tempfile
import unittest

from cluster import MODEL, SOURCE, Cluster, run_convoy
from made_models import copied, teach, write_small_gguf, write_small_llama, GGUF_TYPES

GOLDEN = SOURCE / "test/golden/models"
TOKENIZERS = SOURCE / "test/golden/tokenizers"
SMALL = {"kv_tokens": 512, "context_tokens_max": 256, "sequences_max": 1}
TURNS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"  # in which no token ends a turn
CHATML = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
LLAMA3 = ("{% for m in messages %}{{ bos_token if loop.first }}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
          "{{ m.content | trim }}<|eot_id|>{% endfor %}"
          "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}")
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
LLAMA3_WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
                r"\s+(?!\S)|\s+")

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZĠĊ.,:?!'"  # 60: the smallest golden vocabulary has 64


def added(content, id):
    return {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            "special": True}


def small_json(control, pre_tokenizer=BYTE_LEVEL, ignore_merges=False):
    """A tokenizer.json: control tokens, then letters, each a token."""
    vocabulary = {letter: len(control) + at for at, letter in enumerate(LETTERS)}
    return {"version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [added(text, id) for id, text in enumerate(control)],
            "normalizer": None, "pre_tokenizer": pre_tokenizer, "post_processor": None, "decoder": BYTE_LEVEL,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                      "ignore_merges": ignore_merges, "vocab": vocabulary, "merges": []}}


def put_tokenizer(folder, document, **config):
    (folder / "tokenizer.json").write_text(json.dumps(document))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def golden_tokenizer(name):
    """Its tokenizer.json and tokenizer_config.json."""
    return (json.loads(lzma.decompress((TOKENIZERS / name / "tokenizer.json.xz").read_bytes())),
            json.loads((TOKENIZERS / name / "tokenizer_config.json").read_text()))


class Stop(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="convoy-"))
        self.addCleanup(shutil.rmtree, self.folder)

    def chat(self, model, stages=1, max_tokens=24, question="Is it so?"):
        """What the model says, and why it ends."""
        with Cluster(stages=stages, model=model, stage={"threads": 1}, pipeline=SMALL) as running:
            response, answer = running.post("/v1/chat/completions", {
                "model": running.model_id(), "messages": [{"role": "user", "content": question}],
                "max_tokens": max_tokens, "temperature": 0}, {"Cache-Control": "no-store"})
            self.assertEqual(response.status, 200, answer)
            choice, = answer["choices"]
            return choice["message"]["content"], choice["finish_reason"]

    def stops(self, model, text="Ok", **options):
        self.assertEqual(self.chat(model, **options), (text, "stop"))


class Checkpoints(Stop):
    """As published: config.json's own end is <|endoftext|>, and the one that the model says stands elsewhere."""

    TOKENS = ["<s>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    SAID = [len(TOKENS) + LETTERS.index("O"), len(TOKENS) + LETTERS.index("k"), TOKENS.index("<|im_end|>")]

    def made(self, name, **tokenizer_config):
        folder = copied(GOLDEN / name, self.folder)
        teach(folder, self.SAID)
        put_tokenizer(folder, small_json(self.TOKENS), **tokenizer_config)
        return folder

    def change_config(self, folder, name, **values):
        path = folder / name
        path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))

    def test_without_a_name_the_end_is_a_token_like_others(self):
        text, reason = self.chat(self.made("qwen3", chat_template=TURNS))
        self.assertEqual(reason, "length")
        self.assertTrue(text.startswith("Ok"), text)

    def test_the_configuration_names_it(self):
        folder = self.made("qwen3", chat_template=TURNS)
        self.change_config(folder, "config.json", eos_token_id=[1, self.SAID[2]])
        self.stops(folder)

    def test_the_generation_configuration_names_it(self):
        folder = self.made("qwen3", chat_template=TURNS)
        self.change_config(folder, "generation_config.json", eos_token_id=self.SAID[2])
        self.stops(folder)

    def test_the_tokenizer_names_it(self):
        self.stops(self.made("qwen3", chat_template=TURNS, eos_token="<|im_end|>"))


def golden_checkpoint_test(name):
    def test(self):
        self.stops(self.made(name, chat_template=CHATML), stages=2)
    return test


for golden in sorted(path.parent.name for path in GOLDEN.glob("*/config.json")):
    setattr(Checkpoints, f"test_{golden}_ends_as_its_template_ends_a_turn", golden_checkpoint_test(golden))


class Tokenizers(Stop):
    """From tokenizer.json, with the template that its publisher uses."""

    def made(self, document, said, eos, **config):
        vocab = max([*document["model"]["vocab"].values(), *(token["id"] for token in document["added_tokens"])]) + 1
        folder = self.folder / "made"
        folder.mkdir()
        ids = document["model"]["vocab"] | {token["content"]: token["id"] for token in document["added_tokens"]}
        write_small_llama(folder, vocab, [ids[token] for token in said], ids[eos] if eos else None)
        put_tokenizer(folder, document, **config)
        return folder

    def gguf_of(self, folder):
        gguf = self.folder / "made.gguf"
        run_convoy("quantize", "--model", folder, "--to", "q8_0", "--out", gguf, "--no-measurement", "--force")
        return gguf

    def test_deepseek(self):
        document, config = golden_tokenizer("deepseek_v3")
        folder = self.made(document, ["Yes", "Ġindeed", "<｜end▁of▁sentence｜>"], None, **config)
        self.stops(folder, "Yes indeed")
        self.stops(self.gguf_of(folder), "Yes indeed")

    def test_qwen3(self):
        document, config = golden_tokenizer("qwen3")
        folder = self.made(document, ["Yes", "Ġindeed", "<|im_end|>"], "<|endoftext|>", **config)
        self.stops(folder, "Yes indeed")
        self.stops(self.gguf_of(folder), "Yes indeed")

    def test_sentencepiece(self):
        document = json.loads((TOKENIZERS / "sentencepiece/tokenizer.json").read_text())
        folder = self.made(document, ["▁the", "▁of", "</s>"], None, eos_token="</s>", chat_template=TURNS)
        self.stops(folder, "the of")
        self.stops(self.gguf_of(folder), "the of")

    def test_one_like_llama_3s(self):
        control = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
        words = {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": LLAMA3_WORDS}, "behavior": "Isolated", "invert": False},
            BYTE_LEVEL | {"use_regex": False}]}
        document = small_json(control, words, ignore_merges=True)
        folder = self.made(document, ["O", "k", "<|eot_id|>"], "<|end_of_text|>", bos_token="<|begin_of_text|>",
                           eos_token="<|end_of_text|>", chat_template=LLAMA3)
        self.stops(folder)

    @unittest.skipUnless(MODEL.exists(), f"no {MODEL}")
    def test_smollm2_with_its_own_weights(self):
        text, reason = self.chat(MODEL, max_tokens=200, question="What is 2+2?")
        self.assertEqual(reason, "stop", text)
        self.assertTrue(text)


NORMAL, CONTROL = 1, 3
# By the name of its rules: the control tokens, those that keys name, and the end, which a reader has to know: by a key
# (of the end of a turn), by its text, or by the template.
BYTE_LEVEL_GGUFS = {
    "gpt-2": (["<|endoftext|>", "<halt>"], {"eos": 0, "eot": 1}, "<halt>", TURNS),
    "llama-bpe": (["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"], {"bos": 0, "eos": 1}, "<|eot_id|>", TURNS),
    "qwen2": (["<|endoftext|>", "<|im_start|>", "<|im_end|>"], {"eos": 0}, "<|im_end|>", CHATML),
    "smollm": (["<|endoftext|>", "<|im_start|>", "<stop>"], {"eos": 0}, "<stop>",
               CHATML.replace("<|im_end|>", "<stop>")),
    "deepseek-v3": (["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"], {"eos": 1}, "<｜end▁of▁sentence｜>",
                    TURNS),
    "deepseek-llm": (["<s>", "<｜end▁of▁sentence｜>"], {"eos": 0}, "<｜end▁of▁sentence｜>", TURNS),
}


def byte_level_gguf(pre):
    """The tokenizer's keys, and what the model says."""
    control, named, end, template = BYTE_LEVEL_GGUFS[pre]
    tokens = [*control, *LETTERS]
    keys = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [CONTROL] * len(control) + [NORMAL] * len(LETTERS),
            "tokenizer.ggml.merges": [], "tokenizer.chat_template": template}
    keys |= {f"tokenizer.ggml.{key}_token_id": id for key, id in named.items()}
    return keys, [tokens.index(token) for token in ("O", "k", end)], len(tokens)


def sentencepiece_gguf():
    vocabulary = json.loads((TOKENIZERS / "sentencepiece/cases.json").read_text())["gguf"]
    tokens = vocabulary["tokens"]
    keys = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default", "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": [float(score) for score in vocabulary["scores"]],
            "tokenizer.ggml.token_type": vocabulary["types"], "tokenizer.chat_template": TURNS,
            "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0}
    return keys, [tokens.index(token) for token in ("▁the", "▁of", "</s>")], len(tokens)


class Ggufs(Stop):
    def test_sentencepiece(self):
        keys, said, vocab = sentencepiece_gguf()
        path = self.folder / "made.gguf"
        write_small_gguf(path, "q8_0", keys, vocab, said)
        self.stops(path, "the of")

    def test_one_in_three_files(self):
        keys, said, vocab = byte_level_gguf("qwen2")
        path = self.folder / "made-00001-of-00003.gguf"
        write_small_gguf(path, "f16", keys, vocab, said, parts=3)
        self.stops(path)


def gguf_test(kind, pre):
    def test(self):
        keys, said, vocab = byte_level_gguf(pre)
        path = self.folder / "made.gguf"
        write_small_gguf(path, kind, keys, vocab, said)
        self.stops(path)
    return test


for at, kind in enumerate(GGUF_TYPES):
    pre = list(BYTE_LEVEL_GGUFS)[at % len(BYTE_LEVEL_GGUFS)]
    setattr(Ggufs, f"test_of_{kind}_with_the_tokenizer_of_{pre.replace('-', '_')}", gguf_test(kind, pre))


if __name__ == "__main__":
    unittest.main(verbosity=2)
