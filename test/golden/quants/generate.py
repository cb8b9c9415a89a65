#!/usr/bin/env python3
"""Writes blocks.gguf: random blocks of every quantised type, and the values that the reference decoder of the
Python package gguf (0.19) gives for them.

usage: generate.py      needs: pip install gguf==0.19.0
"""
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quant_shape_to_byte_shape

# Where the half-precision numbers of a block lie.
halves = {
    Type.Q8_0: [0], Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.IQ4_NL: [0],
    Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208],
}
# Zeros of both signs, the smallest and largest subnormal and normal numbers.
extremes = [0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF]
rows = 4

random = np.random.default_rng(20240607)
writer = gguf.GGUFWriter(Path(__file__).with_name("blocks.gguf"), "none")
for kind, places in halves.items():
    values, size = gguf.GGML_QUANT_SIZES[kind]
    columns = 2 * values
    blocks = random.integers(0, 256, (rows * columns // values, size), dtype=np.uint8)
    for place in places:
        scales = random.normal(0, 0.1, len(blocks)).astype(np.float16).view(np.uint16)
        extreme = random.permutation(len(blocks))[: len(extremes)]
        scales[extreme] = extremes[: len(extreme)]
        blocks[:, place : place + 2] = scales.view(np.uint8).reshape(-1, 2)
    blocks = blocks.reshape(quant_shape_to_byte_shape((rows, columns), kind))
    decoded = dequantize(blocks, kind)
    assert decoded.shape == (rows, columns) and np.isfinite(decoded).all()
    writer.add_tensor(f"{kind.name}.blocks", blocks, raw_dtype=kind)
    writer.add_tensor(f"{kind.name}.values", decoded.astype(np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
