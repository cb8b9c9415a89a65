#!/usr/bin/env python3
"""Writes tokenizer.json, a small vocabulary as sentencepiece (0.2.3) trains it, and cases.json: what Hugging Face
tokenizers (0.23) makes of texts with that vocabulary in the settings that published checkpoints have, and what
sentencepiece itself does, whose rule llama.cpp follows.

usage: generate.py      needs: pip install sentencepiece==0.2.3 tokenizers==0.23.3
"""
import copy
import io
import json
import random
from pathlib import Path

import sentencepiece
from tokenizers import Tokenizer

here = Path(__file__).parent
corpus = """The quick brown fox jumps over the lazy dog; it isn't tired of it, and 2 more wait behind the old stone wall.
A token is a piece of text. A sentence has many tokens, and a model reads them one after the other, from left to right.
Once upon a time there was a small village at the foot of the mountains, where everybody knew everybody else's name.
When the rain had stopped, the children ran out to the river and threw flat stones over the water until the evening.
Please write a short answer: what is the capital of France? The capital of France is Paris, which lies on the Seine.
def add(first, second):\n    return first + second\n\nfor i in range(10):\n    if i % 2 == 0:\n        print(i, end=", ")
int main() {\n  std::vector<int> values = {1, 2, 3};\n  for (const int value : values) std::cout << value << '\\n';\n}
Größere Häuser stehen über den Flüssen; die Straße führt weiter nach Süden, und niemand weiß, wo sie endet.
Le café est déjà fermé, mais l'hôtel près de la forêt reste ouvert jusqu'à minuit pour les voyageurs fatigués.
Быстрая коричневая лиса прыгает через ленивую собаку, а потом долго спит под старым деревом у самой реки.
今天天气很好，我们去公园散步。人工智能是计算机科学的一个分支。中国的首都是北京，那里有很多古老的建筑。
すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。東京は日本の首都です。
"""
special = [("<unk>", 0), ("<s>", 1), ("</s>", 2)]

texts = [
    " ", "  ", "\n", "\t", "▁", "a", " a", "a ", "  a", " ▁a", "▁ a", "▁▁", "Hello, world!", " Hello  World ", "the", " the", "The quick brown fox",
    "trailing blanks   ", "   leading blanks", "a\nb", "a \n b\n\n", "tabs\tand\r\nends", "don't 'll I'VE", "1234567890 3.14 1,000",
    "Größe über Straße", "café déjà vu", "Быстрая лиса", "今天天气很好。", "東京は日本", "漢字 neben text", "🚀", "a🚀b", "👩🏽‍💻 ✅", "\x00\x7f\x80",
    "a\u0301e\u0300", "\u200b\u200d\ufeff", "\U0010ffff", "ÀÁõÿ", "<s>", "</s>", "<s>a", "<s> a", "a<s>", "a <s> b", "<s></s>", "<s>▁a", "<unk>", "a<unk>b",
    "<0x0A>", "<0x41>b", "<s>[INST] Hello [/INST]", "[INST]a[/INST]  b", "<|im_end|>\n<|im_start|>user\nHi", "x <mask>  y", "<mask>", "  <mask>a",
    "foo bar", "a foo bar", "foo  bar", "xfoo bary", "<x>", "a <x>b", "<x><x>", "aaaaaaaaaaaaaaaaaaaaaaaaaaaa", "thethethethe the the",
    "if (a[i] != b->c) { return \"x\\n\"; } // 100%", "https://example.org/a_b?c=d&e=%20#f", "    for i in range(3):\n        print(i)",
]
random.seed(20240507)
words = corpus.split()
alphabet = sorted(set(corpus)) + list("▁ \n🚀é漢ß") * 3
for _ in range(60):
    texts.append("".join(random.choice(alphabet) for _ in range(random.randint(1, 30))))
for _ in range(60):
    parts = [random.choice(words)[: random.randint(1, 9)] for _ in range(random.randint(1, 8))]
    texts.append("".join(p + random.choice(["", " ", "  ", "<s>", "[INST]", "▁"]) for p in parts))


