#!/usr/bin/env python3
"""Writes cases.json: the pre_tokenizer of published tokenizer.json files that a GGUF only names, and the words that the
Python package tokenizers (0.23) cuts texts into by it.

usage: generate.py      needs: pip install tokenizers==0.23.3
"""
import json
import random
from pathlib import Path

from tokenizers import Tokenizer, models

letters = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-Ֆ\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf"
    "\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b"
    "\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec"
    "\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134"
    "\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d"
    "\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a"
    "\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943"
)


def sequence(*expressions):
    steps = [{"type": "Split", "pattern": {"Regex": e}, "behavior": "Isolated", "invert": False} for e in expressions]
    steps.append({"type": "Digits", "individual_digits": True})
    steps.append({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False})
    return {"type": "Sequence", "pretokenizers": steps}


cjk = "[一-龥\u0800-一가-\ud7ff]+"
pre_tokenizers = {
    "deepseek-llm": sequence(
        "[\r\n]", f"\\s?[{letters}]+", "\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+", "\\s+$", cjk),
    "deepseek-coder": sequence("[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", cjk),
}

texts = [
    "", " ", "\n", "Hello, world!", " Hello World ", "Führer, Äpfel & naïve cafés – ÉCOLE", "don't 'll I'VE",
    "ied 4 ½ months, x² + y³ = ⅷ and Ⅷ", "3.14 1234567890 ٣٤٥ १२३ １２３", "1,000\n2,000\r\n\r\n3 000",
    "trailing blanks   \nnext\t \t\n  \n   ", "tabs\tand\u00a0no-break\u2003em\u3000ideographic", "  漢字  かな カタカナ。「引用」、全角！？",
    "你好，世界！今天是2024年5月1日。", "안녕하세요 세계! 한국어 문장입니다.", "Привет, мир! Ёлка нещо на Български",
    "Ἀρχὴ ὥρα ᾠδή Ωμέγα", "Ա Բ ա բ հայերեն", "ქართული Ⴀ Ა", "עברית العربية हिन्दी ไทย ខ្មែរ", "ßſƻǅʔª º", "𝐀𝒃 𐐀𐐨 𞤀𞤢 🅰",
    "🚀 (normal) 😶‍🌫️ (multiple emojis concatenated) ✅ 👩🏽‍💻", "if (a[i] != b->c) { return \"x\\n\"; } // 100%\n\t}",
    "https://example.org/a_b?c=d&e=%20#f", "<｜begin▁of▁sentence｜>text<|EOT|>", "a\u0301 e\u0300 combining, \u200bzero\u200dwidth\ufeff",
    "line\u2028separator\u0085next\x0bvertical\x0cform\x1cfile", "—–‒―‘’“”‚„‟…•", "$€£¥ ±×÷ ≤≥ ←→ ^`~|", "\x00\x7f\x80",
]
random.seed(20240507)
ranges = [(0x20, 0x7e), (0x20, 0x20), (0x9, 0xd), (0xa0, 0x24f), (0x370, 0x58f), (0x800, 0x1fff), (0x2000, 0x2fff),
          (0x3000, 0x30ff), (0x4e00, 0x9fff), (0xa640, 0xd7ff), (0xf900, 0xffff), (0x10000, 0x1f9ff)]
for _ in range(400):
    picked = random.sample(ranges, random.randint(1, 4))
    texts.append("".join(chr(random.randint(*random.choice(picked))) for _ in range(random.randint(1, 40))))

cases = {}
for name, pre_tokenizer in pre_tokenizers.items():
    document = json.loads(Tokenizer(models.BPE()).to_str())
    document["pre_tokenizer"] = pre_tokenizer
    cut = Tokenizer.from_str(json.dumps(document)).pre_tokenizer.pre_tokenize_str
    words = []
    for text in texts:
        spans = [span for _, span in cut(text)]
        # Offsets are characters'. Together the words are the text.
        assert "".join(text[a:b] for a, b in spans) == text
        words.append([text[a:b] for a, b in spans])
    cases[name] = {"pre_tokenizer": pre_tokenizer, "words": words}
with open(Path(__file__).with_name("cases.json"), "w") as out:
    json.dump(cases, out, indent=1)
    out.write("\n")
