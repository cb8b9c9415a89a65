#!/usr/bin/env python3
"""A GGUF of `convoy quantize` as the Python package gguf reads it: keys, names, shapes, and every weight against the
safetensors it was made of. scripts/test installs the package into .venv, which is used if it is there; skipped
without it."""
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

VENV_PYTHON = pathlib.Path(os.environ.get("CONVOY_SOURCE_DIR", ".")).resolve() / ".venv/bin/python"
if VENV_PYTHON.exists() and pathlib.Path(sys.executable).parent != VENV_PYTHON.parent:
    os.execv(VENV_PYTHON, [str(VENV_PYTHON), *sys.argv])

try:
    import numpy as np
    from gguf import GGUFReader
    from gguf.quants import dequantize
except ImportError:
    sys.exit(77)

MODELS = pathlib.Path(os.environ["CONVOY_SOURCE_DIR"]) / "test/golden/models"


def safetensors(directory):
    """Every tensor of a checkpoint as float32."""
    tensors = {}
    for path in directory.glob("model*.safetensors"):
        data = path.read_bytes()
        (length,) = struct.unpack_from("<Q", data)
        for name, entry in json.loads(data[8:8 + length]).items():
            if name == "__metadata__":
                continue
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            if entry["dtype"] == "F32":
                values = np.frombuffer(data[begin:end], np.float32)
            else:
                assert entry["dtype"] == "BF16", entry
                values = (np.frombuffer(data[begin:end], np.uint16).astype(np.uint32) << 16).view(np.float32)
            tensors[name] = values.reshape(entry["shape"])
    return tensors


def quantize(model, target, folder):
    out = pathlib.Path(folder) / f"{model}.{target}.gguf"
    subprocess.run([os.environ["CONVOY_BINARY"], "quantize", "--model", MODELS / model, "--to", target, "--out", out,
                    "--no-measurement"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return GGUFReader(out)


def error(expected, tensor):
    found = dequantize(tensor.data, tensor.tensor_type).reshape(expected.shape)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


BOUNDS = {"F32": 0.0, "F16": 1e-3, "Q8_0": 0.01, "Q4_K": 0.1}


def check_tensors(reader, expected):
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    kinds = set()
    for name, values in expected.items():
        kind = found[name].tensor_type.name
        kinds.add(kind)
        assert list(found[name].shape) == list(reversed(values.shape)), name
        assert error(values, found[name]) <= BOUNDS[kind], (name, kind, error(values, found[name]))
    return kinds


def paired(weight, heads):
    """Rows of a head so that the pairs that rotate together are neighbours."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def check_llama(folder):
    config = json.loads((MODELS / "llama-gqa/config.json").read_text())
    source = safetensors(MODELS / "llama-gqa")
    expected = {"token_embd.weight": source["model.embed_tokens.weight"], "output.weight": source["lm_head.weight"],
                "output_norm.weight": source["model.norm.weight"]}
    names = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
             "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
             "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    for n in range(config["num_hidden_layers"]):
        for name, theirs in names.items():
            expected[f"blk.{n}.{name}.weight"] = source[f"model.layers.{n}.{theirs}.weight"]
        for name, heads in ("attn_q", "num_attention_heads"), ("attn_k", "num_key_value_heads"):
            key = f"blk.{n}.{name}.weight"
            expected[key] = paired(expected[key], config[heads])
    reader = quantize("llama-gqa", "q8_0", folder)
    assert check_tensors(reader, expected) == {"F32", "Q8_0"}
    assert reader.fields["general.architecture"].contents() == "llama"
    assert reader.fields["llama.block_count"].contents() == config["num_hidden_layers"]
    assert reader.fields["general.file_type"].contents() == 7


def check_deepseek(folder):
    config = json.loads((MODELS / "deepseek-v3/config.json").read_text())
    source = safetensors(MODELS / "deepseek-v3")
    heads, nope, value = config["num_attention_heads"], config["qk_nope_head_dim"], config["v_head_dim"]
    expected = {"token_embd.weight": source["model.embed_tokens.weight"], "output.weight": source["lm_head.weight"],
                "output_norm.weight": source["model.norm.weight"]}
    names = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
             "attn_q_a": "self_attn.q_a_proj", "attn_q_a_norm": "self_attn.q_a_layernorm",
             "attn_q_b": "self_attn.q_b_proj", "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
             "attn_kv_a_norm": "self_attn.kv_a_layernorm", "attn_output": "self_attn.o_proj",
             "ffn_gate_inp": "mlp.gate"}
    for part in "gate", "up", "down":
        names[f"ffn_{part}"] = f"mlp.{part}_proj"
        names[f"ffn_{part}_shexp"] = f"mlp.shared_experts.{part}_proj"
    for n in range(config["num_hidden_layers"]):
        begin = f"model.layers.{n}."
        for name, theirs in names.items():
            if f"{begin}{theirs}.weight" in source:
                expected[f"blk.{n}.{name}.weight"] = source[f"{begin}{theirs}.weight"]
        kv_b = source[begin + "self_attn.kv_b_proj.weight"].reshape(heads, nope + value, -1)
        expected[f"blk.{n}.attn_k_b.weight"] = kv_b[:, :nope].swapaxes(1, 2)
        expected[f"blk.{n}.attn_v_b.weight"] = kv_b[:, nope:]
        if n < config["first_k_dense_replace"]:
            continue
        expected[f"blk.{n}.exp_probs_b.bias"] = source[begin + "mlp.gate.e_score_correction_bias"]
        for part in "gate", "up", "down":
            expected[f"blk.{n}.ffn_{part}_exps.weight"] = np.stack(
                [source[f"{begin}mlp.experts.{e}.{part}_proj.weight"] for e in range(config["n_routed_experts"])])
    reader = quantize("deepseek-v3", "q4_k", folder)
    assert check_tensors(reader, expected) == {"F32", "Q8_0", "Q4_K"}
    say = lambda key: reader.fields["deepseek2." + key].contents()
    assert say("attention.head_count_kv") == 1
    assert say("attention.key_length") == config["kv_lora_rank"] + config["qk_rope_head_dim"]
    assert say("attention.key_length_mla") == nope + config["qk_rope_head_dim"]
    assert say("expert_gating_func") == 2 and say("expert_weights_norm") is True
    assert say("expert_group_count") == config["n_group"]
    assert abs(say("rope.scaling.yarn_log_multiplier") - 0.1) < 1e-7


with tempfile.TemporaryDirectory() as folder:
    check_llama(folder)
    check_deepseek(folder)