def train():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus.split("\n") * 3), model_writer=model, model_type="bpe", vocab_size=900, byte_fallback=True,
        character_coverage=0.995, normalization_rule_name="identity", remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True, split_digits=True, num_threads=1, minloglevel=2)
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def merges_of(vocabulary, scores):
    """Every way to cut a piece into two, best piece first, as transformers converts them."""
    merges = []
    for piece, id in vocabulary.items():
        cuts = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        cuts = [c for c in cuts if c[0] in vocabulary and c[1] in vocabulary]
        merges += [(scores[id], c) for c in sorted(cuts, key=lambda c: (vocabulary[c[0]], vocabulary[c[1]]))]
    return [list(c) for _, c in sorted(merges, key=lambda m: -m[0])]


processor = train()
size = processor.get_piece_size()
vocabulary = {processor.id_to_piece(i): i for i in range(size)}
scores = [processor.get_score(i) for i in range(size)]
kinds = [2 if processor.is_unknown(i) else 3 if processor.is_control(i) else 6 if processor.is_byte(i) else 1 for i in range(size)]


def added(content, id, **flags):
    token = {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return token | flags


more = [added("[INST]", size, special=False), added("[/INST]", size + 1, special=False), added("<|im_start|>", size + 2),
        added("<|im_end|>", size + 3), added("<mask>", size + 4, lstrip=True, rstrip=True)]
normalized = [added("<x>", size + 5, normalized=True), added("foo bar", size + 6, normalized=True, special=False)]
replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
prepend = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}
decoders = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
strips = {"type": "Sequence", "decoders": decoders + [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
keeps = {"type": "Sequence", "decoders": decoders}


def metaspace(scheme, split):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}


base = {
    "version": "1.0", "truncation": None, "padding": None,
    "added_tokens": [added(content, id) for content, id in special] + more,
    "normalizer": prepend, "pre_tokenizer": None, "post_processor": None, "decoder": strips,
    "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
              "fuse_unk": True, "byte_fallback": True, "ignore_merges": False, "vocab": vocabulary,
              "merges": merges_of({p: i for p, i in vocabulary.items() if kinds[i] == 1}, scores)},
}
# What differs from tokenizer.json.
settings = {
    "llama2": {},
    "mistral": {"normalizer": None, "pre_tokenizer": metaspace("first", False)},
    "split": {"normalizer": None, "pre_tokenizer": metaspace("always", True), "decoder": keeps},
    "unprefixed": {"normalizer": replace, "decoder": keeps},
    "unknown": {"normalizer": None, "pre_tokenizer": metaspace("never", True), "model": {"byte_fallback": False, "fuse_unk": False}},
    "fused": {"model": {"byte_fallback": False}},
    "normalized": {"added_tokens": base["added_tokens"] + normalized},
    "normalized_first": {"normalizer": None, "pre_tokenizer": metaspace("first", False), "added_tokens": base["added_tokens"] + normalized},
    "whole_words": {"normalizer": None, "pre_tokenizer": metaspace("always", True), "model": {"ignore_merges": True}},
}


def document_of(changes):
    document = copy.deepcopy(base)
    for key, value in changes.items():
        document[key] = document[key] | value if key == "model" else value
    return document


def cases_of(document, texts):
    """Ids, and the decoded text where it is another."""
    tokenizer = Tokenizer.from_str(json.dumps(document))
    cases = []
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        decoded = tokenizer.decode(ids, skip_special_tokens=False)
        cases.append([ids] if decoded == text else [ids, decoded])
    return cases


def line_by_line(value, depth):
    """JSON with one entry a line down to `depth`."""
    if depth == 0 or not isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        return "{" + ",\n".join(json.dumps(k) + ":" + line_by_line(v, depth - 1) for k, v in value.items()) + "}"
    return "[" + ",\n".join(line_by_line(v, depth - 1) for v in value) + "]"


if __name__ == "__main__":
    (here / "tokenizer.json").write_text(json.dumps(base, ensure_ascii=False, separators=(",", ":")) + "\n")
    plain = [t for t in texts if not any(s in t for s, _ in special)]
    gguf = {"tokens": [processor.id_to_piece(i) for i in range(size)], "scores": scores, "types": kinds,
            "texts": plain, "cases": [[processor.encode(t), processor.decode(processor.encode(t))] for t in plain]}
    result = {"texts": texts, "settings": {name: {"changes": changes, "cases": cases_of(document_of(changes), texts)}
                                           for name, changes in settings.items()}, "gguf": gguf}
    (here / "cases.json").write_text(line_by_line(result, 3) + "\n")
