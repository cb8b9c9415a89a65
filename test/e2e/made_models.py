"""Writes checkpoints that say two given tokens and then a third one, whatever they are asked, so that a test knows what
an answer is and which token has to end it. Only the standard library.

Every token but those three stands for "say the first", the first for "say the second", the second for "say the end":
an embedding says so in numbers of its own, and the head listens to them.
"""
import json
import pathlib
import shutil
import struct

STATES = 3  # what was said last: anything else, the first token, the second


def states_of(said, vocab):
    """By token id: which state it leads to."""
    states = [0] * vocab
    states[said[0]], states[said[1]] = 1, 2
    return states


# ---- safetensors ----


def write_safetensors(path, tensors):
    """tensors: by name a type, a shape and its bytes."""
    header, offset = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in tensors.values():
            file.write(data)


def bf16(value):
    return struct.pack("<f", value)[2:]


class Shards:
    """The vectors and matrices at both ends of a copied checkpoint, bf16 or float32, changed number by number."""

    def __init__(self, folder):
        self.tensors = {}
        for path in folder.glob("model*.safetensors"):
            path.write_bytes(path.read_bytes())  # a copy may be a link
            with open(path, "rb") as file:
                length, = struct.unpack("<Q", file.read(8))
                for name, entry in json.loads(file.read(length)).items():
                    if name != "__metadata__":
                        self.tensors[name] = (path, 8 + length + entry["data_offsets"][0], entry)

    def vector(self, name):
        path, begin, entry = self.tensors[name]
        data = path.read_bytes()[begin:]
        count, = entry["shape"]
        if entry["dtype"] == "F32":
            return struct.unpack_from(f"<{count}f", data)
        assert entry["dtype"] == "BF16", entry
        return [struct.unpack("<f", b"\0\0" + data[2 * i:2 * i + 2])[0] for i in range(count)]

    def change(self, name, values):
        """values: by row and column."""
        path, begin, entry = self.tensors[name]
        number = {"BF16": bf16, "F32": lambda value: struct.pack("<f", value)}[entry["dtype"]]
        with open(path, "r+b") as file:
            for (row, column), value in values.items():
                file.seek(begin + len(number(0)) * (row * entry["shape"][1] + column))
                file.write(number(value))


def teach(folder, said):
    """Makes the checkpoint say these three tokens. All its layers stay and are computed; what they add is small beside
    what an embedding says now. In a tied matrix a row is both, so each step has to be louder than the one before."""
    config = json.loads((folder / "config.json").read_text())
    shards = Shards(folder)
    norm = shards.vector("model.norm.weight")
    columns = sorted(range(len(norm)), key=lambda i: -norm[i])[:STATES]
    loud, tied = 2.0**20, config["tie_word_embeddings"]
    states = states_of(said, config["vocab_size"])
    embedding = {(row, column): loud if state == at else 0.0
                 for row, state in enumerate(states) for at, column in enumerate(columns)}
    louder = (4, 32, 2048) if tied else (1, 1, 1)
    head = {(said[at], column): loud * louder[at] for at, column in enumerate(columns)}
    if tied:
        shards.change("model.embed_tokens.weight", embedding | head)
    else:
        shards.change("model.embed_tokens.weight", embedding)
        shards.change("lm_head.weight", head)


def write_small_llama(folder, vocab, said, eos):
    """One layer that adds nothing, so that a vocabulary of any size makes a small file."""
    hidden, heads = STATES * 32, 3
    rows = [(bf16(0) * 32 * state + bf16(1) * 32).ljust(2 * hidden, b"\0") for state in range(STATES)]
    embedding = [rows[state] for state in states_of(said, vocab)]
    head = [bytes(2 * hidden)] * vocab
    for at, token in enumerate(said):
        head[token] = rows[at]
    tensors = {"model.embed_tokens.weight": ("BF16", [vocab, hidden], b"".join(embedding)),
               "lm_head.weight": ("BF16", [vocab, hidden], b"".join(head)),
               "model.norm.weight": ("BF16", [hidden], bf16(1) * hidden)}
    layer = "model.layers.0."
    for name in "self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down":
        tensors[f"{layer}{name}_proj.weight"] = ("BF16", [hidden, hidden], bytes(2 * hidden * hidden))
    for name in "input_layernorm", "post_attention_layernorm":
        tensors[f"{layer}{name}.weight"] = ("BF16", [hidden], bf16(1) * hidden)
    write_safetensors(folder / "model.safetensors", tensors)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5,
              "vocab_size": vocab, "hidden_size": hidden, "intermediate_size": hidden, "num_hidden_layers": 1,
              "num_attention_heads": heads, "num_key_value_heads": heads, "max_position_embeddings": 2048,
              "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16"}
    if eos is not None:
        config["eos_token_id"] = eos
    (folder / "config.json").write_text(json.dumps(config))


# ---- GGUF ----

U32, F32, BOOL, STRING, ARRAY, I32, U16 = 4, 6, 7, 8, 9, 5, 2
HALF_ONE = struct.pack("<e", 1)
HALF_ZERO = bytes(2)

