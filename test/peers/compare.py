#!/usr/bin/env python3
"""Whether what `convoy quantize` writes means to others what it means to Convoy.

For each model and each type: quantize, let the peer (transformers for safetensors, llama.cpp for GGUF) compute logits
of the same token ids, and let `convoy verify` hold its own logits against them.

usage: compare.py CONVOY [--models NAME ...] [--types TYPE ...] [--work DIR]
       needs: pip install -r requirements.txt; a few hundred MB in --work
"""
import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

root = Path(__file__).resolve().parents[2]
golden = root / "test/golden/models"
default_model = root / "models/SmolLM2-135M-Instruct.Q4_1.gguf"
small = ["llama-gqa", "llama3-rope", "llama-bias", "llama-mlp-bias", "mistral", "qwen2-bias",
         "qwen3", "qwen3-yarn", "qwen3-moe", "qwen3-moe-mixed", "deepseek-v2-lite", "deepseek-v2", "deepseek-v2-ungrouped", "deepseek-v3"]
safetensors_types, gguf_types = ["bf16", "fp8-block", "int8"], ["q8_0", "q4_k"]

context, greedy_tokens = 512, 8
# Limits of the logits' relative error and of the KL divergence in nats, in the mean over all positions: one position
# may have a tie in a router, and take another expert. Where the peer computes in float32, as Convoy's reference
# kernels do, both have the same numbers and only the order of additions differs.
same_numbers = {"mean_rel": 1e-3, "mean_kl": 1e-6}
# llama.cpp rounds what it multiplies quantised weights with to 8 bits, as Convoy's fast kernels do. So these tell what
# to expect: the peer may be so many times as far from the reference kernels as the fast kernels are. For Q4_K it
# shares a scale between 256 values.
rounding_ratio, rounding_floor = 3.0, 1e-4


class Skipped(Exception):
    """There is nothing to compare with; says why."""


def run(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode not in (0, 1):  # 1: verify found a difference
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout


def byte_tokenizer(vocab):
    """A tokenizer.json of at most 256 tokens: llama.cpp wants a tokenizer in the file, and the package gguf merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - {"À"})  # no UTF-8 has À's byte
    letters = ["a", "b"] + [letter for letter in letters if letter not in "ab"]
    tokens = letters[: vocab - 1] + ["ab"]
    tokenizer = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(tokens)}, merges=[("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer.to_str()


def source_of(name, work):
    """The checkpoint to quantize, and the prompts to compare over."""
    if name == "smollm2":
        if not default_model.exists():
            raise Skipped("the default model is not there: run scripts/fetch-model")
        return default_model, prompts_of(golden / name)
    source = work / name
    if not source.exists():
        shutil.copytree(golden / name.removesuffix("-ungrouped"), source)
        vocab = json.loads((source / "config.json").read_text())["vocab_size"]
        (source / "tokenizer.json").write_text(byte_tokenizer(vocab))
        if name == "deepseek-v2-lite":
            lengthen(source, 27)
        if name == "deepseek-v2-ungrouped":
            config = json.loads((source / "config.json").read_text())
            config.update(topk_method="greedy", n_group=1, topk_group=1)
            (source / "config.json").write_text(json.dumps(config))
    return source, prompts_of(source)


def prompts_of(folder):
    stored = load_file(folder / "golden.safetensors")
    prompts = [value for key, value in sorted(stored.items()) if key.startswith("prompt_")]
    return [prompt for prompt in prompts if len(prompt) + greedy_tokens <= context]


def lengthen(source, layers):
    """Repeats the last layer: llama.cpp knows by V2-Lite's 27 layers that there is no q_lora."""
    from safetensors.torch import load_file as load, save_file as save

    config = json.loads((source / "config.json").read_text())
    weights = load(source / "model.safetensors")
    last = f"model.layers.{config['num_hidden_layers'] - 1}."
    for n in range(config["num_hidden_layers"], layers):
        for key in [k for k in weights if k.startswith(last)]:
            weights[key.replace(last, f"model.layers.{n}.")] = weights[key].clone()
    save(weights, source / "model.safetensors", metadata={"format": "pt"})
    config["num_hidden_layers"] = layers
    (source / "config.json").write_text(json.dumps(config))


class Transformers:
    """float32 on the processor, over the weights widened once."""

    def __init__(self, path):
        import torch
        import transformers

        warnings.filterwarnings("ignore", category=UserWarning, module="transformers")
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.torch = torch
        config = json.loads((path / "config.json").read_text())
        method = config.get("quantization_config", {}).get("quant_method")
        options = {}
        if method == "fp8":
            refuse_partial_blocks(path)
            options["quantization_config"] = transformers.FineGrainedFP8Config(dequantize=True)
        elif method and ("n_routed_experts" in config or "num_experts" in config):
            path = widen_int8(path, config)
        elif method:
            options["quantization_config"] = transformers.CompressedTensorsConfig(dequantize=True)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            path, config=self.config_of(path), dtype=torch.float32, attn_implementation="eager",
            **options).to(torch.float32).eval()

    def config_of(self, path):
        """transformers does not read attn_factor, but takes the whole that cos and sin are multiplied by."""
        import transformers

        config = transformers.AutoConfig.from_pretrained(path)
        scaling = json.loads((path / "config.json").read_text()).get("rope_scaling") or {}
        if "attn_factor" in scaling:
            config.rope_parameters["attention_factor"] = scaling["attn_factor"] * (0.1 * math.log(scaling["factor"]) + 1)
        return config

    def logits(self, tokens):
        with self.torch.no_grad():
            return self.model(self.torch.tensor([list(map(int, tokens))])).logits[0].numpy()


