#!/usr/bin/env python3
"""Writes checkpoints of random weights, and what Hugging Face's transformers compute with them, into models/NAME:

config.json, model.safetensors   as the family's publisher lays them out, weights in bf16
golden.safetensors               prompt_<i>  int64 [n]: token ids, n = 1, 19, 200, 700
                                 logits_<i>  float32 [rows, vocab]: of the last rows positions (all, of the longest 1)
                                 greedy_<i>  int64 [24 or 8]: the greedy continuation

The reference computes in float32 with eager attention and rounds nothing in between.

usage: make.py [NAME…]      needs: pip install torch==2.6.0 transformers==5.24.0
"""
import json
import math
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

prompts = {1: 1, 19: 19, 200: 200, 700: 1}  # tokens: positions whose logits are kept

common = {
    "hidden_act": "silu", "rms_norm_eps": 1e-06, "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16",
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 2048, "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
smaller = common | {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1,
}
checkpoints = {
    # Biases on all four projections of attention, as models converted to llama have them.
    "llama-bias": smaller | {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": True, "mlp_bias": False,
        "rms_norm_eps": 1e-05,
    },
    # And on the MLP's too, as IBM's Granite Code models.
    "llama-mlp-bias": smaller | {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": True, "mlp_bias": True,
        "rms_norm_eps": 1e-05,
    },
    "mistral": smaller | {
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": None, "rms_norm_eps": 1e-05,
        "rope_theta": 1000000.0,
    },
    # Heads that are normalised, and together wider than the hidden size.
    "qwen3": common | {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False,
        "rope_theta": 1000000, "rope_scaling": None, "sliding_window": None, "use_sliding_window": False,
        "max_window_layers": 2,
    },
    # The context stretched, and cos and sin scaled on their own, as in DeepSeek-R1-0528-Qwen3-8B.
    "qwen3-yarn": smaller | {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False,
        "rope_theta": 1000000.0, "sliding_window": None, "use_sliding_window": False, "max_window_layers": 2,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512,
                         "attn_factor": 0.9},
    },
    # Experts in every layer, none for all tokens.
    "qwen3-moe": smaller | {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "attention_bias": False,
        "rope_theta": 1000000.0, "rope_scaling": None, "sliding_window": None, "use_sliding_window": False,
        "max_window_layers": 2, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
        "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
    },
}
# Experts in the second of four layers alone, their weights as they come.
checkpoints["qwen3-moe-mixed"] = checkpoints["qwen3-moe"] | {
    "num_hidden_layers": 4, "norm_topk_prob": False, "decoder_sparse_step": 2, "mlp_only_layers": [3],
}


def fill(model, random):
    """Every part shows in the logits: norms differ from 1, biases from 0, and attention looks at some tokens more."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            values = torch.randn(weight.shape, generator=random)
            if name.endswith("norm.weight"):
                values = 1 + 0.3 * values
            elif name.endswith(".bias"):
                values = 0.3 * values
            else:
                values = values / weight.shape[-1] ** 0.5
            weight.copy_(values)


def reference(directory, description):
    """transformers doesn't know attn_factor, but takes the whole that cos and sin are multiplied by."""
    config = AutoConfig.from_pretrained(directory)
    scaling = description.get("rope_scaling")
    if scaling and "attn_factor" in scaling:
        config.rope_parameters["attention_factor"] = scaling["attn_factor"] * (0.1 * math.log(scaling["factor"]) + 1)
    return AutoModelForCausalLM.from_pretrained(directory, config=config, dtype=torch.float32,
                                                attn_implementation="eager").eval()


def greedy(model, prompt, count):
    ids = prompt
    for _ in range(count):
        logits = model(input_ids=ids[None], use_cache=False).logits[0, -1]
        ids = torch.cat([ids, logits.argmax()[None]])
    return ids[len(prompt):].clone()


def make(name, description):
    directory = Path(__file__).parent / "models" / name
    directory.mkdir(exist_ok=True)
    config = json.dumps(description, indent=2) + "\n"
    (directory / "config.json").write_text(config)
    random = torch.Generator().manual_seed(20240607)
    drawn = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory), dtype=torch.float32)
    fill(drawn, random)
    drawn.bfloat16().save_pretrained(directory)
    (directory / "config.json").write_text(config)  # the publisher's fields, not those of one release
    (directory / "generation_config.json").unlink(missing_ok=True)

    model = reference(directory, description)
    golden = {}
    with torch.no_grad():
        for i, (tokens, rows) in enumerate(prompts.items()):
            prompt = torch.randint(2, description["vocab_size"], (tokens,), generator=random)
            logits = model(input_ids=prompt[None], use_cache=False).logits[0, -rows:]
            golden |= {f"prompt_{i}": prompt, f"logits_{i}": logits.contiguous(),
                       f"greedy_{i}": greedy(model, prompt, 8 if tokens == 700 else 24)}
    save_file(golden, directory / "golden.safetensors")


torch.set_num_threads(1)
for wanted in sys.argv[1:] or checkpoints:
    make(wanted, checkpoints[wanted])
