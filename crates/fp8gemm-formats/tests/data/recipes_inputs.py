"""Inputs and output format of the recorded recipe vectors; tests/recipes_vectors.rs computes the
same inputs."""

import ast
from typing import Optional, Tuple, Union

import numpy as np
import torch


def random_words(count, seed):
    """The upper halves of Knuth's 64-bit linear congruential generator."""
    words = np.empty(count, dtype=np.uint32)
    state = seed
    for i in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        words[i] = state >> 32
    return words


def uniform(rows, columns, seed):
    """24-bit numbers in [-4, 4)."""
    words = random_words(rows * columns, seed).astype(np.int64)
    values = ((words >> 8) - 2**23).astype(np.float64) * 2.0**-21
    return values.astype(np.float32).reshape(rows, columns)


def bfloat(values):
    """The same with the lower half of the bits cleared."""
    return (values.view(np.uint32) & 0xFFFF0000).view(np.float32)


def wide(columns, specials):
    """Rows of every magnitude; with specials also rows of zeros, NaN, infinities, subnormals."""
    rows = 8 if specials else 4
    words = random_words(rows * columns, 7).reshape(rows, columns)
    bits = np.empty_like(words)
    for row in range(rows):
        for column in range(columns):
            word = int(words[row, column])
            base = (row * 67 + (column // 32) * 41) % 255
            exponent = max(base - ((word >> 23) & 15), 0)
            value = (word & 0x807FFFFF) | (exponent << 23)
            if row == 4:
                value = word & 0x80000000
            elif row == 5 and column % 64 == 7:
                value = 0x7FC00000
            elif row == 6 and column in (70, 130):
                value = 0x7F800000 if column == 70 else 0xFF800000
            elif row == 7:
                value = word & 0x80000FFF
            bits[row, column] = value
    return bits.view(np.float32)


def tensors(device):
    """Every input as a torch tensor."""
    inputs = {
        "f32": uniform(5, 300, 1),
        "bf16": bfloat(uniform(5, 300, 2)),
        "square": bfloat(uniform(130, 140, 3)),
        "column": uniform(256, 5, 4),
        "mx": uniform(4, 256, 5),
        "wide": wide(256, True),
        "finite": wide(256, False),
    }
    return {name: torch.from_numpy(value).to(device) for name, value in inputs.items()}


def functions(path, names, namespace):
    """Runs the named top-level functions of a file in a copy of the namespace."""
    tree = ast.parse(open(path).read())
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    assert len(found) == len(names), f"{path}: {names}"
    namespace = dict(namespace, torch=torch, Tuple=Tuple, Optional=Optional, Union=Union)
    exec(compile(ast.Module(found, []), path, "exec"), namespace)
    return [namespace[name] for name in names]


def emit(name, source, x, scales, codes, file=None):
    """One case: name, input, rows, columns, scales as f32 bits, codes."""
    ty = name.split(":")[2]
    codes = codes.contiguous().view(torch.uint8).cpu().numpy().reshape(-1).copy()
    nan = (codes & 0x7F) == 0x7F if ty == "e4m3" else (codes & 0x7F) > 0x7C
    codes[nan] = 0x7F
    scales = scales.to(torch.float32).contiguous().cpu().numpy().reshape(-1).copy()
    bits = scales.view(np.uint32)
    bits[np.isnan(scales)] = 0x7FFFFFFF
    words = ",".join(f"{bit:08x}" for bit in bits)
    print(name, source, x.shape[0], x.shape[1], words, bytes(codes).hex(), file=file)