def refuse_partial_blocks(path):
    """transformers takes a block's size from how many scales there are, so each must stand for as many values."""
    from safetensors import safe_open

    for file in path.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            for key in weights.keys():
                if not key.endswith("weight_scale_inv"):
                    continue
                shape = weights.get_slice(key.removesuffix("_scale_inv")).get_shape()
                if any(side % scales for side, scales in zip(shape, weights.get_slice(key).get_shape())):
                    raise Skipped(f"transformers widens no FP8 in blocks that are not whole: {key} of {shape}")


def widen_int8(path, config):
    """The same checkpoint in float32, by compressed-tensors: transformers does not read experts in int8 itself."""
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig
    from safetensors.torch import load_file as load, save_file as save

    quantization = QuantizationConfig(**config.pop("quantization_config"))
    scheme = quantization.config_groups["group_0"]
    decompress = BaseCompressor.get_value_from_registry(quantization.format).decompress
    stored = {key: value for file in sorted(path.glob("*.safetensors")) for key, value in load(file).items()}
    wide = {}
    for key, value in stored.items():
        if key.endswith("_scale"):
            continue
        if key + "_scale" in stored:
            value = decompress({"weight": value, "weight_scale": stored[key + "_scale"].float()}, scheme)["weight"]
        wide[key] = value.to(torch.float32)
    out = path.with_name(path.name + "-f32")
    out.mkdir(exist_ok=True)
    save(wide, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config))
    return out


class LlamaCpp:
    """One sequence, its keys and values kept in float32."""

    def __init__(self, path):
        import llama_cpp

        self.llm = llama_cpp.Llama(
            str(path), n_ctx=context, n_batch=context, n_ubatch=context, logits_all=True, type_k=0, type_v=0,
            flash_attn=False, n_gpu_layers=0, verbose=False)

    def logits(self, tokens):
        self.llm.reset()
        self.llm.eval(list(map(int, tokens)))
        return self.llm.scores[: len(tokens)].copy()