# By type: its number, how many values a block has, and a block whose values are positive and all the same. One of zeros
# has zero bytes, in every type.
GGUF_TYPES = {
    "f32": (0, 1, struct.pack("<f", 1)),
    "f16": (1, 1, HALF_ONE),
    "bf16": (30, 1, bf16(1)),
    "q4_0": (2, 32, HALF_ONE + b"\xff" * 16),
    "q4_1": (3, 32, HALF_ONE + HALF_ZERO + b"\xff" * 16),
    "q8_0": (8, 32, HALF_ONE + b"\x01" * 32),
    "iq4_nl": (20, 32, HALF_ONE + b"\xff" * 16),
    "q4_k": (12, 256, HALF_ONE + HALF_ZERO + b"\xff" * 12 + b"\xff" * 128),
    "q5_k": (13, 256, HALF_ONE + HALF_ZERO + b"\xff" * 12 + b"\xff" * 32 + b"\xff" * 128),
    "q6_k": (14, 256, b"\xff" * 128 + b"\xff" * 64 + b"\x01" * 16 + HALF_ONE),
}


def gguf_string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def gguf_value(value):
    """Python's value as a key's: lists are of strings, of floats or of int32."""
    if isinstance(value, bool):
        return struct.pack("<I?", BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", U32, value)
    if isinstance(value, float):
        return struct.pack("<If", F32, value)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + gguf_string(value)
    if value and isinstance(value[0], int):
        return struct.pack("<IIQ", ARRAY, I32, len(value)) + struct.pack(f"<{len(value)}i", *value)
    if value and isinstance(value[0], float):
        return struct.pack("<IIQ", ARRAY, F32, len(value)) + struct.pack(f"<{len(value)}f", *value)
    return struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(map(gguf_string, value))


def write_gguf(path, keys, tensors):
    """tensors: by name a type's number, dimensions (innermost first) and bytes. keys may be split.count's three, whose
    numbers are 16 and 32 bits wide."""
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for name, value in keys.items():
        header += gguf_string(name)
        if name in ("split.no", "split.count"):
            header += struct.pack("<IH", U16, value)
        elif name == "split.tensors.count":
            header += struct.pack("<Ii", I32, value)
        else:
            header += gguf_value(value)
    offset, data = 0, []
    for name, (number, dims, values) in tensors.items():
        header += gguf_string(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
        header += struct.pack("<IQ", number, offset)
        data.append(values + bytes(-len(values) % 32))
        offset += len(data[-1])
    path.write_bytes(header + bytes(-len(header) % 32) + b"".join(data))


def gguf_tensors(kind, vocab, said):
    """A llama of one layer, every matrix of this type."""
    number, block, ones = GGUF_TYPES[kind]
    unit = wide = 256  # of values that stand for one state
    hidden, zeros = STATES * unit, bytes(len(ones))

    def row(state, width=hidden):
        return b"".join(ones if at // unit == state else zeros for at in range(0, width, block))

    def matrix(columns, rows):
        return number, [columns, rows], row(None, columns) * rows

    rows = [row(state) for state in range(STATES)]
    head = [row(None)] * vocab
    for at, token in enumerate(said):
        head[token] = rows[at]
    norm = (0, [hidden], struct.pack("<f", 1) * hidden)
    embedding = b"".join(rows[state] for state in states_of(said, vocab))
    tensors = {"token_embd.weight": (number, [hidden, vocab], embedding)}
    for name in "attn_norm", "ffn_norm":
        tensors[f"blk.0.{name}.weight"] = norm
    for name in "attn_q", "attn_k", "attn_v", "attn_output":
        tensors[f"blk.0.{name}.weight"] = matrix(hidden, hidden)
    tensors[f"blk.0.ffn_gate.weight"] = tensors[f"blk.0.ffn_up.weight"] = matrix(hidden, wide)
    tensors[f"blk.0.ffn_down.weight"] = matrix(wide, hidden)
    return tensors | {"output_norm.weight": norm, "output.weight": (number, [hidden, vocab], b"".join(head))}


GGUF_KEYS = {
    "general.architecture": "llama", "llama.block_count": 1, "llama.context_length": 2048, "llama.embedding_length": 768,
    "llama.feed_forward_length": 256, "llama.attention.head_count": 6, "llama.attention.head_count_kv": 6,
    "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.freq_base": 10000.0,
}


def write_small_gguf(path, kind, tokenizer, vocab, said, parts=1):
    """tokenizer: its keys. With several parts, path names the first: NAME-00001-of-0000N.gguf."""
    tensors = gguf_tensors(kind, vocab, said)
    keys = GGUF_KEYS | {"llama.vocab_size": vocab} | tokenizer
    if parts == 1:
        write_gguf(path, keys, tensors)
        return
    names = list(tensors)
    share = -(-len(names) // parts)
    for part in range(parts):
        own = {"split.no": part, "split.count": parts, "split.tensors.count": len(names)}
        there = {name: tensors[name] for name in names[part * share:(part + 1) * share]}
        to = path.with_name(path.name.replace("-00001-of-", f"-{part + 1:05}-of-"))
        write_gguf(to, (keys if part == 0 else {}) | own, there)


def copied(source, folder):
    """A golden checkpoint without what is there to check it with."""
    to = pathlib.Path(folder) / source.name
    shutil.copytree(source, to, ignore=shutil.ignore_patterns("golden.safetensors", "*.convoy-digest"))
    return to