def widen_gguf(source, out):
    """The same file with each tensor decoded to float32 by the package gguf."""
    import gguf
    from gguf.quants import dequantize

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, reader.get_field("general.architecture").contents())
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        writer.add_key_value(key, field.contents(), kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, np.ascontiguousarray(values, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_golden(peer, prompts, out):
    stored = {}
    for i, prompt in enumerate(prompts):
        logits = peer.logits(prompt)
        stored[f"prompt_{i}"] = prompt
        stored[f"logits_{i}"] = np.ascontiguousarray(logits, dtype=np.float32)
        greedy = [int(logits[-1].argmax())]
        while len(greedy) < greedy_tokens:
            greedy.append(int(peer.logits([*prompt, *greedy])[-1].argmax()))
        stored[f"greedy_{i}"] = np.array(greedy, dtype=np.int64)
    save_file(stored, out)


def verify(convoy, checkpoint, reference, backend):
    """Over the positions of all prompts; and how many greedy tokens were neither the same nor as good."""
    lines = run(convoy, "verify", "--model", checkpoint, "--golden", reference, "--backend", backend, "--json")
    found = json.loads(lines.splitlines()[-1])
    return {**{key: found[key] for key in ("mean_rel", "mean_kl", "max_rel")},
            "greedy_lost": found["greedy_total"] - found["greedy_equal"] - found["greedy_excused"]}


def within(found, limits):
    return found["greedy_lost"] == 0 and all(found[key] <= limit for key, limit in limits.items())


class Report:
    def __init__(self):
        self.failed = 0

    def line(self, model, kind, peer, found, ok):
        self.failed += not ok
        print(f"{model:24} {kind:10} {peer:28} max rel {found['max_rel']:.1e}  mean rel {found['mean_rel']:.1e}  "
              f"mean KL {found['mean_kl']:.1e}  {'ok' if ok else 'FAILED'}", flush=True)


def compare_safetensors(convoy, name, kind, out, prompts, report):
    reference = out.with_suffix(".golden.safetensors")
    write_golden(Transformers(out), prompts, reference)
    found = verify(convoy, out, reference, "cpu-reference")
    report.line(name, kind, "transformers", found, within(found, same_numbers))


def compare_gguf(convoy, name, kind, out, prompts, report):
    if name == "deepseek-v2":
        raise Skipped("llama.cpp ranks V2's groups by their two best experts, as V3 does; V2 itself by the best one")
    reference = out.with_suffix(".golden.safetensors")
    wide = out.with_suffix(".f32.gguf")
    widen_gguf(out, wide)
    write_golden(LlamaCpp(wide), prompts, reference)
    wide.unlink()
    found = verify(convoy, out, reference, "cpu-reference")
    report.line(name, kind, "llama.cpp, as float32", found, within(found, same_numbers))
    fast = verify(convoy, out, reference, "cpu")
    write_golden(LlamaCpp(out), prompts, reference)
    found = verify(convoy, out, reference, "cpu-reference")
    ok = all(found[key] <= rounding_ratio * fast[key] + rounding_floor for key in ("mean_rel", "mean_kl"))
    report.line(name, kind, "llama.cpp", found, ok)
    report.line(name, kind, "(Convoy's fast kernels)", fast, True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("convoy", type=Path)
    parser.add_argument("--models", nargs="+", default=[*small, "smollm2"])
    parser.add_argument("--types", nargs="+", default=[*safetensors_types, *gguf_types])
    parser.add_argument("--work", type=Path, help="kept; default: a folder that is removed")
    args = parser.parse_args()
    convoy = args.convoy.resolve()
    report = Report()
    with tempfile.TemporaryDirectory() as scratch:
        work = args.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        for name in args.models:
            try:
                source, prompts = source_of(name, work)
            except Skipped as why:
                print(f"{name:24} not compared: {why}")
                continue
            for kind in args.types:
                if kind in gguf_types and name == "qwen3-moe-mixed":
                    print(f"{name:24} {kind:10} not compared: a GGUF has no dense layers among those with experts")
                    continue
                out = work / f"{name}.{kind}{'.gguf' if kind in gguf_types else ''}"
                if not out.exists():
                    run(convoy, "quantize", "--model", source, "--to", kind, "--out", out, "--no-measurement")
                try:
                    (compare_gguf if kind in gguf_types else compare_safetensors)(
                        convoy, name, kind, out, prompts, report)
                except Skipped as why:
                    print(f"{name:24} {kind:10} not compared: {why}")
                if not args.work:
                    shutil.rmtree(out) if out.is_dir() else out.unlink()
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
